"""Retention over a real store and real sessions: what was delivered goes when it is old or in the way, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import Raw

from otel_voice import events as e
from otel_voice.otlp import Encoder
from otel_voice.retention import DAY_MS, Retention
from otel_voice.sessions import Sessions
from otel_voice.store import Store
from tests.running import Clock

pytestmark = pytest.mark.anyio
DAY_S = DAY_MS / 1000
MIB = 2**20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Kept:
    """A store with calls in it, of which `deliver` takes the spans away."""

    def __init__(self, directory: Path, max_bytes: float = 1024 * MIB) -> None:
        self.clock = Clock()
        self.store = Store(directory, asyncio.get_running_loop(), "NORMAL", max_bytes)
        self.sessions = Sessions(self.store, Encoder({}, "1"), self.clock)

    async def call(self, session_id: str, size: int = 0, ended: bool = True) -> None:
        text = b"x" * size
        turn = Raw(b'{"type": "mark", "name": "m", "seq": 0, "junk": "%s"}' % text)
        end = [Raw(b'{"type": "session_end", "seq": 1}')] if ended else []
        await self.sessions.accept(session_id, e.Accepted([turn, *end], "page"))

    async def pass_time(self, seconds: float) -> None:
        """In two steps: a session that is over leaves the memory a minute later."""
        for _ in range(2):
            self.clock.now += seconds / 2
            await self.sessions.tick()
            await self.sessions.tick()

    async def deliver(self) -> None:
        await self.store.delivered([row.id for row in self.store.reader.pending(10_000, 2**40)])

    async def sweep(self, days: float = 30, delivered: bool = True) -> list[str]:
        """The ids of those that are left, the oldest first."""
        retention = Retention(self.store, self.sessions, self.clock, days, delivered)
        for _ in range(3):
            await retention.sweep()
        return [row.id for row in self.store.reader.sessions(1000)][::-1]


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    kept = Kept(tmp_path)
    yield kept
    await kept.store.close()


async def test_a_delivered_session_is_kept_for_the_days_it_is_to_be_kept(kept: Kept) -> None:
    await kept.call("old")
    await kept.pass_time(20 * DAY_S)
    await kept.call("new")
    await kept.pass_time(9 * DAY_S)
    await kept.deliver()
    assert await kept.sweep() == ["old", "new"]
    await kept.pass_time(2 * DAY_S)
    assert await kept.sweep() == ["new"]
    assert kept.store.reader.counted_ledger().adds_up


async def test_a_session_that_is_not_delivered_is_kept_however_old_it_is(kept: Kept) -> None:
    await kept.call("pending")
    await kept.pass_time(400 * DAY_S)
    assert await kept.sweep() == ["pending"]


async def test_a_session_whose_span_is_a_dead_letter_is_kept_however_old_it_is(kept: Kept) -> None:
    await kept.call("refused")
    await kept.pass_time(400 * DAY_S)
    first, *_ = kept.store.reader.pending(10, 2**40)
    await kept.store.set_aside(first, "no")
    await kept.deliver()
    assert await kept.sweep() == ["refused"]


async def test_beyond_a_thousand_sessions_that_have_to_stay_the_others_are_found(kept: Kept) -> None:
    await asyncio.gather(*(kept.call(f"pending-{n}") for n in range(1_001)))
    await kept.call("delivered")
    await kept.pass_time(40 * DAY_S)
    (row,) = [row for row in kept.store.reader.sessions(2_000) if row.id == "delivered"]
    await kept.store.delivered([each.id for each in kept.store.reader.pending(9_999, 2**40) if each.session == row.no])
    assert "delivered" not in await kept.sweep()
    assert kept.store.reader.session("pending-0") is not None


async def test_where_spans_are_to_go_nowhere_an_old_session_goes_and_its_spans_count_as_dropped(kept: Kept) -> None:
    await kept.call("old")
    await kept.pass_time(40 * DAY_S)
    made = kept.store.reader.ledger().made
    assert await kept.sweep(delivered=False) == []
    assert (kept.store.reader.ledger().dropped, kept.store.reader.counted_ledger().adds_up) == (made, True)


async def test_a_nearly_full_store_lets_go_of_the_oldest_delivered_sessions_and_of_no_more_than_it_has_to(
    tmp_path: Path,
) -> None:
    kept = Kept(tmp_path, 10 * MIB)
    for n in range(12):
        await kept.call(f"call-{n}", 800_000)
        await kept.pass_time(120)
    left = [f"call-{n}" for n in range(12)]
    assert await kept.sweep() == left
    await kept.deliver()
    after = await kept.sweep()
    assert after == left[-len(after) :]
    assert 0 < len(after) < 12
    assert kept.store.used_bytes <= 0.9 * 10 * MIB < kept.store.used_bytes + 2 * MIB
    await kept.store.close()


async def test_a_session_in_memory_is_not_let_go_of(kept: Kept) -> None:
    await kept.call("lingers")
    kept.clock.now += 5
    await kept.sessions.tick()
    await kept.sessions.tick()
    await kept.deliver()
    assert await kept.sweep(days=-1) == ["lingers"]
    await kept.pass_time(300)
    assert await kept.sweep(days=-1) == []


async def test_a_full_store_does_not_wait_for_the_latecomers_of_a_session_that_is_over(tmp_path: Path) -> None:
    kept = Kept(tmp_path, MIB)
    await kept.call("lingers", 800_000)
    await kept.call("goes-on", 800_000, ended=False)
    kept.clock.now += 5
    for _ in range(2):
        await kept.sessions.tick()
    await kept.deliver()
    assert kept.store.refuses is not None and kept.sessions.is_open("lingers")
    assert await kept.sweep() == ["goes-on"]
    await kept.store.close()


async def test_an_event_that_comes_for_a_session_while_it_is_let_go_of_begins_it_anew(kept: Kept) -> None:
    await kept.call("s")
    await kept.pass_time(300)
    await kept.deliver()
    row = kept.store.reader.session("s")
    assert row is not None
    await asyncio.gather(kept.sessions.retire(row.no, "s", True), kept.call("s", ended=False))
    again = kept.store.reader.session("s")
    assert again is not None and again.no != row.no
    assert len(kept.store.reader.log(again.no)) == 1
    assert kept.store.reader.counted_ledger().adds_up
