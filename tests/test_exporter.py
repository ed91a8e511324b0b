"""The exporter's decision table, row by row, and its promises, against a real HTTP server and a real store."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import sqlite3
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan

from otel_voice import settings
from otel_voice.exporter import AT_ONCE, JOIN_BYTES, JOIN_SPANS, REFUSES_ALL, Exporter, client, joined
from otel_voice.otlp import Encoder
from otel_voice.spans import Span
from otel_voice.store import FILE, Append, Flush, Pending, Store
from tests.real import LangfuseServer, Reply, free_port, spans_in, wait_for

pytestmark = pytest.mark.anyio
PROTOBUF = {"Content-Type": "application/x-protobuf"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def encoded(*names: str) -> list[bytes]:
    encoder = Encoder({"service.name": "test"}, "1")
    trace = "0af7651916cd43dd8448eb211c80319c"
    return [encoder.request(Span(name, trace, f"{n + 1:016x}", 1, 2)) for n, name in enumerate(names)]


class Outbox:
    """A store with spans to send, an exporter for it, and what came of them."""

    def __init__(self, store: Store, export: settings.Export, jitter: float, time: Time) -> None:
        self.store, self.time = store, time
        self.http = client(export)
        self.exporter = Exporter(store, export, self.http, self.time.clock, lambda: jitter, self.time.sleep)
        self.names: list[str] = []

    async def fill(self, count: int, size: int = 0) -> None:
        encoder = Encoder({"service.name": "test"}, "1")
        names = [f"span {len(self.names) + n}" for n in range(count)]
        self.names += names
        spans = [
            Span(
                name,
                "0af7651916cd43dd8448eb211c80319c",
                f"{int(name[5:]) + 1:016x}",
                1,
                2,
                attributes={"x": "x" * size},
            )
            for name in names
        ]
        await self.store.append(Append(1, "s", True, 1.0, b"{}"), lambda _: None, lambda: None)
        await self.store.flush(Flush([], [(1, encoder.request(span)) for span in spans], 1))

    async def drain(self) -> None:
        while await self.exporter.drain_once():
            pass

    @property
    def pending(self) -> list[Pending]:
        return self.store.reader.pending(10_000, 2**40)

    @property
    def ledger(self) -> tuple[int, int, int]:
        """Delivered, pending, dead; with what was dropped they are all that were made."""
        counted = self.store.reader.counted_ledger()
        assert counted.adds_up
        return counted.delivered, counted.pending, counted.dead

    def dead(self, directory: Path) -> list[tuple[str, str]]:
        """Names and reasons of the dead letters, in their order."""
        db = sqlite3.connect(directory / FILE)
        rows = db.execute("SELECT body, reason FROM dead_letters ORDER BY id").fetchall()
        db.close()
        return [(spans_in(ExportTraceServiceRequest.FromString(body))[0].name, reason) for body, reason in rows]


def export_to(url: str, **fields: object) -> settings.Export:
    given = settings.Export(url, {}, timeout=10, gzip=False)
    return msgspec.structs.replace(given, **fields)


def export_of(server: LangfuseServer, **fields: object) -> settings.Export:
    chosen = settings.read(server.env).export
    assert chosen is not None
    return msgspec.structs.replace(chosen, **fields)


@pytest.fixture
async def outbox(tmp_path: Path, langfuse_server: LangfuseServer) -> AsyncIterator[Callable[..., Outbox]]:
    """`outbox()` sends to Langfuse's path; `outbox(export)` elsewhere."""
    store = Store(tmp_path, asyncio.get_running_loop(), "NORMAL")
    made: list[Outbox] = []

    def make(export: settings.Export | None = None, jitter: float = 1.0, time: Time | None = None) -> Outbox:
        made.append(Outbox(store, export or export_of(langfuse_server), jitter, time or Time()))
        return made[-1]

    yield make
    for each in made:
        await each.http.aclose()
    await store.close()


async def until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_for, condition, 10, "it")


def named(spans: Sequence[ProtoSpan]) -> list[str]:
    return [span.name for span in spans]


# Kept, and sent again


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_an_answer_that_passes_keeps_every_span_and_sends_the_same_bytes_again(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer, status: int
) -> None:
    box = outbox()
    await box.fill(3)
    langfuse_server.answer_next(status)
    await box.exporter.drain_once()
    assert (box.ledger, box.time.slept) == ((0, 3, 0), [1.0])
    assert str(status) in str(box.exporter.last_error)

    await box.drain()
    assert (box.ledger, box.exporter.last_error) == ((3, 0, 0), None)
    first, second = langfuse_server.requests
    assert first.body == second.body


async def test_nobody_at_the_address_keeps_every_span(outbox: Callable[..., Outbox]) -> None:
    box = outbox(export_to(f"http://127.0.0.1:{free_port()}/v1/traces"))
    await box.fill(2)
    await box.exporter.drain_once()
    assert (box.ledger, box.time.slept) == ((0, 2, 0), [1.0])
    assert "ConnectError" in str(box.exporter.last_error)


async def test_no_answer_in_time_keeps_every_span(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box, answers = outbox(export_of(langfuse_server, timeout=0.1)), threading.Event()
    await box.fill(2)
    langfuse_server.answer_next(Reply(200, hang_on=answers))
    await box.exporter.drain_once()
    answers.set()
    assert box.ledger == (0, 2, 0)
    assert "no answer within 0.1 s" in str(box.exporter.last_error)


@pytest.mark.parametrize("status", [301, 302, 307, 308, 401, 403, 404, 405, 410])
async def test_an_answer_that_speaks_of_configuration_keeps_every_span_and_says_what_to_check(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    box = outbox()
    await box.fill(2)
    langfuse_server.answer_next(Reply(status, headers={"Location": "/elsewhere"}))
    await box.exporter.drain_once()
    assert box.ledger == (0, 2, 0)
    assert f"{status}" in caplog.text
    assert "check the address and the keys" in caplog.text
    assert len(langfuse_server.requests) == 1


async def test_a_failing_export_is_loud_once_a_minute(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer, caplog: pytest.LogCaptureFixture
) -> None:
    box = outbox()
    await box.fill(1)
    langfuse_server.answer_next(*[401] * 20)
    while box.time.now < 59:
        await box.exporter.drain_once()
    assert len(caplog.records) == 1
    await box.exporter.drain_once()
    assert len(caplog.records) == 2


async def test_the_wait_doubles_up_to_half_a_minute_and_begins_anew_after_a_success(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box = outbox()
    await box.fill(1)
    langfuse_server.answer_next(*[503] * 7)
    await box.drain()
    assert box.time.slept == [1, 2, 4, 8, 16, 30, 30]

    await box.fill(1)
    langfuse_server.answer_next(503)
    await box.drain()
    assert box.time.slept[7:] == [1]


async def test_jitter_takes_up_to_half_of_the_wait(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box = outbox(jitter=0.0)
    await box.fill(1)
    langfuse_server.answer_next(503, 503)
    await box.drain()
    assert box.time.slept == [0.5, 1.0]


NOON = "Mon, 23 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "waited"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "0"}, 1),
        ({"Retry-After": "86400"}, 300),
        ({"Retry-After": "9" * 400}, 300),
        ({"Retry-After": "Mon, 23 Nov 2026 12:00:20 GMT", "Date": NOON}, 20),
        ({"Retry-After": "Mon, 23 Nov 2026 11:00:00 GMT", "Date": NOON}, 1),
        ({"Retry-After": "Mon, 23 Nov 2026 12:00:20 -0000", "Date": NOON}, 20),
        ({"Retry-After": "-3"}, 1),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 +99999999999999999", "Date": NOON}, 1),
        ({"Retry-After": "Mon, 23 Nov 2026 12:00:20 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 +99999999999999999"}, 1),
        ({"Retry-After": "soon"}, 1),
    ],
)
@pytest.mark.parametrize("status", [429, 500, 503])
async def test_retry_after_is_honoured_within_reason(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer, status: int, headers: dict[str, str], waited: float
) -> None:
    box = outbox()
    await box.fill(1)
    langfuse_server.answer_next(Reply(status, headers=headers))
    await box.drain()
    assert (box.time.slept, box.ledger) == ([waited], (1, 0, 0))


async def test_a_hop_that_sends_a_byte_now_and_then_is_too_late_as_a_whole(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box = outbox(export_of(langfuse_server, timeout=1.5))
    await box.fill(2)
    langfuse_server.answer_next(Reply(200, drips=True))
    async with asyncio.timeout(8):
        await box.exporter.drain_once()
    assert (box.ledger, box.exporter.last_error) == ((0, 2, 0), "no answer within 1.5 s")


async def test_an_answer_without_end_is_not_read_to_its_end(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box = outbox()
    await box.fill(2)
    langfuse_server.answer_next(Reply(200, b"\0" * 50_000_000, PROTOBUF))
    before = tracemalloc_peak()
    await box.exporter.drain_once()
    assert tracemalloc_peak() - before < 10_000_000
    assert box.ledger == (2, 0, 0)


async def test_a_hop_that_is_too_late_for_a_large_request_is_asked_for_less_and_then_for_more_again(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box, never = outbox(export_of(langfuse_server, timeout=1)), threading.Event()
    await box.fill(40)
    langfuse_server.answer_next(Reply(200, hang_on=never), Reply(200, hang_on=never))
    await box.drain()
    never.set()
    sizes = [len(request.spans) for request in langfuse_server.requests]
    assert (sizes[:3], sorted(sizes[3:])) == ([40, 20, 10], [10, 20])
    assert box.ledger == (40, 0, 0)


async def test_what_works_again_is_said_once(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "otel_voice")
    box = outbox()
    await box.fill(2 * JOIN_SPANS)
    langfuse_server.answer_next(503, 503)
    await box.drain()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "works again after 3 s" in caplog.text


# Several at once


# A span of this size has a request of its own.
LARGE = JOIN_BYTES * 6 // 10


def held(status: int, by: threading.Event) -> Reply:
    return Reply(status, hang_on=by)


async def come(server: LangfuseServer, count: int) -> None:
    """Waits until so many requests came in all."""
    await until(lambda: len(server.requests) >= count)


def at_once(server: LangfuseServer) -> list[int]:
    """How many had no answer when each request came, with it."""
    return [1 + request.beside for request in server.requests]


async def delivers(box: Outbox, count: int) -> None:
    await until(lambda: box.ledger[0] >= count)


async def test_a_hop_that_takes_one_request_gets_several_at_once_and_what_it_takes_leaves_with_its_own_answer(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box, count = outbox(), AT_ONCE + 3
    await box.fill(count, LARGE)
    answers = [threading.Event() for _ in range(1 + AT_ONCE)]
    langfuse_server.answer_next(*[held(200, by) for by in answers])
    draining = asyncio.create_task(box.drain())
    await come(langfuse_server, 1)
    answers[0].set()
    await come(langfuse_server, 1 + AT_ONCE)
    for delivered, answer in enumerate(answers[1:], 1):
        assert box.ledger == (delivered, count - delivered, 0)
        answer.set()
        await delivers(box, delivered + 1)
    await draining
    assert at_once(langfuse_server)[: 1 + AT_ONCE] == [1, *range(1, AT_ONCE + 1)]
    assert box.ledger == (count, 0, 0)
    assert sorted(named(langfuse_server.spans)) == box.names


async def test_a_hop_that_fails_gets_one_request_at_a_time_until_it_takes_one(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box, fails, takes, end = outbox(), threading.Event(), threading.Event(), threading.Event()
    await box.fill(2 * AT_ONCE + 1, LARGE)
    taken = [200] * (AT_ONCE - 1)
    langfuse_server.answer_next(200, 503, *taken, held(503, fails), held(200, takes), *[held(200, end)] * AT_ONCE)
    draining = asyncio.create_task(box.drain())
    await come(langfuse_server, 2 + AT_ONCE)
    fails.set()
    await come(langfuse_server, 3 + AT_ONCE)
    takes.set()
    await come(langfuse_server, 3 + 2 * AT_ONCE)
    end.set()
    await draining
    assert at_once(langfuse_server)[1 + AT_ONCE :] == [1, 1, *range(1, AT_ONCE + 1)]
    assert (box.ledger, box.time.slept) == ((2 * AT_ONCE + 1, 0, 0), [1, 2])


async def test_several_that_fail_at_once_are_one_failure_and_the_longest_wait_that_is_asked_for_is_granted(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box = outbox()
    await box.fill(1 + AT_ONCE, LARGE)
    asks = [Reply(429, headers={"Retry-After": seconds}) for seconds in ("3", "7", "5")]
    langfuse_server.answer_next(200, *asks, *[503] * (AT_ONCE - 3), 503)
    await box.drain()
    assert (box.ledger, box.time.slept) == ((1 + AT_ONCE, 0, 0), [7, 2])


async def test_a_slow_hop_that_fails_now_and_then_is_sent_every_span_until_it_takes_it_and_no_longer(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box = outbox()
    await box.fill(20 * JOIN_SPANS + 1)
    langfuse_server.pause_s = 0.05
    langfuse_server.answer_next(200, 200, 503, 200, 400, 200, 200, 429, 401, 200, 200, 200, 413, 500)
    await box.drain()
    assert box.ledger == (len(box.names), 0, 0)
    assert sorted(named(langfuse_server.spans)) == sorted(box.names)


# A span that fails for ever


FAILURES = {
    "500": Reply(500),
    "503": Reply(503),
    "401": Reply(401),
    "a web page": Reply(200, b"<!doctype html>", {"Content-Type": "text/html"}),
}


async def drained(box: Outbox, ledger: tuple[int, int, int], seconds: float) -> None:
    """Lets time pass until the ledger is this, and no longer than so many seconds of it."""
    ends = box.time.now + seconds
    while box.ledger != ledger:
        assert box.time.now < ends, f"{box.ledger} after {seconds:g} s"
        if not await box.exporter.drain_once():
            box.time.now += 1


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_one_span_that_always_makes_the_hop_fail_does_not_hold_up_the_others_and_is_kept(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer, failure: Reply
) -> None:
    box = outbox()
    await box.fill(40)
    langfuse_server.refuses, langfuse_server.refusal = lambda span: span.name == "span 6", failure
    await drained(box, (39, 1, 0), 300)
    await box.fill(40)
    await drained(box, (79, 1, 0), 5)
    langfuse_server.refuses = lambda span: False
    await drained(box, (80, 0, 0), 60)


async def test_many_spans_that_always_make_the_hop_fail_do_not_hold_up_the_others(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box = outbox()
    bad = {f"span {n}" for n in range(0, 80, 10)}
    await box.fill(80)
    langfuse_server.refuses, langfuse_server.refusal = lambda span: span.name in bad, Reply(503)
    await drained(box, (72, 8, 0), 3600)
    for n in range(100):
        await box.fill(1)
        await drained(box, (73 + n, 8, 0), 5)
        box.time.now += 1


async def test_a_span_that_makes_way_and_is_erased_meanwhile_is_forgotten(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box = outbox()
    await box.fill(2)
    langfuse_server.refuses, langfuse_server.refusal = lambda span: span.name == "span 0", Reply(500)
    await drained(box, (1, 1, 0), 300)
    await box.store.erase(1)
    box.time.now += 60
    assert not await box.exporter.drain_once()


async def test_a_span_that_makes_way_for_others_has_its_turn_though_they_never_end(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box = outbox()
    await box.fill(2)
    langfuse_server.refuses, langfuse_server.refusal = lambda span: span.name == "span 0", Reply(500)
    await drained(box, (1, 1, 0), 300)
    seen, begun = len(langfuse_server.requests), box.time.now
    while box.time.now < begun + 150:
        await box.fill(1)
        box.time.now += 1
        await box.exporter.drain_once()
    tried = [request for request in langfuse_server.requests[seen:] if named(request.spans) == ["span 0"]]
    assert 4 <= len(tried) <= 5


# Hurry and stop


class Patience(Time):
    """Sleeping takes until somebody cuts it short."""

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.Event().wait()


async def test_a_wait_is_cut_short_for_somebody_who_is_in_a_hurry(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box = outbox(time=Patience())
    await box.fill(2)
    langfuse_server.answer_next(503)
    running = asyncio.create_task(box.exporter.run())
    await until(lambda: box.time.slept)
    box.exporter.hurry()
    await until(lambda: box.ledger == (2, 0, 0))
    running.cancel()


async def test_a_hurry_that_comes_during_an_attempt_ends_the_wait_after_it_and_no_other(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box, answer = outbox(time=Patience()), threading.Event()
    await box.fill(2)
    langfuse_server.answer_next(Reply(503, hang_on=answer), 503)
    running = asyncio.create_task(box.exporter.run())
    await until(lambda: langfuse_server.requests)
    box.exporter.hurry()
    answer.set()
    await until(lambda: len(box.time.slept) == 2)
    assert (len(langfuse_server.requests), box.ledger) == (2, (0, 2, 0))
    running.cancel()


async def test_an_exporter_that_stops_sends_what_is_pending_first(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box = outbox()
    await box.fill(3 * JOIN_SPANS)
    box.exporter.stop()
    await asyncio.wait_for(box.exporter.run(), 10)
    assert box.ledger == (3 * JOIN_SPANS, 0, 0)


async def test_an_exporter_that_stops_leaves_the_rest_at_the_first_failure(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box = outbox(time=Patience())
    await box.fill(2 * JOIN_SPANS)
    langfuse_server.answer_next(200, 503)
    box.exporter.stop()
    await asyncio.wait_for(box.exporter.run(), 10)
    assert (box.ledger, box.time.slept) == ((JOIN_SPANS, JOIN_SPANS, 0), [])


async def test_an_exporter_that_waits_for_a_better_time_stops_at_once(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box = outbox(time=Patience())
    await box.fill(2)
    langfuse_server.answer_next(503, 503)
    running = asyncio.create_task(box.exporter.run())
    await until(lambda: box.time.slept)
    box.exporter.stop()
    await asyncio.wait_for(running, 10)
    assert box.ledger == (0, 2, 0)


# Refused


def tracemalloc_peak() -> int:
    if not tracemalloc.is_tracing():
        tracemalloc.start()
    return tracemalloc.get_traced_memory()[1]


def partial(rejected: int, message: str) -> bytes:
    success = ExportTracePartialSuccess(rejected_spans=rejected, error_message=message)
    return ExportTraceServiceResponse(partial_success=success).SerializeToString()


REFUSALS = {
    "400": Reply(400, b'{"message": "no such trace"}'),
    "413": Reply(413, b"too large"),
    "422": Reply(422, b"not a span"),
    "partial success": Reply(200, partial(1, "bad time"), PROTOBUF),
    "partial success as JSON": Reply(
        200, b'{"partialSuccess":{"rejectedSpans":"1","errorMessage":"bad time"},"new":1}'
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_one_span_that_is_refused_is_set_aside_with_the_reason_and_takes_no_neighbour_along(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer, tmp_path: Path, refusal: Reply
) -> None:
    box = outbox()
    await box.fill(11)
    langfuse_server.refuses, langfuse_server.refusal = lambda span: span.name == "span 6", refusal
    await box.drain()
    assert box.ledger == (10, 0, 1)
    ((name, reason),) = box.dead(tmp_path)
    assert name == "span 6"
    assert any(word in reason for word in ("no such trace", "too large", "not a span", "bad time"))
    arrived = [name for request in langfuse_server.requests[1:] for name in named(request.spans)]
    assert set(box.names) <= set(arrived)
    assert box.time.slept == []


async def test_a_hop_that_refuses_every_span_is_failing_until_it_takes_one(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box = outbox()
    await box.fill(REFUSES_ALL - 1)
    langfuse_server.refuses = lambda _: True
    await box.drain()
    assert (box.ledger, box.exporter.failing) == ((0, 0, REFUSES_ALL - 1), False)
    await box.fill(1)
    await box.drain()
    assert (box.ledger, box.exporter.failing) == ((0, 0, REFUSES_ALL), True)
    langfuse_server.refuses = lambda _: False
    await box.fill(1)
    await box.drain()
    assert (box.ledger, box.exporter.failing) == ((1, 0, REFUSES_ALL), False)


async def test_every_refused_span_is_found_however_they_lie(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer, tmp_path: Path
) -> None:
    box = outbox()
    await box.fill(16)
    bad = ["span 0", "span 7", "span 8", "span 15"]
    langfuse_server.refuses = lambda span: span.name in bad
    await box.drain()
    assert [name for name, _ in box.dead(tmp_path)] == bad
    assert named(langfuse_server.spans) == [name for name in box.names if name not in bad]


async def test_a_reason_without_end_is_cut(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer, tmp_path: Path
) -> None:
    box = outbox()
    await box.fill(1)
    langfuse_server.answer_next(Reply(400, b"\x1b[31m\xff" + b"x" * 10**6))
    await box.drain()
    ((_, reason),) = box.dead(tmp_path)
    assert len(reason) < 1000
    assert reason.isprintable()


async def test_a_hop_that_repeats_the_keys_puts_them_neither_in_the_log_nor_among_the_dead_letters(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export = export_of(langfuse_server)
    box = outbox(export)
    await box.fill(1)
    key = export.headers["authorization"]
    langfuse_server.answer_next(Reply(401, key.encode()), Reply(400, f"key {key.split()[1]}!".encode()))
    await box.drain()
    ((_, reason),) = box.dead(tmp_path)
    assert reason == "400 'key [secret]!'"
    assert key.split()[1] not in caplog.text


# Taken


ODD = {"Content-Type": "application/json", "Content-Encoding": "gzip"}


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, gzip.compress(b"{}", mtime=0), ODD),
        Reply(200, "\xfc".encode("latin-1"), ODD),
        Reply(200, b"[" * 60_000, ODD),
        Reply(200, b""),
        Reply(202, b"", PROTOBUF),
        Reply(200, b"{}"),
        Reply(200, b"{}", PROTOBUF),
        Reply(200, b"not JSON"),
        Reply(200, partial(0, "a warning"), PROTOBUF),
    ],
    ids=lambda reply: f"{reply.status} {reply.body!r}",
)
async def test_a_2xx_that_rejects_nothing_delivers_whatever_its_body_is(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer, reply: Reply
) -> None:
    box = outbox()
    await box.fill(3)
    langfuse_server.answer_next(reply)
    await box.drain()
    assert (box.ledger, len(langfuse_server.requests)) == ((3, 0, 0), 1)


async def test_a_web_page_has_taken_no_span(outbox: Callable[..., Outbox], langfuse_server: LangfuseServer) -> None:
    box = outbox()
    await box.fill(3)
    page = Reply(200, b"<!doctype html>", {"Content-Type": "text/html; charset=utf-8"})
    langfuse_server.answer_next(page, page)
    await box.drain()
    assert (box.ledger, len(langfuse_server.requests)) == ((3, 0, 0), 3)


async def test_nothing_leaves_the_store_before_the_answer(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box, answers = outbox(), threading.Event()
    await box.fill(3)
    langfuse_server.answer_next(Reply(200, hang_on=answers))
    draining = asyncio.create_task(box.exporter.drain_once())
    await until(lambda: langfuse_server.requests)
    assert box.ledger == (0, 3, 0)
    answers.set()
    await draining
    assert box.ledger == (3, 0, 0)


async def test_an_exporter_stopped_before_the_answer_leaves_everything_to_the_next_one(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box, answers = outbox(), threading.Event()
    await box.fill(3)
    langfuse_server.answer_next(Reply(200, hang_on=answers))
    running = asyncio.create_task(box.exporter.run())
    await until(lambda: langfuse_server.requests)
    running.cancel()
    await asyncio.wait([running])
    answers.set()
    assert box.ledger == (0, 3, 0)
    await outbox().drain()
    assert langfuse_server.requests[0].body == langfuse_server.requests[1].body


async def test_spans_go_out_512_at_a_time_in_the_order_in_which_they_were_made(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box = outbox()
    await box.fill(2 * JOIN_SPANS + 1)
    await box.drain()
    first, *at_once = [named(request.spans) for request in langfuse_server.requests]
    second, third = sorted(at_once, key=len, reverse=True)
    assert [len(names) for names in (first, second, third)] == [JOIN_SPANS, JOIN_SPANS, 1]
    assert first + second + third == box.names


async def test_a_request_stays_under_2_MiB(outbox: Callable[..., Outbox], langfuse_server: LangfuseServer) -> None:
    box = outbox()
    await box.fill(10, size=500_000)
    await box.drain()
    assert sorted(len(request.spans) for request in langfuse_server.requests) == [2, 4, 4]
    assert all(len(request.body) <= JOIN_BYTES for request in langfuse_server.requests)


def test_a_span_larger_than_a_request_goes_alone() -> None:
    rows = [Pending(n, 1, b"x" * size) for n, size in enumerate([10, 3 * JOIN_BYTES, 10])]
    assert [len(joined(rows[start:])) for start in range(3)] == [1, 1, 1]


async def test_gzip_arrives_as_the_same_spans(outbox: Callable[..., Outbox], langfuse_server: LangfuseServer) -> None:
    box = outbox(export_of(langfuse_server, gzip=True))
    await box.fill(3)
    await box.drain()
    assert langfuse_server.requests[0].content_encoding == "gzip"
    assert named(langfuse_server.spans) == box.names


async def test_a_store_that_cannot_write_the_delivery_down_is_asked_until_it_can(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer, tmp_path: Path
) -> None:
    box = outbox()
    await box.fill(2)
    db = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    db.execute("ALTER TABLE counters RENAME TO away")
    draining = asyncio.create_task(box.exporter.drain_once())
    await until(lambda: len(box.time.slept) >= 2)
    db.execute("ALTER TABLE away RENAME TO counters")
    db.close()
    await draining
    assert (box.ledger, len(langfuse_server.requests)) == ((2, 0, 0), 1)


async def test_an_exporter_that_stops_does_not_wait_for_a_store_that_cannot_write_the_delivery_down(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer, tmp_path: Path
) -> None:
    box = outbox()
    await box.fill(2)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as db:
        db.execute("ALTER TABLE counters RENAME TO away")
        box.exporter.stop()
        await asyncio.wait_for(box.exporter.run(), 10)
        db.execute("ALTER TABLE away RENAME TO counters")
    assert (box.ledger, len(langfuse_server.requests)) == ((0, 2, 0), 1)


async def test_a_store_that_cannot_be_read_does_not_stop_the_exporter(
    outbox: Callable[..., Outbox], tmp_path: Path
) -> None:
    box = outbox()
    await box.fill(2)
    db = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    db.execute("ALTER TABLE outbox RENAME TO away")
    assert await box.exporter.drain_once()
    assert "store" in str(box.exporter.last_error)
    db.execute("ALTER TABLE away RENAME TO outbox")
    db.close()
    await box.drain()
    assert box.ledger == (2, 0, 0)


async def test_what_was_erased_while_it_was_sent_counts_as_dropped_once(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box, answers = outbox(), threading.Event()
    await box.fill(3)
    langfuse_server.answer_next(Reply(200, hang_on=answers))
    draining = asyncio.create_task(box.exporter.drain_once())
    await until(lambda: langfuse_server.requests)
    await box.store.erase(1)
    answers.set()
    await draining
    assert (box.ledger, box.store.reader.ledger().dropped) == ((0, 0, 0), 3)


async def test_an_idle_exporter_wakes_for_new_spans(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box = outbox()
    running = asyncio.create_task(box.exporter.run())
    for count in (1, 2):
        await box.fill(count)
        box.exporter.wake()
        await until(lambda: not box.ledger[1])
    running.cancel()
    await asyncio.wait([running])
    assert named(langfuse_server.spans) == box.names


# Past the store


async def test_a_hop_that_took_what_was_pending_is_sent_spans_past_the_store(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box = outbox()
    assert box.exporter.send(encoded("too early")) is None
    await box.fill(1)
    await box.drain()
    sent = box.exporter.send(encoded("first", "second"))
    assert sent is not None
    assert await sent is True
    assert named(langfuse_server.spans) == ["span 0", "first", "second"]
    assert box.ledger == (1, 0, 0)


@pytest.mark.parametrize("status", [400, 401, 503])
async def test_a_hop_that_does_not_take_them_gets_nothing_past_the_store_until_it_has_taken_something(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer, status: int
) -> None:
    box = outbox()
    await box.fill(1)
    await box.drain()
    langfuse_server.answer_next(status)
    sent = box.exporter.send(encoded("refused"))
    assert sent is not None
    assert await sent is False
    assert box.exporter.send(encoded("next")) is None
    await box.fill(1)
    await box.drain()
    assert box.exporter.send(encoded("again")) is not None


async def test_no_more_requests_go_past_the_store_than_a_hop_is_sent_at_once(
    outbox: Callable[..., Outbox], langfuse_server: LangfuseServer
) -> None:
    box, answers = outbox(), threading.Event()
    await box.fill(1)
    await box.drain()
    langfuse_server.answer_next(*[Reply(200, hang_on=answers)] * AT_ONCE)
    sent = [box.exporter.send(encoded(f"{n}")) for n in range(AT_ONCE)]
    assert None not in sent
    assert box.exporter.send(encoded("one more")) is None
    answers.set()
    assert await asyncio.gather(*[each for each in sent if each is not None]) == [True] * AT_ONCE
    assert box.exporter.send(encoded("next")) is not None


async def test_nothing_goes_past_the_store_at_the_end(outbox: Callable[..., Outbox]) -> None:
    box = outbox()
    await box.fill(1)
    await box.drain()
    box.exporter.stop()
    assert box.exporter.send(encoded("late")) is None
