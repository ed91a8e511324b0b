"""The shipped collector-config.yaml in the real collector: what goes in comes out at Jaeger and at Langfuse's path."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from tests.components.build import COLLECTOR
from tests.conftest import binary_of
from tests.real import COLLECTOR_CONFIG, Collector, Jaeger, LangfuseServer, free_port, wait_for

pytestmark = pytest.mark.components

LANGFUSE = "[otlp_http/langfuse]"
BOTH = "[otlp_grpc/jaeger, otlp_http/langfuse]"


def spans_of(trace_id: bytes, count: int = 1, text: str = "") -> ExportTraceServiceRequest:
    start = time.time_ns()
    spans = [
        Span(
            trace_id=trace_id,
            span_id=(number + 1).to_bytes(8, "big"),
            name=f"span {number}",
            start_time_unix_nano=start,
            end_time_unix_nano=start + 1_000_000,
            attributes=[KeyValue(key="text", value=AnyValue(string_value=text))] if text else [],
        )
        for number in range(count)
    ]
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])])


def post(collector: Collector, request: ExportTraceServiceRequest) -> None:
    headers = {"Content-Type": "application/x-protobuf"}
    url = f"{collector.otlp_http_endpoint}/v1/traces"
    httpx.post(url, content=request.SerializeToString(), headers=headers).raise_for_status()


def numbers(of: str) -> dict[str, float]:
    """The collector's own metrics at this address, as `name exporter` (or receiver) and a number."""
    lines = [line for line in httpx.get(of).raise_for_status().text.splitlines() if not line.startswith("#")]
    found = [re.fullmatch(r'(\w+)(?:{.*?(?:exporter|receiver)="([^"]+)".*}|{.*})? (\S+)', line) for line in lines]
    return {" ".join(filter(None, each.groups()[:2])): float(each[3]) for each in found if each}


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


def test_with_neither_backend_spans_are_taken_and_shown(collector: Callable[..., Collector]) -> None:
    neither = collector(OTEL_VOICE_COLLECTOR_EXPORTERS="[debug]")
    post(neither, spans_of(os.urandom(16), 3))
    wait_for(
        lambda: numbers(neither.metrics_url).get("otelcol_exporter_sent_spans debug") == 3, what="three spans shown"
    )


def test_a_second_file_says_better_than_the_variable_which_backends_are_on(tmp_path: Path) -> None:
    second = tmp_path / "second.yaml"
    second.write_text(f"service: {{pipelines: {{traces: {{exporters: {LANGFUSE}}}}}}}")
    command = [str(binary_of(COLLECTOR)), "validate", "--config", str(COLLECTOR_CONFIG), "--config", str(second)]
    env = {"PATH": os.environ["PATH"], "OTEL_VOICE_COLLECTOR_EXPORTERS": "[zipkin]"}
    answer = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (answer.returncode, answer.stdout) == (0, ""), answer.stderr


# What is too much for one message


def test_a_batch_far_over_what_grpc_takes_arrives_whole(collector: Callable[..., Collector], jaeger: Jaeger) -> None:
    trace_id = os.urandom(16)
    large = spans_of(trace_id, 100, text="x" * 2**17)
    assert large.ByteSize() > 3 * 4 * 2**20
    post(collector(OTEL_VOICE_JAEGER_ENDPOINT=jaeger.otlp_grpc_endpoint), large)
    wait_for(lambda: len(jaeger.trace(trace_id.hex()) or []) == 100, what="every span of the batch in Jaeger")


def test_a_span_that_grpc_just_takes_arrives_and_so_do_those_behind_it(
    collector: Callable[..., Collector], jaeger: Jaeger
) -> None:
    trace_id = os.urandom(16)
    request = spans_of(trace_id, 3)
    large = KeyValue(key="text", value=AnyValue(string_value="x" * 4_100_000))
    request.resource_spans[0].scope_spans[0].spans[1].attributes.append(large)
    post(collector(OTEL_VOICE_JAEGER_ENDPOINT=jaeger.otlp_grpc_endpoint), request)
    wait_for(lambda: len(jaeger.trace(trace_id.hex()) or []) == 3, what="three spans in Jaeger")


# What it says of itself


def test_its_metrics_tell_what_it_took_and_sent_and_what_waits_for_whom(
    collector: Callable[..., Collector], langfuse_server: LangfuseServer
) -> None:
    nobody = {"OTEL_VOICE_JAEGER_ENDPOINT": f"127.0.0.1:{free_port()}"}
    told = collector(OTEL_VOICE_COLLECTOR_EXPORTERS=BOTH, **nobody, **langfuse_server.env)
    post(told, spans_of(os.urandom(16), 7))
    expected = {
        "otelcol_receiver_accepted_spans otlp": 7,
        "otelcol_receiver_refused_spans otlp": 0,
        "otelcol_exporter_sent_spans otlp_http/langfuse": 7,
        "otelcol_exporter_queue_size otlp_http/langfuse": 0,
        "otelcol_exporter_queue_size otlp_grpc/jaeger": 7,
        "otelcol_exporter_queue_capacity otlp_grpc/jaeger": 5_000_000,
    }
    wait_for(lambda: numbers(told.metrics_url).items() >= expected.items(), what=str(expected), note=told.log)


def test_its_metrics_tell_what_a_backend_refused_for_good(
    collector: Callable[..., Collector], langfuse_server: LangfuseServer
) -> None:
    langfuse_server.answer_next(500)
    told = collector(OTEL_VOICE_COLLECTOR_EXPORTERS=LANGFUSE, **langfuse_server.env)
    post(told, spans_of(os.urandom(16), 4))
    failed = "otelcol_exporter_send_failed_spans otlp_http/langfuse"
    wait_for(lambda: numbers(told.metrics_url).get(failed) == 4, what="four spans that failed")
    assert not langfuse_server.spans


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a second loopback address by itself")
def test_its_metrics_are_where_it_is_told(collector: Callable[..., Collector]) -> None:
    elsewhere = collector(OTEL_VOICE_COLLECTOR_EXPORTERS="[debug]", OTEL_VOICE_COLLECTOR_METRICS_HOST="127.0.0.2")
    assert numbers(elsewhere.metrics_url.replace("127.0.0.1", "127.0.0.2"))
    with pytest.raises(httpx.ConnectError):
        httpx.get(elsewhere.metrics_url)


# Kills


def test_a_killed_collector_delivers_after_its_restart_what_it_took_while_its_backends_were_down(
    collector: Callable[..., Collector], jaeger: Jaeger, langfuse_server: LangfuseServer
) -> None:
    nobody = {"OTEL_VOICE_JAEGER_ENDPOINT": f"127.0.0.1:{free_port()}"}
    langfuse_server.down()
    first = collector(OTEL_VOICE_COLLECTOR_EXPORTERS=BOTH, **nobody, **langfuse_server.env)
    traces = [os.urandom(16) for _ in range(20)]
    for trace_id in traces:
        post(first, spans_of(trace_id, 50))
    first.kill()

    langfuse_server.up()
    there = {"OTEL_VOICE_JAEGER_ENDPOINT": jaeger.otlp_grpc_endpoint}
    collector(OTEL_VOICE_COLLECTOR_EXPORTERS=BOTH, **there, **langfuse_server.env)
    wait_for(lambda: all(len(jaeger.trace(each.hex()) or []) == 50 for each in traces), 30, "every span of every trace")
    sent = {(trace_id, (number + 1).to_bytes(8, "big")) for trace_id in traces for number in range(50)}
    wait_for(lambda: {(span.trace_id, span.span_id) for span in langfuse_server.spans} == sent, 30, "all at Langfuse")
