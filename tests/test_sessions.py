"""Sessions over a real store and a clock that the test moves: log first, then apply, then flush, each span once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Raw
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan

from otel_voice import events as e
from otel_voice.changes import Changes
from otel_voice.mapped import CannotMap, look, replay
from otel_voice.otlp import Encoder
from otel_voice.session import Session
from otel_voice.sessions import FLUSHED_AT_ONCE, HELD, LENT_BYTES, SOURCES, WAITING, Busy, Sessions, UsedUp
from otel_voice.spans import trace_id
from otel_voice.store import FILE, Filter, SessionRow, Store, Unavailable
from tests.real import spans_in, wait_for
from tests.running import without

pytestmark = pytest.mark.anyio
T0 = 1_790_000_000.0
ENCODER = Encoder({"service.name": "test"}, "1")
OVER = 2 * 3600.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Receiver:
    """What a receiver holds: a store and its sessions. The clock is the test's and outlives it."""

    def __init__(self, directory: Path, clock: Callable[[], float], in_memory: int = 10_000) -> None:
        self.directory = directory
        self.store = Store(directory, asyncio.get_running_loop(), "NORMAL")
        self.sessions = Sessions(self.store, ENCODER, clock, in_memory=in_memory)

    async def crash(self) -> None:
        """What was not flushed is gone."""
        await self.store.close()

    @property
    def made(self) -> list[ProtoSpan]:
        """Every span that ever went out; nothing takes them away here."""
        rows = self.store.reader.pending(10_000, 2**40)
        assert self.store.reader.ledger().made == len(rows)
        return [span for row in rows for span in spans_in(ExportTraceServiceRequest.FromString(row.body))]

    @property
    def accepted(self) -> int:
        return self.store.reader.ledger().accepted

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.made]

    def expected(self, session_id: str) -> list[ProtoSpan]:
        """What the session's log, and nothing else, says that its spans are."""
        row = self.store.reader.session(session_id)
        session = Session(session_id)
        replay(session, self.store.reader.log(row.no) if row else [])
        session.advance(float("inf"))
        return [spans_in(ExportTraceServiceRequest.FromString(ENCODER.request(span)))[0] for span in session.take()]


class Clock:
    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> float:
        return self.now


class Page:
    """One source of one session."""

    def __init__(self, session_id: str, clock: Clock) -> None:
        self.session_id, self._clock, self._sent = session_id, clock, 0

    def batch(self, *events: dict[str, Any]) -> e.Accepted:
        raw = []
        for event in events:
            raw.append(Raw(json.dumps({**event, "seq": self._sent, "ts": self._clock.now * 1000}).encode()))
            self._sent += 1
        return e.Accepted(raw, "page")


def turn(n: int) -> dict[str, Any]:
    return {"type": "turn_complete", "turn_id": f"t{n}", "user_text": f"ask {n}", "agent_text": "yes"}


END = {"type": "session_end", "reason": "user_hangup"}


@contextlib.asynccontextmanager
async def started(directory: Path, clock: Callable[[], float]) -> AsyncIterator[Receiver]:
    receiver = Receiver(directory, clock)
    try:
        await receiver.sessions.start()
        yield receiver
    finally:
        await receiver.store.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def receiver(tmp_path: Path, clock: Clock) -> AsyncIterator[Receiver]:
    async with started(tmp_path, clock) as receiver:
        yield receiver


async def pass_time(receiver: Receiver, clock: Clock, seconds: float, step: float = 5.0) -> None:
    ends = clock.now + seconds
    while clock.now < ends:
        clock.now = min(ends, clock.now + step)
        await receiver.sessions.tick()


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """No commit gets through meanwhile."""
    db = sqlite3.connect(directory / FILE, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    yield
    db.execute("ROLLBACK")
    db.close()


async def turns_of_loop() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


# In and out of memory


async def test_open_sessions_of_an_earlier_process_are_loaded_when_something_comes_for_them(
    tmp_path: Path, clock: Clock
) -> None:
    pages = [Page(f"s{n}", clock) for n in range(20)]
    async with started(tmp_path, clock) as first:
        for page in pages:
            await first.sessions.accept(page.session_id, page.batch(turn(0)))
        await pass_time(first, clock, 60)
    async with started(tmp_path, clock) as second:
        assert second.sessions.count == 0
        await second.sessions.accept("s7", pages[7].batch(turn(1)))
        assert second.sessions.count == 1


async def test_a_session_that_is_over_leaves_the_memory_and_does_not_come_back(
    receiver: Receiver, clock: Clock
) -> None:
    page = Page("s", clock)
    for n in range(10):
        await receiver.sessions.accept("s", page.batch(turn(n)))
        await pass_time(receiver, clock, 7 if n else 60)
    await receiver.sessions.accept("s", page.batch(END))
    await pass_time(receiver, clock, 120)
    seen = set()
    for _ in range(100):
        await pass_time(receiver, clock, 40, 40)
        seen.add(receiver.sessions.count)
    assert seen == {0}


async def test_an_event_after_that_reaches_the_trace_as_a_child_of_its_own(receiver: Receiver, clock: Clock) -> None:
    page = Page("s", clock)
    await receiver.sessions.accept("s", page.batch(turn(0), END))
    await pass_time(receiver, clock, 120)
    before = receiver.names
    assert (receiver.sessions.count, before[-1]) == (0, "voice_session")

    await receiver.sessions.accept("s", page.batch({"type": "mark", "name": "late"}))
    await pass_time(receiver, clock, 120)
    (late,) = receiver.made[len(before) :]
    trace = {span.span_id for span in receiver.made}
    assert late.parent_span_id in trace
    assert len(trace) == len(before) + 1


async def test_an_event_for_a_session_of_an_earlier_process_makes_no_span_twice(tmp_path: Path, clock: Clock) -> None:
    page = Page("s", clock)
    async with started(tmp_path, clock) as first:
        await first.sessions.accept("s", page.batch(turn(0)))
        await pass_time(first, clock, 40)
        assert first.names == ["invoke_agent"]
    for n in (1, 2):
        async with started(tmp_path, clock) as next_:
            await next_.sessions.accept("s", page.batch(turn(n)))
            await pass_time(next_, clock, 40)
            assert next_.names == ["invoke_agent"] * (n + 1)


async def test_the_root_goes_out_after_a_crash_though_nothing_comes_any_more(tmp_path: Path, clock: Clock) -> None:
    async with started(tmp_path, clock) as first:
        await first.sessions.accept("s", Page("s", clock).batch(turn(0)))
    async with started(tmp_path, clock) as second:
        await pass_time(second, clock, OVER, 60)
        assert second.names == ["invoke_agent", "voice_session"]


async def calls_in_a_tick(receiver: Receiver) -> int:
    """Python functions entered by one tick: what is looked at, whatever the machine's speed."""
    count = 0

    def entered(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event == "call"

    await receiver.sessions.tick()
    sys.setprofile(entered)
    try:
        await receiver.sessions.tick()
    finally:
        sys.setprofile(None)
    return count


async def test_a_tick_looks_at_no_more_when_more_sessions_are_open(receiver: Receiver, clock: Clock) -> None:
    looked_at = []
    for n in range(400):
        await receiver.sessions.accept(f"s{n}", Page(f"s{n}", clock).batch(turn(0)))
        if n in (3, 399):
            await pass_time(receiver, clock, 60)
            looked_at.append(await calls_in_a_tick(receiver))
    assert receiver.sessions.count == 400
    assert looked_at[1] <= looked_at[0] + 20


async def test_a_session_that_cannot_leave_the_memory_yet_does_not_hold_up_the_others(
    receiver: Receiver, clock: Clock, tmp_path: Path
) -> None:
    page, other = Page("s", clock), Page("other", clock)
    await receiver.sessions.accept("s", page.batch(turn(0), END))
    with without(tmp_path, "outbox"):
        await pass_time(receiver, clock, 300)
        assert receiver.sessions.count == 1
        await receiver.sessions.accept("other", other.batch(turn(0)))
    await pass_time(receiver, clock, 120)
    assert receiver.names == ["invoke_agent", "voice_session", "invoke_agent"]


async def test_sessions_that_nothing_came_for_longest_leave_a_full_memory_and_their_traces_are_whole(
    tmp_path: Path, clock: Clock
) -> None:
    receiver = Receiver(tmp_path, clock, in_memory=3)
    pages = [Page(f"s{n}", clock) for n in range(8)]
    for n in range(3):
        for page in pages:
            await receiver.sessions.accept(page.session_id, page.batch(turn(n)))
            await pass_time(receiver, clock, 1)
            assert receiver.sessions.count <= 4
    for page in pages:
        await receiver.sessions.accept(page.session_id, page.batch(END))
    await pass_time(receiver, clock, OVER, 60)
    assert receiver.sessions.count <= 3
    for page in pages:
        trace = [span for span in receiver.made if span.trace_id.hex() == trace_id(page.session_id)]
        assert trace == receiver.expected(page.session_id)
        assert [span.name for span in trace] == ["invoke_agent"] * 3 + ["voice_session"]
    await receiver.store.close()


async def test_a_session_that_left_a_full_memory_ends_by_itself_when_it_is_idle(tmp_path: Path, clock: Clock) -> None:
    receiver = Receiver(tmp_path, clock, in_memory=1)
    for n in range(4):
        await receiver.sessions.accept(f"s{n}", Page(f"s{n}", clock).batch(turn(0)))
    await pass_time(receiver, clock, OVER, 60)
    assert sorted(receiver.names) == ["invoke_agent"] * 4 + ["voice_session"] * 4
    await receiver.store.close()


# In


async def test_a_session_that_has_logged_as_much_as_it_may_logs_no_more(receiver: Receiver, clock: Clock) -> None:
    large = {"type": "mark", "name": "m", "junk": "x" * 1_000_000}
    page = Page("s", clock)
    with pytest.raises(UsedUp):
        for _ in range(70):
            await receiver.sessions.accept("s", page.batch(large))
    assert 64 * 2**20 <= receiver.store.used_bytes < 70 * 2**20
    await receiver.sessions.accept("other", Page("other", clock).batch(turn(0)))


def called(n: int) -> dict[str, Any]:
    return {"type": "tool_call", "call_id": f"c{n}", "name": "search_for_something"}


async def test_a_session_takes_no_more_events_at_once_than_can_be_told_and_the_others_later(
    receiver: Receiver, clock: Clock
) -> None:
    page = Page("s", clock)
    for _ in range(WAITING // 500):
        await receiver.sessions.accept("s", page.batch(*[{"type": "mark", "name": "m"}] * 500))
    later = page.batch({"type": "mark", "name": "later"})
    with pytest.raises(Busy):
        await receiver.sessions.accept("s", later)
    await pass_time(receiver, clock, 5)
    await receiver.sessions.accept("s", later)
    await pass_time(receiver, clock, 5)
    assert receiver.store.reader.ledger().made == WAITING + 1


async def test_a_session_with_too_much_that_has_no_end_takes_no_more_of_it_and_says_so(
    receiver: Receiver, clock: Clock
) -> None:
    page, taken = Page("s", clock), 0
    with pytest.raises(UsedUp, match=f"{HELD} tool calls"):
        while True:
            await receiver.sessions.accept("s", page.batch(*map(called, range(taken, taken + 500))))
            taken += 500
            await pass_time(receiver, clock, 5)
    assert taken == HELD
    await receiver.sessions.accept("s", e.Ended("user_hangup"))
    await pass_time(receiver, clock, 10)
    assert receiver.store.reader.ledger().made == HELD + 2


async def test_a_session_has_no_more_sources_than_it_may_and_those_it_has_go_on(
    receiver: Receiver, clock: Clock
) -> None:
    def batch(source: int, seq: int) -> e.Accepted:
        event = {"type": "mark", "name": "here" * 16, "seq": seq}
        return e.Accepted([Raw(json.dumps(event).encode())], f"source-{source}")

    for n in range(SOURCES):
        await receiver.sessions.accept("s", batch(n, 0))
        if n % 500 == 499:
            await pass_time(receiver, clock, 5)
    with pytest.raises(UsedUp, match=f"{SOURCES} sources"):
        await receiver.sessions.accept("s", batch(SOURCES, 0))
    await receiver.sessions.accept("s", batch(0, 1))
    await pass_time(receiver, clock, 5)
    assert receiver.accepted == SOURCES + 1


async def test_a_stop_in_the_middle_of_a_sessions_work_loses_no_span(tmp_path: Path, clock: Clock) -> None:
    async with started(tmp_path, clock) as first:
        page = Page("s", clock)
        for n in range(0, 4_000, 500):
            await first.sessions.accept("s", page.batch(*map(called, range(n, n + 500))))
        await first.sessions.accept("s", page.batch(END))
        clock.now += 3600
        at_work, entry = asyncio.create_task(first.sessions.tick()), first.sessions._open["s"]
        while not (entry.unsaved and entry.session.has_made and entry.session.rests_until == math.inf):
            assert not at_work.done()
            await asyncio.sleep(0)
        at_work.cancel()
        await asyncio.wait([at_work])
        await first.sessions.stop()
    async with started(tmp_path, clock) as second:
        await pass_time(second, clock, 60)
        assert sorted(span.span_id for span in second.made) == sorted(span.span_id for span in second.expected("s"))
        assert second.store.reader.ledger().made == 4_002


async def test_a_session_with_much_to_do_lets_others_go_on_meanwhile(receiver: Receiver, clock: Clock) -> None:
    page = Page("s", clock)
    for n in range(0, 4_000, 500):
        await receiver.sessions.accept("s", page.batch(*map(called, range(n, n + 500))))
    await receiver.sessions.accept("s", page.batch(END))
    clock.now += 3600
    at_work, entry = asyncio.create_task(receiver.sessions.tick()), receiver.sessions._open["s"]
    told = made = 0
    while not at_work.done():
        await asyncio.sleep(0)
        told += 0 < len(entry.session.waiting.arrived) < 4_000
        made += entry.session.has_made
    assert told > 1 and made > 1


async def test_a_request_whose_client_went_away_is_applied_all_the_same(
    receiver: Receiver, clock: Clock, tmp_path: Path
) -> None:
    with held(tmp_path):
        request = asyncio.create_task(receiver.sessions.accept("s", Page("s", clock).batch(turn(0))))
        await turns_of_loop()
        await asyncio.to_thread(wait_for, lambda: receiver.store.queued_bytes, 20, "the append")
        request.cancel()
        await asyncio.wait([request])
        assert (request.cancelled(), receiver.accepted) == (True, 0)
    await asyncio.to_thread(wait_for, lambda: receiver.accepted, 20, "the commit")
    await pass_time(receiver, clock, OVER, 60)
    assert receiver.names == ["invoke_agent", "voice_session"]


async def test_a_record_that_could_not_be_stored_is_not_applied_and_its_repetition_is(
    receiver: Receiver, clock: Clock, tmp_path: Path
) -> None:
    batch = Page("s", clock).batch(turn(0))
    with without(tmp_path, "log"), pytest.raises(Unavailable):
        await receiver.sessions.accept("s", batch)
    assert (receiver.sessions.count, receiver.accepted) == (0, 0)
    await receiver.sessions.accept("s", batch)
    await pass_time(receiver, clock, OVER, 60)
    (_, root) = receiver.made
    assert {a.key: a.value.int_value for a in root.attributes}["voice.events.received"] == 1


async def test_a_session_with_too_much_under_way_is_busy_and_its_neighbour_is_not(
    receiver: Receiver, clock: Clock, tmp_path: Path
) -> None:
    page = Page("s", clock)
    with held(tmp_path):
        asked = [asyncio.create_task(receiver.sessions.accept("s", page.batch(turn(n)))) for n in range(64)]
        await asyncio.to_thread(wait_for, lambda: receiver.sessions.count, 20, "the session")
        await turns_of_loop()
        with pytest.raises(Busy):
            await receiver.sessions.accept("s", page.batch(turn(64)))
        other = asyncio.create_task(receiver.sessions.accept("other", Page("other", clock).batch(turn(0))))
        await turns_of_loop()
    await asyncio.gather(*asked, other)
    assert receiver.accepted == 65


async def test_requests_that_make_the_same_session_at_once_make_one(receiver: Receiver, clock: Clock) -> None:
    new = e.NewSession(user_id="u1")
    made = await asyncio.gather(*(receiver.sessions.create(new, "s") for _ in range(5)))
    assert len({entry.no for entry in made}) == 1
    looked = await receiver.sessions.look("s")
    assert looked is not None
    assert looked[1].user_id == "u1"


async def test_an_event_ahead_of_the_creation_does_not_swallow_what_the_creation_says(
    receiver: Receiver, clock: Clock
) -> None:
    event = Page("s", clock).batch(turn(0))
    await asyncio.gather(receiver.sessions.accept("s", event), receiver.sessions.create(e.NewSession(user_id="u"), "s"))
    looked = await receiver.sessions.look("s")
    assert looked is not None
    assert (looked[1].user_id, looked[1].turn_count) == ("u", 1)


# Out


async def test_spans_that_could_not_be_stored_are_kept_and_stored_once(
    receiver: Receiver, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    page = Page("s", clock)
    await receiver.sessions.accept("s", page.batch(turn(0)))
    with without(tmp_path, "outbox"):
        await pass_time(receiver, clock, 40)
        assert "spans wait in memory" in caplog.text
        await receiver.sessions.accept("s", page.batch(turn(1)))
        await pass_time(receiver, clock, 40)
    await receiver.sessions.tick()
    assert receiver.names == ["invoke_agent", "invoke_agent"]


async def test_a_crash_while_spans_could_not_be_stored_costs_none(tmp_path: Path, clock: Clock) -> None:
    pages = [Page("a", clock), Page("b", clock)]
    async with started(tmp_path, clock) as first:
        await first.sessions.accept("a", pages[0].batch(turn(0)))
        with without(tmp_path, "outbox"):
            await pass_time(first, clock, 40)
            await first.sessions.accept("b", pages[1].batch(turn(0)))
    async with started(tmp_path, clock) as second:
        await pass_time(second, clock, OVER, 60)
        assert sorted(second.names) == ["invoke_agent"] * 2 + ["voice_session"] * 2


def found(receiver: Receiver, text: str) -> int:
    return len(receiver.store.calls.found(Filter(text=text), 10))


async def test_words_of_turns_that_could_not_be_stored_are_found_once_they_are(
    receiver: Receiver, clock: Clock, tmp_path: Path
) -> None:
    page = Page("s", clock)
    await receiver.sessions.accept("s", page.batch(turn(1), turn(2)))
    with without(tmp_path, "outbox"):
        await pass_time(receiver, clock, 60)
        assert found(receiver, "ask") == 0
    await pass_time(receiver, clock, 5)
    assert (found(receiver, "ask"), found(receiver, "ask 2"), found(receiver, "ask 3")) == (1, 1, 0)


async def test_words_outlive_a_crash_and_are_told_once(tmp_path: Path, clock: Clock) -> None:
    async with started(tmp_path, clock) as receiver:
        await receiver.sessions.accept("s", Page("s", clock).batch(turn(1), turn(2), END))
        await receiver.crash()
    for _ in range(2):
        async with started(tmp_path, clock) as receiver:
            await pass_time(receiver, clock, 60)
            assert found(receiver, "ask 1") == found(receiver, "ask 2") == 1
            with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as db:
                assert db.execute("SELECT rowid & 4095, text FROM words").fetchall() == [
                    (1, "ask 1\nyes"),
                    (2, "ask 2\nyes"),
                ]


async def test_who_listens_hears_of_every_row_that_is_written_and_of_the_latest_where_they_are_many(
    receiver: Receiver, clock: Clock
) -> None:
    with receiver.sessions.changes() as changes:
        for n in range(Changes.MOST + 5):
            await receiver.sessions.create(e.NewSession(), f"s{n}")
        await receiver.sessions.flush()
        heard = [json.loads(summary)["session_id"] for summary in changes.take()]
        assert heard == [f"s{n}" for n in reversed(range(5, Changes.MOST + 5))]
        assert changes.take() == [] and 0 <= changes.at - clock.now * 1000 < 1
        await receiver.sessions.accept("s1", Page("s1", clock).batch(turn(1)))
        await receiver.sessions.flush()
        changes.add_older([SessionRow(2, "s1", 0, None, 0.0, "open", b"old")], 1.0)
        (summary,) = changes.take()
        assert summary != b"old" and 0 <= changes.at - clock.now * 1000 < 1


async def test_a_session_whose_row_cannot_be_stored_is_broken_and_holds_up_nobody(
    receiver: Receiver, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    # No page can say this time, and no store take it.
    nowhen = e.TurnComplete(turn_id="t", ts=math.nan, seq=0)
    await receiver.sessions.accept("s1", Page("s1", clock).batch(turn(1), END))
    await receiver.sessions.accept("s2", e.Accepted([Raw(b"{}")], "page"), [nowhen])
    await receiver.sessions.accept("s3", Page("s3", clock).batch(turn(1), END))
    await pass_time(receiver, clock, 60)
    assert receiver.names == ["invoke_agent", "voice_session"] * 2
    statuses = {row.id: row.status for row in receiver.store.reader.sessions(10)}
    assert statuses == {"s1": "ended", "s2": "broken", "s3": "ended"}
    assert caplog.text.count("session s2 cannot be mapped; its events are kept") == 1
    # What comes for it is stored all the same, and the ledger goes on adding up.
    await receiver.sessions.accept("s2", Page("s2", clock).batch(turn(2)))
    await receiver.sessions.tick()
    ledger = receiver.store.reader.counted_ledger()
    assert ledger.adds_up and ledger == receiver.store.reader.ledger() and ledger.open == 2


async def test_a_flush_that_its_caller_gave_up_loses_nothing_when_it_fails(
    receiver: Receiver, clock: Clock, tmp_path: Path
) -> None:
    await receiver.sessions.accept("s", Page("s", clock).batch(turn(0)))
    clock.now += 40
    with without(tmp_path, "outbox"):
        flushing = asyncio.create_task(receiver.sessions.tick())
        await asyncio.sleep(0)
        flushing.cancel()
        await asyncio.wait([flushing])
        await receiver.sessions.flush()
    await receiver.sessions.tick()
    assert receiver.names == ["invoke_agent"]


async def test_a_flush_of_many_sessions_that_breaks_off_keeps_what_it_had_not_written(
    receiver: Receiver, clock: Clock, tmp_path: Path
) -> None:
    """They go out by parts, and the log is known to be taken into account only with the last."""
    names = [f"s{n}" for n in range(3 * FLUSHED_AT_ONCE)]
    for name in names:
        await receiver.sessions.accept(name, Page(name, clock).batch(turn(0), END))
    clock.now += 40
    with without(tmp_path, "outbox"):
        await receiver.sessions.tick()
    before = await asyncio.to_thread(receiver.store.reader.counted_ledger)
    await receiver.sessions.tick()
    after = await asyncio.to_thread(receiver.store.reader.counted_ledger)
    assert before.adds_up and (before.open, before.made) == (2 * len(names), 0)
    assert after.adds_up and (after.open, after.made) == (0, 2 * len(names))


async def test_the_ledger_adds_up_between_the_parts_of_a_flush(receiver: Receiver, clock: Clock) -> None:
    for n in range(10 * FLUSHED_AT_ONCE):
        await receiver.sessions.accept(f"s{n}", Page(f"s{n}", clock).batch(turn(0), END))
    clock.now += 40
    flushing = asyncio.create_task(receiver.sessions.tick())
    seen = []
    while not flushing.done():
        seen.append(await asyncio.to_thread(receiver.store.reader.counted_ledger))
    assert len({ledger.made for ledger in seen}) > 2
    assert all(ledger.adds_up for ledger in seen)
    assert {ledger.mapped + ledger.open for ledger in seen} == {2 * 10 * FLUSHED_AT_ONCE}


async def test_what_is_said_of_a_call_after_its_end_leaves_it_over(receiver: Receiver, clock: Clock) -> None:
    page = Page("s", clock)
    await receiver.sessions.accept("s", page.batch(turn(0), END))
    await pass_time(receiver, clock, 40)
    await receiver.sessions.create(e.NewSession(user_id="u"), "s")
    await receiver.sessions.flush()
    await receiver.sessions.accept("s", page.batch(END))
    await receiver.sessions.flush()
    await pass_time(receiver, clock, 200)
    row = receiver.store.reader.session("s")
    assert row is not None and row.due is None
    assert receiver.store.reader.ledger().open == 0


async def test_what_came_while_a_flush_was_under_way_is_counted_once(receiver: Receiver, clock: Clock) -> None:
    pages = {f"s{n}": Page(f"s{n}", clock) for n in range(2 * FLUSHED_AT_ONCE)}
    for name, page in pages.items():
        await receiver.sessions.accept(name, page.batch(turn(0)))
    flushing = asyncio.create_task(receiver.sessions.flush())
    for name, page in pages.items():
        await receiver.sessions.accept(name, page.batch(turn(1)))
    await flushing
    ledger = await asyncio.to_thread(receiver.store.reader.counted_ledger)
    assert ledger.adds_up and ledger.open == 2 * len(pages)


async def test_an_erased_session_is_gone_and_may_begin_anew(tmp_path: Path, clock: Clock) -> None:
    page = Page("s", clock)
    async with started(tmp_path, clock) as first:
        await first.sessions.accept("s", page.batch(turn(0)))
        await pass_time(first, clock, 40)
        assert await first.sessions.erase("s")
        assert (await first.sessions.look("s"), first.store.reader.pending(9, 2**40), first.sessions.count) == (
            None,
            [],
            0,
        )
        assert not await first.sessions.erase("s")
        await first.sessions.accept("s", page.batch(turn(1)))
    async with started(tmp_path, clock) as second:
        looked = await second.sessions.look("s")
        assert looked is not None
        assert looked[1].turn_count == 1


@pytest.mark.parametrize("restarted", [False, True])
async def test_an_erasure_that_fails_leaves_the_session_as_it_was(
    tmp_path: Path, clock: Clock, restarted: bool
) -> None:
    page, other = Page("s", clock), Page("other", clock)
    async with started(tmp_path, clock) as first:
        await first.sessions.accept("s", page.batch(turn(0)))
        await first.sessions.accept("s", page.batch(turn(1)))
        with without(tmp_path, "dead_letters"), pytest.raises(Unavailable):
            await first.sessions.erase("s")
        await first.sessions.accept("other", other.batch(turn(0)))
        await pass_time(first, clock, 1)
        if not restarted:
            await first.sessions.accept("s", page.batch(turn(2)))
            await pass_time(first, clock, OVER, 60)
            assert sorted(first.names) == ["invoke_agent"] * 4 + ["voice_session"] * 2
    async with started(tmp_path, clock) as second:
        await pass_time(second, clock, OVER, 60)
        assert second.store.reader.counted_ledger().adds_up
        assert second.store.reader.counted_ledger() == second.store.reader.ledger()
        looked = await second.sessions.look("s")
        assert looked is not None
        assert looked[1].turn_count == (2 if restarted else 3)


async def test_an_erasure_that_begins_as_a_load_ends_keeps_later_events_whole(tmp_path: Path, clock: Clock) -> None:
    page = Page("s", clock)
    async with started(tmp_path, clock) as first:
        await first.sessions.accept("s", page.batch(turn(0)))
        await pass_time(first, clock, 5)
    async with started(tmp_path, clock) as second:
        sessions = second.sessions

        begun = asyncio.Event()

        async def erase_in_the_turn_of_its_load() -> None:
            for _ in range(10**6):
                if sessions.count:
                    break
                await asyncio.sleep(0)
            begun.set()
            await sessions.erase("s")

        accepting = asyncio.create_task(sessions.accept("s", page.batch(turn(1))))
        erasing = asyncio.create_task(erase_in_the_turn_of_its_load())
        await begun.wait()
        await asyncio.sleep(0)
        await asyncio.gather(accepting, erasing, sessions.accept("s", page.batch(turn(2))))
        await pass_time(second, clock, OVER, 60)
        ledger = second.store.reader.counted_ledger()
        assert ledger.adds_up and ledger == second.store.reader.ledger()
        assert (ledger.accepted, ledger.open) == (3, 0)
        row = second.store.reader.session("s")
        assert row is not None and ledger.mapped > 0


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_is_accepted_while_its_session_is_erased_is_kept_whole_or_erased_whole(
    tmp_path: Path, clock: Clock, restarted: bool
) -> None:
    page = Page("s", clock)
    async with started(tmp_path, clock) as first:
        await first.sessions.accept("s", page.batch(turn(0)))
        if not restarted:
            await first.sessions.accept("s", page.batch(turn(1)))
            await asyncio.gather(
                *(first.sessions.accept("s", page.batch(turn(n))) for n in range(2, 5)),
                first.sessions.erase("s"),
                *(first.sessions.accept("s", page.batch(turn(n))) for n in range(5, 8)),
            )
    async with started(tmp_path, clock) as second:
        if restarted:
            await asyncio.gather(
                second.sessions.erase("s"), *(second.sessions.accept("s", page.batch(turn(n))) for n in range(2, 8))
            )
        await second.sessions.accept("s", page.batch(turn(8)))
        looked = await second.sessions.look("s")
        assert looked is not None
        turns = looked[1].turn_count
        assert turns >= 1
        await pass_time(second, clock, OVER, 60)
        assert second.names == ["invoke_agent"] * turns + ["voice_session"]


async def test_a_session_that_cannot_be_mapped_harms_no_other_and_is_tried_again_at_the_next_start(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    unknown, known = b'{"type":"from_a_later_version"}', b'{"type":"turn_complete","turn_id":"t"}'
    async with started(tmp_path, clock) as first:
        await first.sessions.accept("bad", e.Accepted([Raw(unknown)]))
        await first.sessions.accept("good", Page("good", clock).batch(turn(1), END))
        clock.now += 60
        await first.sessions.tick()
        assert sorted(first.names) == ["invoke_agent", "voice_session"]
        row = first.store.reader.session("bad")
        assert row is not None and row.status == "broken"
        with pytest.raises(CannotMap, match="session bad cannot be mapped by this version"):
            await first.sessions.look("bad")
        assert "session bad cannot be mapped" in caplog.text
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as db:
        # As a version that knows the event would read it.
        mend = "UPDATE log SET body = CAST(replace(CAST(body AS TEXT), ?, ?) AS BLOB)"
        db.execute(mend, (unknown.decode(), known.decode()))
        db.commit()
    async with started(tmp_path, clock) as second:
        clock.now += OVER
        await second.sessions.tick()
        assert sorted(second.names) == ["invoke_agent", "invoke_agent", "voice_session", "voice_session"]


async def test_where_the_clock_was_set_back_time_goes_on_at_half_its_pace(receiver: Receiver, clock: Clock) -> None:
    await receiver.sessions.accept("s", Page("s", clock).batch(turn(1), END))
    clock.now -= 3600
    await receiver.sessions.tick()
    clock.now += 7.9
    await receiver.sessions.tick()
    assert receiver.names == []
    clock.now += 0.2
    await receiver.sessions.tick()
    assert sorted(receiver.names) == ["invoke_agent", "voice_session"]


async def test_a_time_before_1970_stops_neither_its_session_nor_the_others(receiver: Receiver, clock: Clock) -> None:
    early = {**turn(0), "seq": 0, "ts": e.EARLIEST_MS}
    batch = e.Accepted([Raw(json.dumps(early).encode())], "page", e.Clock(offset=-(10.0**13)))
    await receiver.sessions.accept("early", batch)
    await receiver.sessions.accept("other", Page("other", clock).batch(turn(0)))
    await pass_time(receiver, clock, OVER, 60)
    assert sorted(receiver.names) == ["invoke_agent"] * 2 + ["voice_session"] * 2


# Exactly once, whatever happens

IDS = ("a", "b")
EVENTS = (
    {"type": "turn_start", "turn_id": "t1"},
    {"type": "turn_complete", "turn_id": "t1", "user_text": "ask"},
    {"type": "turn_start", "turn_id": "t2"},
    {"type": "tool_call", "call_id": "c1", "name": "look", "turn_id": "t2"},
    {"type": "tool_result", "call_id": "c1", "result": 1},
    {"type": "mark", "name": "here"},
    END,
)
steps = st.one_of(
    st.tuples(st.just("event"), st.sampled_from(IDS), st.sampled_from(EVENTS)),
    st.tuples(st.just("pass"), st.sampled_from([0.1, 1.0, 3.0, 35.0, 70.0, 1900.0])),
    st.tuples(st.just("tick")),
    st.tuples(st.just("crash"), st.sampled_from([0.0, 1.0, 5.0, 3600.0, -10.0, -40.0])),
    st.tuples(st.just("full disk"), st.sampled_from(["outbox", "log", "counters"])),
)


async def once(script: list[tuple[Any, ...]], directory: Path) -> None:
    clock = Clock()
    pages = {id_: Page(id_, clock) for id_ in IDS}
    receiver = Receiver(directory, clock)
    await receiver.sessions.start()
    for kind, *what in script:
        if kind == "event":
            await receiver.sessions.accept(what[0], pages[what[0]].batch(what[1]))
        elif kind == "pass":
            clock.now += what[0]
        elif kind == "tick":
            await receiver.sessions.tick()
        elif kind == "full disk":
            with without(directory, what[0]), contextlib.suppress(Unavailable):
                await receiver.sessions.tick()
                await receiver.sessions.accept("a", pages["a"].batch(EVENTS[5]))
        elif kind == "crash":
            await receiver.crash()
            clock.now += what[0]
            receiver = Receiver(directory, clock)
            await receiver.sessions.start()
    await pass_time(receiver, clock, OVER, 600)
    made = receiver.made
    expected = [span for id_ in IDS for span in receiver.expected(id_)]
    for id_ in IDS:
        looked = look(receiver.store.reader, id_, True, clock.now * 1000)
        assert looked is None or looked[1].status == "ended"
    await receiver.crash()
    assert sorted(span.SerializeToString() for span in made) == sorted(span.SerializeToString() for span in expected)
    assert len({(span.trace_id, span.span_id) for span in made}) == len(made)


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, max_size=25))
@example([("event", "a", EVENTS[1]), ("pass", 40.0), ("tick",), ("crash", -40.0), ("event", "a", END), ("tick",)])
@example([("event", "a", EVENTS[1]), ("event", "a", END), ("pass", 70.0), ("tick",), ("crash", 0.0), ("tick",)])
def test_every_span_of_the_log_goes_out_once_whatever_crashes_fails_or_comes_late(
    script: list[tuple[Any, ...]],
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(once(script, Path(directory)))


# Past the store


class Hop:
    """The next hop, which answers when the test says so; `taken` are the spans that it has."""

    def __init__(self) -> None:
        self.is_well = True
        self.asked: list[tuple[list[bytes], asyncio.Future[bool]]] = []
        self.taken: list[bytes] = []

    def send(self, bodies: list[bytes]) -> asyncio.Future[bool] | None:
        if not self.is_well:
            return None
        answer = asyncio.get_running_loop().create_future()
        self.asked.append((bodies, answer))
        return answer

    def answer(self, taken: bool) -> None:
        asked, self.asked = self.asked, []
        self.is_well = taken
        for bodies, answer in asked:
            self.taken += bodies if taken else []
            answer.set_result(taken)

    @property
    def names(self) -> list[str]:
        return [span.name for body in self.taken for span in spans_in(ExportTraceServiceRequest.FromString(body))]


@pytest.fixture
def hop(receiver: Receiver) -> Hop:
    hop = Hop()
    receiver.sessions.hop = hop
    return hop


async def made_and_sent(receiver: Receiver, clock: Clock) -> None:
    """A call with one turn and its end; its spans are on their way."""
    await receiver.sessions.accept("s", Page("s", clock).batch(turn(0), END))
    clock.now += 10
    await receiver.sessions.pass_time()
    await receiver.sessions.flush_spans()


async def test_what_the_next_hop_takes_at_once_is_delivered_and_was_never_in_the_outbox(
    receiver: Receiver, clock: Clock, hop: Hop
) -> None:
    await made_and_sent(receiver, clock)
    hop.answer(True)
    await receiver.sessions.flush()
    ledger = receiver.store.reader.counted_ledger()
    assert ledger.adds_up
    assert (ledger.made, ledger.delivered, ledger.pending, ledger.open) == (2, 2, 0, 0)
    assert hop.names == ["invoke_agent", "voice_session"]
    db = sqlite3.connect(receiver.directory / FILE)
    assert db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchall() == []
    db.close()


async def test_what_the_next_hop_does_not_take_at_once_goes_into_the_outbox(
    receiver: Receiver, clock: Clock, hop: Hop
) -> None:
    await made_and_sent(receiver, clock)
    hop.answer(False)
    await receiver.sessions.flush()
    ledger = receiver.store.reader.counted_ledger()
    assert ledger.adds_up
    assert (ledger.made, ledger.delivered, ledger.pending, ledger.open) == (2, 0, 2, 0)


async def test_a_crash_while_spans_are_on_their_way_costs_none_though_their_session_is_over(
    tmp_path: Path, clock: Clock
) -> None:
    hop = Hop()
    async with started(tmp_path, clock) as first:
        first.sessions.hop = hop
        await made_and_sent(first, clock)
        await first.sessions.flush()
        assert (first.accepted, first.store.reader.ledger().mapped) == (2, 0)
    async with started(tmp_path, clock) as second:
        await second.sessions.tick()
        assert second.names == ["invoke_agent", "voice_session"]


async def test_the_words_of_a_turn_that_was_sent_past_the_store_are_found(
    receiver: Receiver, clock: Clock, hop: Hop
) -> None:
    await made_and_sent(receiver, clock)
    hop.answer(True)
    await receiver.sessions.flush()
    assert found(receiver, "ask") == 1


async def test_an_end_waits_for_answers_and_stores_what_was_not_taken(tmp_path: Path, clock: Clock) -> None:
    hop = Hop()
    async with started(tmp_path, clock) as receiver:
        receiver.sessions.hop = hop
        await made_and_sent(receiver, clock)
        stop = asyncio.ensure_future(receiver.sessions.stop())
        await turns_of_loop()
        assert not stop.done()
        hop.answer(False)
        await stop
        assert receiver.names == ["invoke_agent", "voice_session"]


async def test_an_end_gives_up_waiting_for_an_answer_and_stores_the_spans(
    receiver: Receiver, clock: Clock, hop: Hop
) -> None:
    await made_and_sent(receiver, clock)
    await receiver.sessions.stop()
    assert [answer.cancelled() for _, answer in hop.asked] == [True]
    assert receiver.names == ["invoke_agent", "voice_session"]


async def test_a_session_that_is_erased_while_its_spans_are_on_their_way_leaves_the_ledger_right(
    receiver: Receiver, clock: Clock, hop: Hop
) -> None:
    await made_and_sent(receiver, clock)
    assert await receiver.sessions.erase("s")
    hop.answer(True)
    await turns_of_loop()
    await receiver.sessions.flush()
    ledger = receiver.store.reader.counted_ledger()
    assert ledger.adds_up
    assert (ledger.made, ledger.delivered, ledger.erased) == (0, 0, 2)


async def test_spans_share_requests_past_the_store_as_far_as_these_are_of_moderate_size(
    receiver: Receiver, clock: Clock, hop: Hop
) -> None:
    for n in range(16):
        said = {**turn(0), "agent_text": "long " * 12_000}
        await receiver.sessions.accept(f"s{n}", Page(f"s{n}", clock).batch(said, END))
    clock.now += 10
    await receiver.sessions.pass_time()
    await receiver.sessions.flush_spans()
    sizes = [sum(map(len, bodies)) for bodies, _ in hop.asked]
    assert len(sizes) > 1
    assert max(sizes) <= LENT_BYTES < sizes[0] + sizes[1]
    hop.answer(True)
    await turns_of_loop()
    hop.answer(True)
    assert sorted(hop.names) == ["invoke_agent"] * 16 + ["voice_session"] * 16


sendings = st.one_of(
    steps,
    st.tuples(st.just("send"), st.sampled_from([0.1, 3.0, 35.0])),
    st.tuples(st.just("answer"), st.booleans()),
)


async def sent_or_stored(script: list[tuple[Any, ...]], directory: Path) -> None:
    clock, hop, restarted = Clock(), Hop(), False
    pages = {id_: Page(id_, clock) for id_ in IDS}
    receiver = Receiver(directory, clock)
    receiver.sessions.hop = hop
    await receiver.sessions.start()
    for kind, *what in script:
        if kind == "event":
            await receiver.sessions.accept(what[0], pages[what[0]].batch(what[1]))
        elif kind == "send":
            clock.now += what[0]
            await receiver.sessions.pass_time()
            await receiver.sessions.flush_spans()
        elif kind == "answer":
            hop.answer(what[0])
            await turns_of_loop()
        elif kind == "pass":
            clock.now += what[0]
        elif kind == "tick":
            await receiver.sessions.tick()
        elif kind == "full disk":
            with without(directory, what[0]), contextlib.suppress(Unavailable):
                await receiver.sessions.tick()
                await receiver.sessions.flush_spans()
        elif kind == "crash":
            # The hop may have taken them: nobody heard.
            hop.taken += [body for bodies, _ in hop.asked for body in bodies]
            hop.asked.clear()
            await receiver.crash()
            clock.now, restarted = clock.now + what[0], True
            receiver = Receiver(directory, clock)
            receiver.sessions.hop = hop
            await receiver.sessions.start()
    hop.answer(False)
    await turns_of_loop()
    await pass_time(receiver, clock, OVER, 600)
    ledger = receiver.store.reader.counted_ledger()
    stored = [row.body for row in receiver.store.reader.pending(10_000, 2**40)]
    expected = [span.SerializeToString() for id_ in IDS for span in receiver.expected(id_)]
    await receiver.crash()
    assert ledger.adds_up
    assert (ledger.made, ledger.open) == (len(expected), 0)
    found = [
        span.SerializeToString()
        for body in hop.taken + stored
        for span in spans_in(ExportTraceServiceRequest.FromString(body))
    ]
    assert set(found) == set(expected)
    if not restarted:
        assert len(found) == len(expected)


@settings(max_examples=200, deadline=None)
@given(st.lists(sendings, max_size=25))
@example([("event", "a", EVENTS[1]), ("event", "a", END), ("send", 35.0), ("tick",), ("crash", 0.0), ("tick",)])
def test_every_span_is_taken_or_stored_whatever_the_next_hop_answers_and_whenever(
    script: list[tuple[Any, ...]],
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(sent_or_stored(script, Path(directory)))
