"""Real processes only: a recording goes through replay, receiver and collector to Jaeger and to Langfuse's path."""

from __future__ import annotations

import base64
import contextlib
import json
import resource
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_voice.edge import CONNECTIONS
from otel_voice.store import Ledger, Reader
from tests.components.build import COLLECTOR
from tests.conftest import binary_of
from tests.facts import PREFIX, RECORDINGS, SHARED
from tests.real import COLLECTOR_CONFIG, Collector, Jaeger, JaegerSpan, LangfuseServer, Receiver, free_port, wait_for
from tests.running import damage

ROOT = "voice_session"
BOTH = "[otlp_grpc/jaeger, otlp_http/langfuse]"
LANGFUSE = "[otlp_http/langfuse]"
OWN = ("gemini_barge_in", "gemini_parallel_tools", "gemini_cancelled_tool", "openai_tool_round", "openai_vad_cuts")
FILES = [RECORDINGS / f"{name}.jsonl" for name in OWN] + sorted(SHARED.glob("*/*.jsonl"))
# These follow the source's random id, or are times themselves.
OF_THE_RUN = ("gen_ai.response.id", "langfuse.observation.completion_start_time")

a_recording = pytest.mark.parametrize("file", FILES, ids=lambda file: f"{provider_of(file)}-{file.stem}")


def provider_of(file: Path) -> str:
    return file.parent.name if SHARED in file.parents else PREFIX[file.name.split("_")[0]]


def otel_voice(*arguments: object, **env: str) -> str:
    """What the command prints; it has to succeed."""
    command = [sys.executable, "-m", "otel_voice.cli", *map(str, arguments)]
    given = {"PYTHONPATH": str(COLLECTOR_CONFIG.parent), **env}
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def replay(file: Path, *options: object) -> str:
    return otel_voice("replay", file, "--provider", provider_of(file), *options)


@dataclass(frozen=True)
class Seen:
    """A span, wherever it was seen; times in microseconds."""

    id: str
    parent: str
    name: str
    start: int
    end: int
    attributes: dict[str, Any]


def planned(span: dict[str, Any]) -> Seen:
    start, end = span["start_time_unix_nano"] // 1000, span["end_time_unix_nano"] // 1000
    return Seen(span["span_id"], span["parent_span_id"], span["name"], start, end, span["attributes"])


def received(span: Span) -> Seen:
    attributes = {attribute.key: value_of(attribute.value) for attribute in span.attributes}
    start, end = span.start_time_unix_nano // 1000, span.end_time_unix_nano // 1000
    return Seen(span.span_id.hex(), span.parent_span_id.hex(), span.name, start, end, attributes)


def shown(span: JaegerSpan) -> Seen:
    return Seen(
        span.span_id, span.parent_id or "", span.name, span.start_us, span.start_us + span.duration_us, span.tags
    )


def value_of(value: AnyValue) -> Any:
    if value.HasField("array_value"):
        return [value_of(item) for item in value.array_value.values]
    return getattr(value, value.WhichOneof("value") or "string_value")


def rows(spans: Iterable[Seen], keys: Callable[[str], bool] = lambda key: True) -> list[str]:
    """Each span under its ancestors with its times since the start (ms) and its attributes, in one order."""
    spans = list(spans)
    by_id, first = {span.id: span for span in spans}, min(span.start for span in spans)

    def path(span: Seen) -> str:
        at = f"{span.name}@{round((span.start - first) / 1000)}"
        assert not span.parent or span.parent in by_id, f"{at} is an orphan"
        return f"{path(by_id[span.parent])} > {at}" if span.parent else at

    def row(span: Seen) -> str:
        # The session ends when its end arrives, not with the last frame, and what was never answered runs until then.
        open_ended = span.name == ROOT or span.attributes.get("error.type") == "unanswered"
        length = "" if open_ended else f" for {round((span.end - span.start) / 1000)}"
        # What came too late is shown as the event that it was, with its time.
        left_out = (*OF_THE_RUN, "langfuse.observation.input") if "voice.event.late" in span.attributes else OF_THE_RUN
        kept = {key: value for key, value in span.attributes.items() if keys(key) and key not in left_out}
        return f"{path(span)}{length} {json.dumps(kept, sort_keys=True)}"

    return sorted(map(row, spans))


@dataclass(frozen=True)
class Call:
    """A recording as it was replayed under a session id, and what a dry run says of it."""

    session_id: str
    trace_id: str
    spans: list[Seen]

    @property
    def root(self) -> Seen:
        return next(span for span in self.spans if not span.parent)


def call_of(file: Path, session_id: str) -> Call:
    document = json.loads(replay(file, "--dry-run", "--json", "--session-id", session_id))
    return Call(session_id, document["trace_id"], [planned(span) for span in document["spans"]])


def spans_at(langfuse: LangfuseServer, trace_id: str) -> list[Span]:
    """A trace's spans in order of arrival, once its root is there; the root comes last."""

    def whole() -> list[Span]:
        spans = [span for span in langfuse.spans if span.trace_id.hex() == trace_id]
        return spans if any(span.name == ROOT for span in spans) else []

    return wait_for(whole, 30, f"the root of {trace_id} at Langfuse")


@dataclass(frozen=True)
class Chain:
    receiver: Receiver
    jaeger: Jaeger
    langfuse: LangfuseServer
    calls: dict[Path, Call]


@pytest.fixture(scope="module")
def langfuse() -> Iterator[LangfuseServer]:
    server = LangfuseServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def chain(jaeger: Jaeger, langfuse: LangfuseServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Every recording replayed through a receiver and a collector with both backends."""
    folder = tmp_path_factory.mktemp("chain")
    backends = {"OTEL_VOICE_JAEGER_ENDPOINT": jaeger.otlp_grpc_endpoint, **langfuse.env}
    collector = Collector(binary_of(COLLECTOR), folder, {"OTEL_VOICE_COLLECTOR_EXPORTERS": BOTH, **backends})
    try:
        receiver = Receiver(folder / "data", folder, {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.otlp_http_endpoint})
        try:

            def play(file: Path) -> Call:
                call = call_of(file, str(uuid.uuid4()))
                replay(file, "--endpoint", receiver.url, "--session-id", call.session_id, "--instant")
                return call

            with ThreadPoolExecutor(2) as pool:
                calls = dict(zip(FILES, pool.map(play, FILES), strict=True))
            yield Chain(receiver, jaeger, langfuse, calls)
        finally:
            receiver.kill()
    finally:
        collector.kill()


# Through the collector


@pytest.mark.components
@a_recording
def test_langfuse_gets_the_trace_that_a_dry_run_foretells(chain: Chain, file: Path) -> None:
    call = chain.calls[file]
    spans = [received(span) for span in spans_at(chain.langfuse, call.trace_id)]
    assert rows(spans) == rows(call.spans)
    (root,) = [span for span in spans if span.name == ROOT]
    assert root.id == call.root.id
    assert 0 <= (root.end - root.start) - (call.root.end - call.root.start) < 5_000_000


@pytest.mark.components
@a_recording
def test_jaeger_shows_the_same_tree_with_its_times_and_tags(chain: Chain, file: Path) -> None:
    call = chain.calls[file]
    keys = {key for span in call.spans for key in span.attributes}

    def whole() -> list[JaegerSpan] | None:
        spans = chain.jaeger.trace(call.trace_id) or []
        return spans if any(span.name == ROOT for span in spans) else None

    spans = [shown(span) for span in wait_for(whole, 30, "the root in Jaeger")]
    # Jaeger shows a list as its JSON.
    expected = [
        Seen(
            *(span.id, span.parent, span.name, span.start, span.end),
            {k: json.dumps(v, separators=(",", ":")) if isinstance(v, list) else v for k, v in span.attributes.items()},
        )
        for span in call.spans
    ]
    assert rows(spans, keys.__contains__) == rows(expected)


@pytest.mark.components
@a_recording
def test_what_a_run_adds_lies_within_its_span(chain: Chain, file: Path) -> None:
    for span in map(received, spans_at(chain.langfuse, chain.calls[file].trace_id)):
        if began := span.attributes.get("langfuse.observation.completion_start_time"):
            at = datetime.fromisoformat(began).timestamp() * 1e6
            assert span.start - 1000 <= at <= span.end


@pytest.mark.components
@a_recording
def test_every_span_at_langfuse_says_whose_it_is(chain: Chain, file: Path) -> None:
    call = chain.calls[file]
    for span in map(received, spans_at(chain.langfuse, call.trace_id)):
        assert span.attributes["session.id"] == call.session_id
        assert span.attributes["langfuse.trace.name"] == ROOT
        type_ = span.attributes["langfuse.observation.type"]
        assert type_ in {"span", "generation", "agent", "tool", "event"}


@pytest.mark.components
@a_recording
def test_usage_at_langfuse_is_disjoint_and_adds_up_to_the_totals(chain: Chain, file: Path) -> None:
    for span in map(received, spans_at(chain.langfuse, chain.calls[file].trace_id)):
        usage = span.attributes.get("langfuse.observation.usage_details")
        if usage is None:
            continue
        assert span.attributes["langfuse.observation.type"] == "generation"
        counts = json.loads(usage)
        assert all(type(count) is int and count >= 0 for count in counts.values())
        totals = [span.attributes.get(f"gen_ai.usage.{way}_tokens", 0) for way in ("input", "output")]
        assert [sum(n for key, n in counts.items() if key.startswith(way)) for way in ("input", "output")] == totals


@pytest.mark.components
def test_the_collector_asks_langfuse_as_langfuse_wants_to_be_asked(chain: Chain) -> None:
    for call in chain.calls.values():
        spans_at(chain.langfuse, call.trace_id)
    for request in chain.langfuse.requests:
        assert request.path == "/api/public/otel/v1/traces"
        assert base64.b64decode(request.authorization.removeprefix("Basic ")) == b"pk-lf-test:sk-lf-test"
        assert (request.ingestion_version, request.content_encoding) == ("4", "gzip")


@pytest.mark.components
def test_a_session_that_nobody_ends_ends_by_itself_at_its_last_event(chain: Chain) -> None:
    page = Page(chain.receiver.url, idle_timeout_s=1)
    page.post(turn("t1"))
    (root,) = [span for span in spans_at(chain.langfuse, page.trace_id) if span.name == ROOT]
    attributes = received(root).attributes
    assert attributes["voice.session.end_reason"] == "idle_timeout"
    assert root.end_time_unix_nano // 10**6 == page.last_ts


@pytest.mark.components
def test_what_happened_while_the_collector_was_down_arrives_after_its_return(
    collector: Callable[..., Collector], receiver: Callable[..., Receiver], langfuse: LangfuseServer
) -> None:
    address = f"127.0.0.1:{free_port()}"
    receiving = receiver(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{address}")
    call = call_of(FILES[0], str(uuid.uuid4()))
    replay(FILES[0], "--endpoint", receiving.url, "--session-id", call.session_id, "--instant")
    wait_for(lambda: ledger_of(receiving.data_dir).pending == len(call.spans), 20, "all spans to wait")

    collector(OTEL_VOICE_COLLECTOR_HTTP=address, OTEL_VOICE_COLLECTOR_EXPORTERS=LANGFUSE, **langfuse.env)
    assert rows(map(received, spans_at(langfuse, call.trace_id))) == rows(call.spans)


# Straight to Langfuse


@dataclass
class Page:
    """A page that instruments itself by hand, and numbers its events."""

    url: str
    idle_timeout_s: float | None = None
    session_id: str = ""
    sent: int = 0
    last_ts: int = 0

    def __post_init__(self) -> None:
        new = {"session_id": self.session_id or str(uuid.uuid4()), "idle_timeout_s": self.idle_timeout_s}
        answer = httpx.post(f"{self.url}/v1/sessions", json={key: value for key, value in new.items() if value})
        made = answer.raise_for_status().json()
        self.session_id, self.trace_id, self.token = made["session_id"], made["trace_id"], made["token"]

    def post(self, events: list[dict[str, Any]]) -> None:
        """Returns when the receiver said 204."""
        numbered = []
        for event in events:
            self.last_ts = max(self.last_ts + 1, int(time.time() * 1000))
            numbered.append({**event, "seq": self.sent, "ts": self.last_ts})
            self.sent += 1
        body = {"source": "page", "token": self.token, "events": numbered}
        answer = httpx.post(f"{self.url}/v1/sessions/{self.session_id}/events", json=body)
        assert answer.status_code == 204, answer.text

    def end(self) -> None:
        body = {"reason": "user_hangup", "last_seq": self.sent - 1, "source": "page", "token": self.token}
        httpx.post(f"{self.url}/v1/sessions/{self.session_id}/end", json=body).raise_for_status()


def turn(turn_id: str) -> list[dict[str, Any]]:
    """A turn with a tool call, by the four events that every hand-written client has."""
    return [
        {"type": "turn_start", "turn_id": turn_id},
        {"type": "tool_call", "call_id": f"{turn_id}-call", "name": "look", "arguments": {}, "turn_id": turn_id},
        {"type": "tool_result", "call_id": f"{turn_id}-call", "result": "seen"},
        {"type": "turn_complete", "turn_id": turn_id, "user_text": f"ask {turn_id}", "agent_text": "yes"},
    ]


def ledger_of(data_dir: Path) -> Ledger:
    reader = Reader(data_dir)
    try:
        return reader.ledger()
    finally:
        reader.close()


def identical_repeats(spans: list[Span]) -> list[Seen]:
    """Each span once; a repeated one must be the same to the byte."""
    once: dict[bytes, Span] = {}
    for span in spans:
        assert once.setdefault(span.span_id, span).SerializeToString() == span.SerializeToString()
    return [received(span) for span in once.values()]


def questions(spans: Iterable[Seen]) -> list[str]:
    """What the user asked, turn by turn."""
    turns = sorted((span for span in spans if span.name == "invoke_agent"), key=lambda span: span.start)
    return [json.loads(span.attributes["langfuse.observation.input"])[0]["content"] for span in turns]


@pytest.mark.parametrize("file", [FILES[0], FILES[3]], ids=provider_of)
def test_the_langfuse_keys_alone_send_straight_there_and_a_resend_sends_the_same_bytes(
    receiver: Callable[..., Receiver], langfuse_server: LangfuseServer, file: Path
) -> None:
    receiving, call = receiver(**langfuse_server.env), call_of(file, str(uuid.uuid4()))
    replay(file, "--endpoint", receiving.url, "--session-id", call.session_id, "--instant")
    assert rows(map(received, spans_at(langfuse_server, call.trace_id))) == rows(call.spans)
    first = b"".join(request.body for request in langfuse_server.requests)
    for request in langfuse_server.requests:
        assert base64.b64decode(request.authorization.removeprefix("Basic ")) == b"pk-lf-test:sk-lf-test"
        assert (request.path, request.ingestion_version) == ("/api/public/otel/v1/traces", "4")

    langfuse_server.requests.clear()
    said = otel_voice("resend", call.session_id, "--data-dir", receiving.data_dir, **langfuse_server.env)
    assert f"sent {len(call.spans)} spans" in said
    assert b"".join(request.body for request in langfuse_server.requests) == first


def test_what_got_its_204_before_a_kill_is_in_the_trace_after_the_restart(
    receiver: Callable[..., Receiver], langfuse_server: LangfuseServer
) -> None:
    first = receiver(**langfuse_server.env)
    page = Page(first.url)
    for number in range(20):
        page.post(turn(f"t{number}"))
    first.kill()

    receiver(first.port, **langfuse_server.env)
    page.end()
    spans = identical_repeats(spans_at(langfuse_server, page.trace_id))
    assert questions(spans) == [f"ask t{number}" for number in range(20)]
    assert sum(span.name == "execute_tool look" for span in spans) == 20
    (root,) = [span for span in spans if span.name == ROOT]
    assert (root.attributes["voice.events.received"], root.attributes["voice.events.lost"]) == (80, 0)


def test_spans_that_went_out_before_a_kill_do_not_change_after_it(
    receiver: Callable[..., Receiver], langfuse_server: LangfuseServer
) -> None:
    first = receiver(**langfuse_server.env)
    page = Page(first.url)
    for number in range(3):
        page.post(turn(f"t{number}"))
    wait_for(lambda: len(langfuse_server.spans) >= 4, 20, "the first turns at Langfuse")
    first.kill()

    second = receiver(first.port, **langfuse_server.env)
    page.post(turn("t3"))
    page.end()
    spans = spans_at(langfuse_server, page.trace_id)
    assert questions(identical_repeats(spans)) == [f"ask t{number}" for number in range(4)]
    count = len({span.span_id for span in spans})
    wait_for(lambda: ledger_of(second.data_dir).made >= count, 10, "the ledger to know of all spans")
    ledger = ledger_of(second.data_dir)
    assert ledger.made == ledger.delivered == count


def test_a_call_goes_on_over_a_kill_and_its_trace_is_whole(
    receiver: Callable[..., Receiver], langfuse_server: LangfuseServer
) -> None:
    first, file = receiver(**langfuse_server.env), FILES[0]
    call = call_of(file, str(uuid.uuid4()))
    begun = f"{first.url}/v1/sessions/{call.session_id}"
    with ThreadPoolExecutor(1) as pool:
        playing = pool.submit(replay, file, "--endpoint", first.url, "--session-id", call.session_id)
        wait_for(lambda: (httpx.get(begun).json().get("events_received") or 0) > 3, 20, "the first events")
        first.kill()
        assert not playing.done()
        receiver(first.port, **langfuse_server.env)
        playing.result(60)
    assert rows(identical_repeats(spans_at(langfuse_server, call.trace_id))) == rows(call.spans)


def test_SIGTERM_drains_what_is_pending_and_says_the_ledger(
    receiver: Callable[..., Receiver], langfuse_server: LangfuseServer
) -> None:
    langfuse_server.pause_s = 0.2
    running = receiver(**langfuse_server.env)
    pages = [Page(running.url) for _ in range(20)]
    for page in pages:
        page.post([{"type": "turn_complete", "turn_id": f"t{n}", "user_text": f"ask {n}"} for n in range(40)])
        page.end()
    wait_for(lambda: ledger_of(running.data_dir).pending, 20, "spans to be made")
    running.stop(10)
    ledger = ledger_of(running.data_dir)
    assert (ledger.pending, ledger.delivered) == (0, len(langfuse_server.spans))
    assert f"stopped; {ledger}" in running.log()


def test_whoever_comes_on_top_of_too_many_connections_is_told_when_to_come_again(
    receiver: Callable[..., Receiver],
) -> None:
    usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 2 * CONNECTIONS:
        pytest.skip(f"this system lets a process open {most} files, and this test needs {2 * CONNECTIONS}")
    running = receiver()
    page, origin = Page(running.url), "http://localhost:3000"
    url = f"{running.url}/v1/sessions/{page.session_id}/events"
    with contextlib.ExitStack() as connections:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * CONNECTIONS, most))
        connections.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (usual, most))
        for _ in range(CONNECTIONS):
            connections.enter_context(socket.create_connection(("127.0.0.1", running.port)))

        def refused() -> httpx.Response | None:
            # Another connection each time; the last of those above may not be counted yet.
            answer = httpx.post(url, json={"events": [], "token": page.token}, headers={"origin": origin})
            return answer if answer.status_code == 503 else None

        answer = wait_for(refused, 20, "a refusal")
    assert "connections" in answer.json()["error"]
    said = {name: answer.headers.get(name) for name in ("retry-after", "access-control-allow-origin", "connection")}
    assert said == {"retry-after": "1", "access-control-allow-origin": origin, "connection": "close"}
    assert "x-otel-voice-time" in answer.headers
    wait_for(lambda: not refused(), 20, "it to take requests again")


def test_a_store_found_damaged_in_the_middle_ends_it_with_1_and_the_next_start_begins_a_new_one(
    receiver: Callable[..., Receiver], langfuse_server: LangfuseServer
) -> None:
    first = receiver()
    page = Page(first.url)
    page.post(turn("t1"))
    first.stop()
    damage(first.data_dir, "outbox")
    second = receiver(first.port, **langfuse_server.env)
    assert second.process.wait(20) == 1
    assert "cannot go on, stopping" in second.log()
    third = receiver(first.port, **langfuse_server.env)
    assert "was set aside as otel-voice.db.damaged-1" in third.log()
    anew = Page(third.url)
    anew.post(turn("t2"))
    anew.end()
    assert questions(map(received, spans_at(langfuse_server, anew.trace_id))) == ["ask t2"]


def test_SIGTERM_ends_it_at_once_with_0_and_what_is_pending_goes_out_at_the_next_start(
    receiver: Callable[..., Receiver], langfuse_server: LangfuseServer
) -> None:
    first = receiver(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}")
    page = Page(first.url, idle_timeout_s=1)
    page.post(turn("t1"))
    pending = wait_for(lambda: ledger_of(first.data_dir).pending, 20, "spans to wait")
    first.stop(5)
    ledger = ledger_of(first.data_dir)
    assert (ledger.made, ledger.delivered, ledger.dead) == (ledger.pending, 0, 0)
    assert ledger.pending >= pending

    receiver(first.port, **langfuse_server.env)
    assert questions(map(received, spans_at(langfuse_server, page.trace_id))) == ["ask t1"]
