"""The shipped collector-config.yaml in the real collector: what goes in comes out at Jaeger and at Langfuse's path."""

from __future__ import annotations

import base64
import os
import subprocess
import time
from collections.abc import Callable

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from tests.components.build import COLLECTOR
from tests.conftest import binary_of
from tests.real import COLLECTOR_CONFIG, Collector, Jaeger, LangfuseServer, free_port, wait_for

pytestmark = pytest.mark.components

LANGFUSE = "[otlp_http/langfuse]"
BOTH = "[otlp_grpc/jaeger, otlp_http/langfuse]"


def spans_of(trace_id: bytes, count: int = 1) -> ExportTraceServiceRequest:
    start = time.time_ns()
    spans = [
        Span(
            trace_id=trace_id,
            span_id=(number + 1).to_bytes(8, "big"),
            name=f"span {number}",
            start_time_unix_nano=start,
            end_time_unix_nano=start + 1_000_000,
        )
        for number in range(count)
    ]
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])])


def post(collector: Collector, request: ExportTraceServiceRequest) -> None:
    headers = {"Content-Type": "application/x-protobuf"}
    url = f"{collector.otlp_http_endpoint}/v1/traces"
    httpx.post(url, content=request.SerializeToString(), headers=headers).raise_for_status()


@pytest.mark.parametrize("exporters", [None, LANGFUSE, BOTH, "[debug]"])
def test_every_choice_of_backends_is_a_valid_configuration(exporters: str | None) -> None:
    chosen = {"OTEL_VOICE_COLLECTOR_EXPORTERS": exporters} if exporters else {}
    command = [str(binary_of(COLLECTOR)), "validate", "--config", str(COLLECTOR_CONFIG)]
    answer = subprocess.run(command, env={"PATH": os.environ["PATH"], **chosen}, capture_output=True, text=True)
    assert (answer.returncode, answer.stdout) == (0, ""), answer.stderr


def test_a_backend_that_does_not_exist_is_refused() -> None:
    env = {"PATH": os.environ["PATH"], "OTEL_VOICE_COLLECTOR_EXPORTERS": "[zipkin]"}
    command = [str(binary_of(COLLECTOR)), "validate", "--config", str(COLLECTOR_CONFIG)]
    answer = subprocess.run(command, env=env, capture_output=True, text=True)
    assert answer.returncode != 0
    assert "zipkin" in answer.stderr


def test_every_queue_is_on_disk_and_written_through_and_no_batch_is_given_up() -> None:
    text = COLLECTOR_CONFIG.read_text()
    exporters = text[text.index("\nexporters:") : text.index("\nextensions:")]
    queues = exporters.count("sending_queue:")
    assert queues == 2
    assert exporters.count("storage: file_storage\n") == exporters.count("max_elapsed_time: 0s\n") == queues
    assert "    fsync: true\n" in text[text.index("\n  file_storage:") :]


def test_jaeger_is_on_by_default_and_shows_the_trace(collector: Callable[..., Collector], jaeger: Jaeger) -> None:
    trace_id = os.urandom(16)
    post(collector(OTEL_VOICE_JAEGER_ENDPOINT=jaeger.otlp_grpc_endpoint), spans_of(trace_id, 3))

    spans = wait_for(lambda: jaeger.trace(trace_id.hex()), what="the trace in Jaeger")
    assert sorted(span.name for span in spans) == ["span 0", "span 1", "span 2"]
    assert {span.duration_us for span in spans} == {1000}


def test_langfuse_gets_its_path_its_key_pair_its_version_header_and_gzip(
    collector: Callable[..., Collector], langfuse_server: LangfuseServer
) -> None:
    post(collector(OTEL_VOICE_COLLECTOR_EXPORTERS=LANGFUSE, **langfuse_server.env), spans_of(os.urandom(16), 2))

    wait_for(lambda: langfuse_server.requests, what="a request at Langfuse's path")
    (request,) = langfuse_server.requests
    assert request.path == "/api/public/otel/v1/traces"
    assert base64.b64decode(request.authorization.removeprefix("Basic ")) == b"pk-lf-test:sk-lf-test"
    assert request.ingestion_version == "4"
    assert request.content_encoding == "gzip"
    assert [span.name for span in request.spans] == ["span 0", "span 1"]


def test_both_backends_get_every_span(
    collector: Callable[..., Collector], jaeger: Jaeger, langfuse_server: LangfuseServer
) -> None:
    trace_id = os.urandom(16)
    backends = {"OTEL_VOICE_JAEGER_ENDPOINT": jaeger.otlp_grpc_endpoint, **langfuse_server.env}
    post(collector(OTEL_VOICE_COLLECTOR_EXPORTERS=BOTH, **backends), spans_of(trace_id))

    assert wait_for(lambda: jaeger.trace(trace_id.hex()), what="the trace in Jaeger")
    assert wait_for(lambda: langfuse_server.spans, what="the span at Langfuse")[0].trace_id == trace_id


def test_langfuse_answering_503_is_asked_again(
    collector: Callable[..., Collector], langfuse_server: LangfuseServer
) -> None:
    langfuse_server.answer_next(503)
    post(collector(OTEL_VOICE_COLLECTOR_EXPORTERS=LANGFUSE, **langfuse_server.env), spans_of(os.urandom(16)))

    wait_for(lambda: langfuse_server.spans, 30, "the second attempt")
    assert [request.status for request in langfuse_server.requests] == [503, 200]


def test_a_killed_collector_delivers_after_its_restart_what_it_took_while_jaeger_was_down(
    collector: Callable[..., Collector], jaeger: Jaeger
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    first = collector(OTEL_VOICE_JAEGER_ENDPOINT=nobody)
    traces = [os.urandom(16) for _ in range(20)]
    for trace_id in traces:
        post(first, spans_of(trace_id, 50))
    first.kill()

    collector(OTEL_VOICE_JAEGER_ENDPOINT=jaeger.otlp_grpc_endpoint)
    wait_for(lambda: all(len(jaeger.trace(each.hex()) or []) == 50 for each in traces), 30, "every span of every trace")
