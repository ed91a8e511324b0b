"""DurableSpanProcessor on a real TracerProvider: a span that has ended is on disk, and is sent until it is taken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import Link, Status, StatusCode, Tracer, set_span_in_context

from otel_voice.processor import UNSAVED_BYTES, DurableSpanProcessor
from otel_voice.settings import BadSetting
from otel_voice.store import Locked, Reader
from tests.real import COLLECTOR_CONFIG, LangfuseServer, Reply, free_port, wait_for
from tests.running import without

ROOT = COLLECTOR_CONFIG.parent
PATH = "/v1/traces"


class Process:
    """What a process has: a provider whose spans go through a durable processor."""

    def __init__(self, processor: DurableSpanProcessor) -> None:
        self.processor = processor
        self.provider = TracerProvider(resource=Resource({"service.name": "booking"}), shutdown_on_exit=False)
        self.provider.add_span_processor(processor)
        self.tracer: Tracer = self.provider.get_tracer("test", "1")

    def spans(self, *names: str) -> None:
        for name in names:
            with self.tracer.start_as_current_span(name):
                pass


@pytest.fixture
def backend(langfuse_server: LangfuseServer) -> LangfuseServer:
    """Takes everything at the usual path."""
    langfuse_server.standing = Reply(200)
    return langfuse_server


Started = Callable[..., Process]


@pytest.fixture
def process(tmp_path: Path, backend: LangfuseServer) -> Iterator[Started]:
    """`process()` sends to the backend, `process(endpoint)` elsewhere; always from the same directory."""
    started: list[DurableSpanProcessor] = []

    def start(endpoint: str | None = None) -> Process:
        started.append(DurableSpanProcessor(tmp_path / "spans", endpoint or backend.base_url))
        return Process(started[-1])

    yield start
    for processor in started:
        processor.shutdown()


@pytest.fixture
def nobody() -> str:
    return f"http://127.0.0.1:{free_port()}"


def names(backend: LangfuseServer) -> list[str]:
    return [span.name for span in backend.spans]


def test_spans_go_to_the_endpoint_as_the_stock_encoder_writes_them(process: Started, backend: LangfuseServer) -> None:
    seen: list[ReadableSpan] = []

    class Seeing(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            seen.append(span)

    app = process()
    app.provider.add_span_processor(Seeing())
    parent = app.tracer.start_span("parent", attributes={"n": 1, "list": ["a", "b"]})
    child = app.tracer.start_span("child", set_span_in_context(parent), links=[Link(parent.get_span_context())])
    child.add_event("thing", {"x": True})
    child.set_status(Status(StatusCode.ERROR, "no"))
    child.end()
    parent.end()
    assert app.processor.force_flush(10_000)
    assert {request.path for request in backend.requests} == {PATH}
    sent = b"".join(request.body for request in backend.requests)
    assert sent == b"".join(encode_spans([span]).SerializeToString() for span in seen)


def test_the_endpoint_may_come_from_the_environment(
    tmp_path: Path, backend: LangfuseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.base_url)
    app = Process(DurableSpanProcessor(tmp_path / "spans", headers={"Authorization": "Bearer key"}))
    app.spans("one")
    assert app.processor.force_flush(10_000)
    app.processor.shutdown()
    assert backend.requests[0].authorization == "Bearer key"


@pytest.mark.parametrize("endpoint", ["localhost:4318", "ftp://x", "http://user:word@host"])
def test_a_bad_endpoint_is_said_in_one_sentence(tmp_path: Path, endpoint: str) -> None:
    with pytest.raises(BadSetting, match="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT must"):
        DurableSpanProcessor(tmp_path / "spans", endpoint)
    assert not (tmp_path / "spans").exists()


def test_a_span_that_is_not_sampled_is_not_kept(process: Started, backend: LangfuseServer) -> None:
    app = process()
    unsampled = TracerProvider(ALWAYS_OFF, shutdown_on_exit=False)
    unsampled.add_span_processor(app.processor)
    unsampled.get_tracer("test").start_span("unsampled").end()
    assert app.processor.ledger.made == 0


# Truth


def test_force_flush_is_true_only_when_the_next_hop_has_taken_every_span(
    process: Started, backend: LangfuseServer
) -> None:
    app = process()
    backend.standing = Reply(503)
    app.spans("one", "two")
    assert not app.processor.force_flush(300)
    backend.standing = Reply(200)
    assert app.processor.force_flush(10_000)
    assert names(backend) == ["one", "two"]


def test_force_flush_is_false_when_a_span_was_refused_and_true_again_for_the_next_ones(
    process: Started, backend: LangfuseServer
) -> None:
    backend.standing = Reply(400)
    app = process()
    app.spans("bad")
    assert not app.processor.force_flush(10_000)
    assert (app.processor.ledger.dead, app.processor.ledger.pending) == (1, 0)
    backend.standing = Reply(200)
    app.spans("good")
    assert app.processor.force_flush(10_000)


def test_force_flush_does_not_wait_for_a_better_time(process: Started, backend: LangfuseServer) -> None:
    app = process()
    backend.standing = Reply(503, headers={"Retry-After": "300"})
    app.spans("one")
    wait_for(lambda: backend.requests, 10, "an attempt")
    backend.standing = Reply(200)
    assert app.processor.force_flush(10_000)


def test_spans_of_many_threads_all_arrive(process: Started, backend: LangfuseServer) -> None:
    app = process()
    threads = [threading.Thread(target=app.spans, args=[f"{n}.{m}" for m in range(50)]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert app.processor.force_flush(20_000)
    assert sorted(names(backend)) == sorted(f"{n}.{m}" for n in range(8) for m in range(50))


# Over an end


def test_what_was_not_taken_before_the_end_goes_out_of_the_next_process(
    process: Started, backend: LangfuseServer, nobody: str
) -> None:
    first = process(nobody)
    first.spans("one", "two")
    first.processor.shutdown()
    assert not first.processor.force_flush(100)
    second = process()
    assert second.processor.force_flush(10_000)
    assert names(backend) == ["one", "two"]


def test_shutdown_sends_what_is_pending(process: Started, backend: LangfuseServer) -> None:
    app = process()
    app.spans(*map(str, range(100)))
    app.processor.shutdown()
    assert names(backend) == list(map(str, range(100)))


def test_a_span_that_ends_after_the_shutdown_is_said_to_be_lost(
    process: Started, caplog: pytest.LogCaptureFixture
) -> None:
    app = process()
    app.processor.shutdown()
    app.processor.shutdown()
    app.spans("late")
    assert "span lost: it ended after the shutdown" in caplog.text


SCRIPT = """
import os, signal, sys
from opentelemetry.sdk.trace import TracerProvider
from otel_voice.processor import DurableSpanProcessor

provider = TracerProvider()
provider.add_span_processor(DurableSpanProcessor(sys.argv[1], sys.argv[2]))
tracer = provider.get_tracer("test")
for n in range(int(sys.argv[3])):
    with tracer.start_as_current_span(f"span {n}"):
        pass
    print(f"span {n}", flush=True)
"""


def script(text: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", text, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_every_span_that_ended_before_a_kill_goes_out_of_the_next_process(
    process: Started, backend: LangfuseServer, tmp_path: Path, nobody: str
) -> None:
    with script(SCRIPT, tmp_path / "spans", nobody, 10_000) as killed:
        assert killed.stdout is not None
        said = [killed.stdout.readline().strip() for _ in range(100)]
        killed.send_signal(signal.SIGKILL)
        said += killed.stdout.read().split("\n")[:-1]
        assert killed.stderr is not None
        killed.stderr.read()
    assert process().processor.force_flush(20_000)
    assert names(backend)[: len(said)] == said
    assert len(names(backend)) <= len(said) + 1


def test_a_process_that_just_ends_sends_its_spans_first(backend: LangfuseServer, tmp_path: Path) -> None:
    with script(SCRIPT, tmp_path / "spans", backend.base_url.replace("127.0.0.1", "localhost"), 20) as ending:
        _, err = ending.communicate(timeout=30)
    assert (ending.returncode, err) == (0, "")
    assert len(names(backend)) == 20


LATE = """
import sys, threading
from opentelemetry.sdk.trace import TracerProvider
from otel_voice.processor import DurableSpanProcessor

provider = TracerProvider()
provider.add_span_processor(DurableSpanProcessor(sys.argv[1], sys.argv[2]))

def late():
    threading.main_thread().join()
    for n in range(20):
        provider.get_tracer("test").start_span(f"late {n}").end()

threading.Thread(target=late).start()
"""


def test_spans_that_end_after_the_main_thread_are_sent_too(backend: LangfuseServer, tmp_path: Path) -> None:
    with script(LATE, tmp_path / "spans", backend.base_url.replace("127.0.0.1", "localhost")) as ending:
        _, err = ending.communicate(timeout=30)
    assert (ending.returncode, err) == (0, "")
    assert len(names(backend)) == 20


def test_a_header_that_cannot_be_sent_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="HEADERS must hold printable ASCII"):
        DurableSpanProcessor(tmp_path / "spans", "http://127.0.0.1:1", {"x-tenant": "Z\u00fcrich"})


def test_without_an_endpoint_nothing_is_delivered_and_force_flush_says_so_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    app = Process(DurableSpanProcessor(tmp_path / "spans"))
    app.spans("one")
    began = time.monotonic()
    assert not app.processor.force_flush()
    assert time.monotonic() - began < 10
    app.processor.shutdown()


FORKED = """
import os, sys
from opentelemetry.sdk.trace import TracerProvider
from otel_voice.processor import DurableSpanProcessor

provider = TracerProvider(shutdown_on_exit=False)
processor = DurableSpanProcessor(sys.argv[1], sys.argv[2])
provider.add_span_processor(processor)
tracer = provider.get_tracer("test")
if (child := os.fork()) == 0:
    tracer.start_span("child").end()
    assert not processor.force_flush()
    processor.shutdown()
    os._exit(0)
os.waitpid(child, 0)
tracer.start_span("parent").end()
assert processor.force_flush(10_000)
"""


def test_a_fork_loses_its_own_spans_loudly_and_none_of_its_parents(backend: LangfuseServer, tmp_path: Path) -> None:
    with script(FORKED, tmp_path / "spans", backend.base_url) as parent:
        _, err = parent.communicate(timeout=30)
    assert parent.returncode == 0, err
    assert "the process was forked after its DurableSpanProcessor was made" in err
    assert names(backend) == ["parent"]


def test_a_directory_that_another_process_works_on_is_refused_in_one_sentence(process: Started, tmp_path: Path) -> None:
    process()
    with script(SCRIPT, tmp_path / "spans", "http://127.0.0.1:1", 1) as second:
        _, err = second.communicate(timeout=30)
    assert second.returncode != 0
    assert "another otel-voice works on" in err.splitlines()[-1]
    with pytest.raises(Locked):
        process()


# A store that cannot write


def test_spans_that_could_not_be_stored_wait_in_memory_and_arrive(
    process: Started, backend: LangfuseServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = process()
    with without(tmp_path / "spans", "outbox"):
        app.spans("one", "two")
        assert not app.processor.force_flush(200)
        assert "the store cannot take spans" in caplog.text
    app.spans("three")
    assert app.processor.force_flush(10_000)
    assert names(backend) == ["one", "two", "three"]


def test_spans_that_could_not_be_stored_are_tried_again_though_no_other_comes(
    process: Started, backend: LangfuseServer, tmp_path: Path
) -> None:
    app = process()
    with without(tmp_path / "spans", "outbox"):
        app.spans("one")
    wait_for(lambda: names(backend) == ["one"], 10, "the span")


def test_what_is_more_than_may_wait_in_memory_is_lost_and_said_to_be(
    process: Started, backend: LangfuseServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = process()
    size = UNSAVED_BYTES // 4
    with without(tmp_path / "spans", "outbox"):
        for n in range(5):
            app.tracer.start_span(f"span {n}", attributes={"x": "x" * size}).end()
    assert not app.processor.force_flush(20_000)
    assert sorted(set(names(backend))) == ["span 0", "span 1", "span 2"]
    app.spans("next")
    assert app.processor.force_flush(20_000)


def test_the_ledger_of_a_process_adds_up(process: Started, backend: LangfuseServer, tmp_path: Path) -> None:
    app = process()
    app.spans("one", "two", "three")
    assert app.processor.force_flush(10_000)
    app.processor.shutdown()
    reader = Reader(tmp_path / "spans")
    ledger = reader.counted_ledger()
    reader.close()
    assert (ledger.adds_up, ledger.made, ledger.delivered) == (True, 3, 3)


def test_no_store_is_made_in_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="exists"):
        DurableSpanProcessor(tmp_path / "file", "http://127.0.0.1:1")
    assert os.listdir(tmp_path) == ["file"]
