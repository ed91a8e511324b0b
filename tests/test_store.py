"""The store: what returned is on disk, what failed left nothing, and no number is given twice. Real SQLite."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from otel_voice.store import (
    FILE,
    Append,
    Call,
    Condition,
    Counted,
    Damaged,
    Filter,
    Flush,
    Locked,
    LogRow,
    Reader,
    SessionRow,
    Store,
    Unavailable,
    Unwritable,
    calls,
    drop,
    lock,
    retry,
    words,
)
from otel_voice.store import file as store_file
from otel_voice.store.file import SUSPECT
from tests.real import COLLECTOR_CONFIG
from tests.running import damage, without

pytestmark = pytest.mark.anyio
ROOT = COLLECTOR_CONFIG.parent


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextlib.asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Store]:
    store = Store(directory, asyncio.get_running_loop(), "NORMAL")
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(tmp_path) as store:
        yield store


def appending(store: Store, session: int, body: bytes, at: float = 1.0, new: bool = True) -> asyncio.Future[int]:
    return store.append(Append(session, f"session-{session}", new, at, body), lambda _: None, lambda: None)


def row(session: int, made: int = 0, due: float | None = 5.0, started_at: float = 1.0) -> SessionRow:
    return SessionRow(session, f"session-{session}", made, due, started_at, "open", b"{}")


def flushing(
    store: Store, *rows: SessionRow, spans: tuple[bytes, ...] = (), flushed: int, events: int = 0
) -> asyncio.Future[int]:
    """With what the rows count, when it is said."""
    counted = [Counted(row.no, events, row.due is None) for row in rows if events]
    return store.flush(Flush(rows, [(rows[0].no, body) for body in spans], flushed, counted=counted))


def bodies(reader: Reader, session: int) -> list[bytes]:
    return [row.body for row in reader.log(session)]


def ledger(reader: Reader) -> tuple[int, int, int, int, int]:
    """Made, delivered, pending, dead, dropped: they add up at every moment."""
    counted = reader.counted_ledger()
    assert counted.adds_up
    assert counted == reader.ledger()
    return counted.made, counted.delivered, counted.pending, counted.dead, counted.dropped


# The log


async def test_a_sessions_records_are_read_in_their_order_before_and_after_a_flush(store: Store) -> None:
    for n in range(6):
        await appending(store, 1 + n % 2, b"%d" % n)
    assert (bodies(store.reader, 1), bodies(store.reader, 2)) == ([b"0", b"2", b"4"], [b"1", b"3", b"5"])
    await flushing(store, row(1), row(2), flushed=6)
    await appending(store, 1, b"6")
    assert (bodies(store.reader, 1), bodies(store.reader, 2)) == ([b"0", b"2", b"4", b"6"], [b"1", b"3", b"5"])


@pytest.mark.parametrize("flushed", [False, True])
async def test_a_log_is_read_by_pages_of_a_size(store: Store, flushed: bool) -> None:
    for n, length in enumerate([40, 50, 10, 300, 1, 99, 2]):
        await appending(store, 1, b"%d" % n * length)
        await appending(store, 2, b"another's")
    if flushed:
        await flushing(store, row(1), row(2), flushed=store.last_log + 14)
    pages = [[row.body for row in store.reader.log_page(page)] for page in store.reader.log_pages(1, 100)]
    assert [[len(body) for body in page] for page in pages] == [[40, 50, 10], [300], [1, 99], [2]]
    assert [body for page in pages for body in page] == bodies(store.reader, 1)
    assert store.reader.log_pages(3, 100) == []


async def test_reads_wait_for_no_other_and_their_connections_are_closed_after(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        reader = store.reader
        with reader._reading() as first, reader._reading() as second:
            assert first is not second
            assert await asyncio.wait_for(asyncio.to_thread(reader.ledger), 5)
    with pytest.raises(Unavailable, match="the store is closed"):
        reader.ledger()


async def test_arrival_times_are_kept_to_the_microsecond(store: Store) -> None:
    await appending(store, 1, b"x", at=1_790_000_000_000.125)
    assert store.reader.log(1) == [LogRow(1_790_000_000_000.125, b"x")]


async def test_numbers_come_in_the_order_of_asking_also_within_one_commit(store: Store) -> None:
    heard: list[int] = []
    asked = [store.append(Append(1, "session-1", True, 1.0, b"%d" % n), heard.append, lambda: None) for n in range(500)]
    numbers = await asyncio.gather(*asked)
    assert numbers == heard == list(range(1, 501))
    assert bodies(store.reader, 1) == [b"%d" % n for n in range(500)]


async def test_a_session_that_is_over_and_goes_on_keeps_its_whole_log(store: Store) -> None:
    await appending(store, 1, b"before")
    await flushing(store, row(1, due=None), flushed=1)
    await appending(store, 1, b"after", new=False)
    assert bodies(store.reader, 1) == [b"before", b"after"]


async def test_the_whole_log_is_there_after_a_restart_though_the_sessions_rows_are_behind(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await appending(store, 1, b"0")
        await appending(store, 2, b"1")
        await flushing(store, row(1), row(2), flushed=2)
        await appending(store, 1, b"2")
        await appending(store, 3, b"3")
    async with opened(tmp_path) as store:
        assert sorted(store.behind) == [1, 3]
        assert await appending(store, 1, b"4") == 5
        await appending(store, 2, b"5")
        assert bodies(store.reader, 1) == [b"0", b"2", b"4"]
        assert bodies(store.reader, 2) == [b"1", b"5"]
        assert bodies(store.reader, 3) == [b"3"]
        assert store.next_session == 4


async def test_a_flush_that_stands_between_two_appends_loses_neither_over_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        first = appending(store, 1, b"0")
        flushed = flushing(store, row(1), flushed=1)
        second = appending(store, 1, b"1")
        await asyncio.gather(first, flushed, second)
    async with opened(tmp_path) as store:
        assert bodies(store.reader, 1) == [b"0", b"1"]


async def test_time_never_goes_back_over_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await appending(store, 1, b"x", at=1000.5)
    async with opened(tmp_path) as store:
        assert store.last_at == 1000.5
        await store.flush(Flush([row(1)], [], 1, at=2000.5))
    async with opened(tmp_path) as store:
        assert store.last_at == 2001


# Commits that fail


async def test_a_failed_commit_leaves_nothing_behind_and_the_next_one_works(store: Store, tmp_path: Path) -> None:
    await appending(store, 1, b"kept")
    refused: list[str] = []
    with without(tmp_path, "log"):
        future = store.append(Append(1, "session-1", True, 1.0, b"lost"), lambda _: None, lambda: refused.append("x"))
        other = store.append(Append(2, "session-2", True, 1.0, b"lost"), lambda _: None, lambda: refused.append("y"))
        for each in (future, other):
            with pytest.raises(Unavailable):
                await each
    assert refused == ["x", "y"]
    assert (store.reader.session("session-2"), store.queued_bytes) == (None, 0)
    await appending(store, 1, b"next")
    assert bodies(store.reader, 1) == [b"kept", b"next"]


async def test_a_flush_is_whole_or_not_at_all(store: Store, tmp_path: Path) -> None:
    await appending(store, 1, b"x")
    with without(tmp_path, "outbox"), pytest.raises(Unavailable):
        await flushing(store, row(1, made=1), spans=(b"span",), flushed=1)
    found = store.reader.session("session-1")
    assert found is not None
    assert (found.made, ledger(store.reader)) == (0, (0, 0, 0, 0, 0))
    await flushing(store, row(1, made=1), spans=(b"span",), flushed=1)
    assert ledger(store.reader) == (1, 0, 1, 0, 0)


FULL_DISK = """
import asyncio, pathlib, resource, signal, sys
from otel_voice.store import Append, Store, Unavailable

async def main(directory):
    store = Store(pathlib.Path(directory), asyncio.get_running_loop())
    stored = []
    async def append(n, size):
        try:
            await store.append(Append(1, "s", True, float(n), b"%d " % n + b"x" * size), lambda _: None, lambda: None)
            stored.append(n)
        except Unavailable as error:
            print("refused", error, flush=True)
    await append(0, 10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    for n in range(1, 5):
        await append(n, 100_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await append(5, 10)
    assert [int(row.body.split()[0]) for row in store.reader.log(1)] == stored
    print("stored", stored, flush=True)
    await store.close()

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
asyncio.run(main(sys.argv[1]))
"""


def test_a_full_disk_refuses_what_it_cannot_take_and_recovers_by_itself(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "refused" in done.stdout
    stored = [int(word.strip("[],")) for word in done.stdout.splitlines()[-1].split()[1:]]
    assert stored[0] == 0 and stored[-1] == 5 and 4 not in stored
    reader = Reader(tmp_path)
    assert [int(body.split()[0]) for body in bodies(reader, 1)] == stored
    reader.close()


KILLED = """
import asyncio, pathlib, sys
from otel_voice.store import Append, Flush, SessionRow, Store

async def main(directory):
    store = Store(pathlib.Path(directory), asyncio.get_running_loop())
    for n in range(10_000):
        id_ = await store.append(Append(1, "s", True, float(n), b"%d" % n), lambda _: None, lambda: None)
        print(n, flush=True)
        if n % 3 == 0:
            await store.flush(Flush([SessionRow(1, "s", n, 5.0, 1.0, "open", b"{}")], [(1, b"span")], id_))

asyncio.run(main(sys.argv[1]))
"""


def test_what_was_said_to_be_stored_is_there_after_a_kill(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(100)]
        process.send_signal(signal.SIGKILL)
        said += [int(line) for line in process.stdout.read().splitlines()]
    reader = Reader(tmp_path)
    found = [int(body) for body in bodies(reader, 1)]
    assert found == list(range(len(found)))
    assert len(found) in (len(said), len(said) + 1)
    ledger(reader)
    reader.close()


# The outbox


async def test_what_lies_between_two_that_were_delivered_is_still_pending(store: Store) -> None:
    await appending(store, 1, b"x")
    await flushing(store, row(1), spans=(b"a", b"b", b"c"), flushed=1)
    a, _, c = store.reader.pending(10, 2**40)
    await store.delivered([a.id, c.id])
    assert [left.body for left in store.reader.pending(10, 2**40)] == [b"b"]


async def test_the_ledger_adds_up_at_every_step(store: Store) -> None:
    await appending(store, 1, b"x")
    await appending(store, 2, b"x")
    await flushing(store, row(1), spans=(b"a", b"b", b"c", b"d"), flushed=2)
    await flushing(store, row(2), spans=(b"e", b"f"), flushed=2)
    assert ledger(store.reader) == (6, 0, 6, 0, 0)
    a, b, c, *_ = store.reader.pending(10, 2**40)
    await store.delivered([a.id, b.id])
    assert ledger(store.reader) == (6, 2, 4, 0, 0)
    await store.delivered([a.id, b.id])
    assert ledger(store.reader) == (6, 2, 4, 0, 0)
    await store.set_aside(c, "too large")
    await store.set_aside(c, "too large")
    assert ledger(store.reader) == (6, 2, 3, 1, 0)
    await store.erase(1)
    assert ledger(store.reader) == (6, 2, 2, 0, 2)


async def test_pending_spans_come_in_the_order_they_were_made(store: Store) -> None:
    await appending(store, 1, b"x")
    await flushing(store, row(1), spans=tuple(b"%d" % n for n in range(20)), flushed=1)
    assert [each.body for each in store.reader.pending(5, 2**40)] == [b"0", b"1", b"2", b"3", b"4"]


async def test_no_more_pending_spans_are_read_than_go_into_a_request_but_always_one(store: Store) -> None:
    await appending(store, 1, b"x")
    await flushing(store, row(1, made=4), spans=(b"x" * 100,) * 4, flushed=1)
    assert [len(store.reader.pending(10, size)) for size in (1, 100, 200, 350, 400)] == [1, 1, 2, 3, 4]


async def test_the_number_of_a_pending_span_is_never_given_again(tmp_path: Path) -> None:
    seen: list[int] = []
    for _ in range(3):
        async with opened(tmp_path) as store:
            await appending(store, 1, b"x")
            await flushing(store, row(1), spans=(b"a", b"b"), flushed=store.last_log + 1)
            ids = [each.id for each in store.reader.pending(10, 2**40)]
            await store.delivered(ids)
            seen += ids
    assert len(set(seen)) == 6


async def test_numbers_of_erased_sessions_and_records_are_never_given_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await appending(store, 1, b"x")
        await appending(store, 7, b"erased")
        await store.erase(7)
    async with opened(tmp_path) as store:
        assert store.next_session == 8
        assert await appending(store, 8, b"new") == 3
        assert bodies(store.reader, 8) == [b"new"]


async def test_events_are_open_until_their_session_is_over_and_then_mapped(store: Store) -> None:
    def events() -> tuple[int, int, int, int]:
        counted = store.reader.counted_ledger()
        assert counted.adds_up and counted == store.reader.ledger()
        return counted.accepted, counted.mapped, counted.open, counted.erased

    for n, count in enumerate((3, 2)):
        await store.append(Append(1, "session-1", True, 1.0, b"x", count), lambda _: None, lambda: None)
        assert events() == ((3, 0, 3, 0), (5, 0, 5, 0))[n]
    await flushing(store, row(1), flushed=1, events=3)
    assert events() == (5, 0, 5, 0)
    await flushing(store, row(1, due=None), flushed=2, events=5)
    assert events() == (5, 5, 0, 0)
    await store.append(Append(1, "session-1", False, 1.0, b"late", 1), lambda _: None, lambda: None)
    await flushing(store, row(1), flushed=3, events=6)
    assert events() == (6, 5, 1, 0)
    await store.erase(1)
    assert events() == (6, 5, 0, 1)


async def test_what_failed_to_be_stored_is_in_no_line_of_the_ledger(store: Store, tmp_path: Path) -> None:
    with without(tmp_path, "log"), pytest.raises(Unavailable):
        await store.append(Append(1, "session-1", True, 1.0, b"x", 7), lambda _: None, lambda: None)
    await store.append(Append(1, "session-1", True, 1.0, b"x", 2), lambda _: None, lambda: None)
    assert store.reader.counted_ledger() == store.reader.ledger()
    assert store.reader.ledger().accepted == 2


# Dead letters, as an operator treats them beside the process that writes


async def refused(store: Store, *bodies: bytes) -> None:
    await appending(store, 1, b"x")
    await flushing(store, row(1), spans=bodies, flushed=store.last_log + 1)
    for pending in store.reader.pending(100, 2**40):
        await store.set_aside(pending, f"no {pending.body.decode()}")


async def test_a_dead_letter_says_whose_it_is_why_and_when(store: Store) -> None:
    await refused(store, b"a", b"b")
    before, (first, second) = time.time() * 1000 - 10_000, store.reader.dead_letters(100)
    assert (first.session_id, first.reason, first.body) == ("session-1", "no a", b"a")
    assert store.reader.dead_letter(second.id) == second
    assert before < first.at < before + 20_000
    assert store.reader.dead_letter(99) is None


async def test_dead_letters_that_are_tried_again_are_pending_after_the_others(store: Store, tmp_path: Path) -> None:
    await refused(store, b"a", b"b", b"c")
    await flushing(store, row(1), spans=(b"d",), flushed=9)
    first, _, third = store.reader.dead_letters(100)
    assert retry(tmp_path, [third.id, first.id, 99, third.id]) == 2
    assert [each.body for each in store.reader.pending(10, 2**40)] == [b"d", b"c", b"a"]
    assert [each.body for each in store.reader.dead_letters(100)] == [b"b"]
    assert ledger(store.reader) == (4, 0, 3, 1, 0)


async def test_dead_letters_that_are_dropped_are_gone_and_counted(store: Store, tmp_path: Path) -> None:
    await refused(store, b"a", b"b", b"c")
    assert drop(tmp_path, [letter.id for letter in store.reader.dead_letters(100)][:2]) == 2
    assert ledger(store.reader) == (3, 0, 0, 1, 2)
    await store.erase(1)
    assert ledger(store.reader) == (3, 0, 0, 0, 3)


# Spans of no session


async def test_spans_can_be_put_from_any_thread(store: Store) -> None:
    await asyncio.to_thread(lambda: store.put([b"a", b"b"]).result(5))
    last = store.reader.last_pending()
    assert [each.body for each in store.reader.pending(10, 2**40)] == [b"a", b"b"]
    assert (store.reader.is_pending(last), store.reader.is_pending(0)) == (True, False)
    await store.delivered([each.id for each in store.reader.pending(10, 2**40)])
    assert (store.reader.is_pending(last), store.reader.last_pending()) == (False, 0)
    assert ledger(store.reader) == (2, 2, 0, 0, 0)


async def test_spans_that_could_not_be_put_say_so(store: Store, tmp_path: Path) -> None:
    with without(tmp_path, "outbox"), pytest.raises(Unavailable):
        await asyncio.to_thread(lambda: store.put([b"a"]).result(5))
    assert ledger(store.reader) == (0, 0, 0, 0, 0)


# Room


async def test_a_store_that_holds_more_than_it_may_refuses_new_work_until_there_is_room(tmp_path: Path) -> None:
    store = Store(tmp_path, asyncio.get_running_loop(), "NORMAL", max_bytes=2**20)
    assert store.refuses is None
    await appending(store, 1, b"x" * 2**20)
    await wait_until(lambda: "the store is full (1 MiB)" in str(store.refuses))
    await flushing(store, row(1, due=None), flushed=1)
    await store.retire(1, True)
    await wait_until(lambda: store.refuses is None)
    await store.close()


async def past(store: Store, before: float = 2.0, delivered: bool = True) -> list[int]:
    numbers, seen = [], 0
    while True:
        found, last = store.reader.past(seen, before, delivered)
        numbers += [no for no, _ in found]
        if last is None:
            return numbers
        seen = last


async def test_only_sessions_that_are_over_old_and_delivered_are_past(store: Store, tmp_path: Path) -> None:
    for n in range(1, 6):
        await appending(store, n, b"x")
    ended = [row(n, due=None) for n in range(1, 6)]
    await flushing(store, ended[0], row(2), ended[2], ended[3], row(5, due=None, started_at=3.0), flushed=5)
    await flushing(store, ended[2], spans=(b"pending",), flushed=5)
    await flushing(store, ended[3], spans=(b"dead",), flushed=5)
    *_, dead = store.reader.pending(10, 2**40)
    await store.set_aside(dead, "no")
    assert await past(store) == [1]
    assert await past(store, delivered=False) == [1, 3]
    assert await past(store, before=4.0) == [1, 5]


async def test_every_session_is_looked_at_however_many_there_are(store: Store) -> None:
    for n in range(1, 2502):
        await appending(store, n, b"x") if n == 2501 else appending(store, n, b"x")
    await flushing(store, *(row(n, due=None) for n in range(1, 2502)), flushed=2501)
    assert await past(store) == list(range(1, 2502))


async def test_a_session_that_has_gone_on_is_not_let_go_of(store: Store) -> None:
    await appending(store, 1, b"x")
    await flushing(store, row(1, due=None), flushed=1)
    later = appending(store, 1, b"y", new=False)
    await store.retire(1, True)
    await later
    assert bodies(store.reader, 1) == [b"x", b"y"]


async def test_letting_go_of_delivered_sessions_leaves_the_ledger_as_it_is(store: Store) -> None:
    await store.append(Append(1, "session-1", True, 1.0, b"x", 4), lambda _: None, lambda: None)
    await flushing(store, row(1, due=None), spans=(b"a",), flushed=1, events=4)
    await store.retire(1, True)
    assert bodies(store.reader, 1) == [b"x"]
    await store.delivered([each.id for each in store.reader.pending(10, 2**40)])
    before = store.reader.ledger()
    await store.retire(1, True)
    assert (bodies(store.reader, 1), store.reader.session("session-1")) == ([], None)
    assert store.reader.counted_ledger() == store.reader.ledger() == before


# Erasure


@pytest.mark.parametrize("flushed", [False, True])
async def test_an_erased_session_leaves_no_trace_and_its_neighbours_stay(store: Store, flushed: bool) -> None:
    for n in range(6):
        await appending(store, 1 + n % 2, b"%d" % n)
    if flushed:
        await flushing(store, row(1), row(2), spans=(b"span",), flushed=6)
    await store.erase(1)
    assert (store.reader.session("session-1"), bodies(store.reader, 1)) == (None, [])
    assert bodies(store.reader, 2) == [b"1", b"3", b"5"]
    assert store.reader.pending(10, 2**40) == []


@pytest.mark.parametrize("closed", [False, True])
async def test_what_was_erased_is_in_none_of_the_files(tmp_path: Path, closed: bool) -> None:
    words = b"nobody is to read this again " * 50
    async with opened(tmp_path) as store:
        await appending(store, 1, words)
        await flushing(store, row(1), spans=(words,), flushed=1)
        await store.erase(1)
        if closed:
            await store.close()
        await wait_until(lambda: not files_with(tmp_path, words[:29]))


def bytes_of(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def files_with(directory: Path, words: bytes) -> list[str]:
    return [suffix for suffix in ("", "-wal") if words in bytes_of(directory / f"{FILE}{suffix}")]


async def test_a_store_that_was_closed_is_one_file(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await appending(store, 1, b"x")
    assert not (tmp_path / f"{FILE}-wal").exists()


def test_a_forked_child_does_not_hold_the_folder(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys, time; from otel_voice.store import lock\n"
        "file = lock(pathlib.Path(sys.argv[1]))\n"
        "if os.fork() == 0:\n    print('forked', flush=True); sys.stdin.read(); os._exit(0)\n"
        "os.kill(os.getpid(), 9)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None and parent.stdin is not None
        assert parent.stdout.readline() == b"forked\n"
        parent.wait()
        lock(tmp_path).close()
        parent.stdin.close()


async def test_a_record_that_comes_with_the_erasure_does_not_bring_the_old_ones_back(store: Store) -> None:
    await appending(store, 1, b"old")
    await asyncio.gather(store.erase(1), appending(store, 1, b"new"))
    assert bodies(store.reader, 1) == [b"new"]


# One writer, many readers


async def test_a_second_process_is_told_in_one_sentence_who_is_in_its_way(store: Store, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from otel_voice.store import Locked, lock\n"
        "try: lock(pathlib.Path(sys.argv[1]))\nexcept Locked as locked: print(locked)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"another otel-voice works on {tmp_path}; stop it or choose another --data-dir\n", done.stderr
    with pytest.raises(Locked):
        Store(tmp_path, asyncio.get_running_loop())


async def test_a_closed_store_can_be_opened_again_in_the_same_process(tmp_path: Path) -> None:
    for _ in range(2):
        async with opened(tmp_path) as store:
            await appending(store, 1, b"x")
    async with opened(tmp_path) as store:
        assert len(store.reader.log(1)) == 2


async def test_closing_writes_what_was_asked_for_before(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        asked = [appending(store, 1, b"%d" % n) for n in range(50)]
    await asyncio.gather(*asked)
    reader = Reader(tmp_path)
    assert len(bodies(reader, 1)) == 50
    reader.close()


@pytest.mark.parametrize("name", ["plain", "with space", "a?b#c%41", "ünï"])
async def test_a_reader_works_beside_the_writer_and_after_it_whatever_the_folder_is_called(
    tmp_path: Path, name: str
) -> None:
    directory = tmp_path / name
    async with opened(directory) as store:
        reader = Reader(directory)
        for n in range(3):
            await appending(store, 1, b"%d" % n)
            assert len(bodies(reader, 1)) == n + 1
        reader.close()
    reader = Reader(directory)
    assert len(bodies(reader, 1)) == 3
    reader.close()


def test_reading_where_there_is_no_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no store in"):
        Reader(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_reading_what_is_no_store_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("not a database, however long one looks at it" * 100)
    reader = Reader(tmp_path)
    with pytest.raises(Unavailable, match="not a database"):
        reader.sessions(10)
    reader.close()


# Damage


async def test_what_is_no_database_is_set_aside_with_a_message_and_a_new_store_begun(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    junk = "not a database, however long one looks at it" * 100
    for number in (1, 2):
        (tmp_path / FILE).write_text(junk)
        async with opened(tmp_path) as store:
            await appending(store, 1, b"x")
        aside = f"{FILE}.damaged-{number}"
        assert (tmp_path / aside).read_text() == junk
        assert "is damaged (" in caplog.text and f"set aside as {aside}" in caplog.text


@pytest.mark.parametrize("table", ["counters", "log", "sessions"])
async def test_a_store_damaged_where_every_start_looks_is_set_aside_at_the_start(tmp_path: Path, table: str) -> None:
    async with opened(tmp_path) as store:
        await appending(store, 1, b"x")
    damage(tmp_path, table)
    async with opened(tmp_path) as store:
        assert store.reader.session("session-1") is None
        await appending(store, 1, b"y")
        assert bodies(store.reader, 1) == [b"y"]
    assert (tmp_path / f"{FILE}.damaged-1").exists()


async def test_pending_spans_that_can_still_be_read_are_carried_over(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await appending(store, 1, b"x")
        await flushing(store, row(1), spans=(b"a", b"b"), flushed=1)
    damage(tmp_path, "counters")
    async with opened(tmp_path) as store:
        assert [each.body for each in store.reader.pending(10, 2**40)] == [b"a", b"b"]
        assert ledger(store.reader) == (2, 0, 2, 0, 0)


async def test_damage_met_later_is_said_and_the_next_start_sets_the_file_aside(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await appending(store, 1, b"x")
        await flushing(store, row(1), flushed=1)
    damage(tmp_path, "outbox")
    async with opened(tmp_path) as store:
        heard: list[Damaged] = []
        store.on_damage = heard.append
        with pytest.raises(Damaged):
            store.reader.pending(10, 2**40)
        with pytest.raises(Damaged):
            await flushing(store, row(1), spans=(b"y",), flushed=1)
        assert len(heard) == 2
    async with opened(tmp_path) as store:
        assert store.reader.sessions(10) == []
    assert not (tmp_path / SUSPECT).exists()
    assert (tmp_path / f"{FILE}.damaged-1").exists()


async def test_a_file_that_was_suspected_and_is_whole_is_kept(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await appending(store, 1, b"x")
    (tmp_path / SUSPECT).touch()
    async with opened(tmp_path) as store:
        assert bodies(store.reader, 1) == [b"x"]
    assert not (tmp_path / SUSPECT).exists()


async def test_an_index_that_lost_an_entry_is_made_again_and_the_data_kept(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await appending(store, 1, b"x")
        await flushing(store, row(1), spans=(b"a", b"b"), flushed=1)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as db:
        (sql,) = db.execute("SELECT sql FROM sqlite_master WHERE name = 'outbox_by_session'").fetchone()
        db.execute("DROP INDEX outbox_by_session")
        db.execute(f"{sql} WHERE id < 2")
        # It has one entry, and says that it has all.
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'outbox_by_session'", (sql,))
    (tmp_path / SUSPECT).touch()
    async with opened(tmp_path) as store:
        pending = store.reader.pending(10, 2**40)
        assert [each.body for each in pending] == [b"a", b"b"]
        await store.erase(1)
        assert ledger(store.reader) == (2, 0, 0, 0, 2)
    assert not (tmp_path / SUSPECT).exists()


async def test_a_disk_that_fails_is_no_damage(store: Store, tmp_path: Path) -> None:
    heard: list[Damaged] = []
    store.on_damage = heard.append
    with without(tmp_path, "log"), pytest.raises(Unavailable) as failure:
        await appending(store, 1, b"x")
    assert (failure.type, heard) == (Unavailable, [])


# The file


async def test_only_the_owner_can_read_the_store_and_the_files_beside_it(store: Store, tmp_path: Path) -> None:
    await appending(store, 1, b"x")
    for beside in ("", "-wal", "-shm"):
        assert (tmp_path / f"{FILE}{beside}").stat().st_mode & 0o077 == 0


async def test_a_defect_in_a_write_is_loud_and_the_next_write_works(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Unavailable):
        await store.flush(Flush([None], [], 0))  # type: ignore[list-item]
    assert "the store could not write" in caplog.text
    await appending(store, 1, b"x")
    assert bodies(store.reader, 1) == [b"x"] and store.refuses is None


async def test_a_write_that_cannot_be_done_takes_none_with_it_that_shares_its_commit(store: Store) -> None:
    await appending(store, 1, b"x")
    asked = [
        appending(store, 2, b"y"),
        flushing(store, row(1, made=2**70), flushed=1),
        flushing(store, row(1, started_at=math.nan), flushed=1),
        flushing(store, row(1, due=7.0), flushed=1),
        appending(store, 3, b"z"),
    ]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers] == [int, Unwritable, Unwritable, int, int]
    assert (bodies(store.reader, 2), bodies(store.reader, 3)) == ([b"y"], [b"z"])
    found = store.reader.session("session-1")
    assert found is not None and found.due == 7.0


@pytest.mark.parametrize("works", [True, False])
async def test_who_waits_is_answered_though_what_follows_another_ones_commit_fails(
    store: Store, tmp_path: Path, works: bool
) -> None:
    def fails(*_: object) -> None:
        raise ValueError("a defect")

    heard: list[str] = []
    store.on_defect = lambda error: heard.append(str(error))
    record = Append(1, "session-1", True, 1.0, b"x")
    with contextlib.nullcontext() if works else without(tmp_path, "log"):
        asked = [store.append(record, fails, fails), appending(store, 2, b"y")]
        answers = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)
    assert [isinstance(answer, int) for answer in answers] == [works, works]
    assert (heard, store.queued_bytes) == (["a defect"], 0)


async def test_pages_of_sessions_follow_each_other_without_a_gap(store: Store) -> None:
    for n in range(1, 8):
        await appending(store, n, b"x")
    await flushing(store, *(row(n, started_at=float(n // 3)) for n in range(1, 8)), flushed=7)
    first = store.reader.sessions(3)
    second = store.reader.sessions(10, first[-1].no)
    assert [each.no for each in first + second] == [7, 6, 5, 4, 3, 2, 1]


async def test_only_sessions_that_time_will_touch_are_open(store: Store) -> None:
    await appending(store, 1, b"x")
    await appending(store, 2, b"x")
    await flushing(store, row(1), row(2, due=None), flushed=2)
    assert [each.no for each in store.reader.open_sessions()] == [1]


# Calls, and the words in them


def called(no: int, at: float = 1.0, said: tuple[str, ...] = (), **columns: Any) -> Flush:
    """A session's row, its call and its words."""
    of = Call(**{"id": f"session-{no}", "started_at": float(no), **columns})
    return Flush([row(no)._replace(call=of)], [], 0, at, [], [(no, n, text) for n, text in enumerate(said, 1)])


async def made(store: Store, *flushes: Flush) -> None:
    for flush in flushes:
        (each,) = flush.rows
        await appending(store, each.no, b"x")
        await store.flush(flush)


def numbers(store: Store, text: str = "", **exact: str) -> list[int]:
    conditions = [Condition(column, "=", value) for column, value in exact.items()]
    return [found.no for found in store.calls.found(Filter(conditions, text), 100)]


async def test_a_call_is_listed_from_its_first_record_on(store: Store) -> None:
    await appending(store, 1, b"x", at=7.0)
    assert numbers(store, status="open") == [1]
    await store.flush(called(1, status="ended", user_id="ada"))
    assert (numbers(store, status="open"), numbers(store, status="ended", user_id="ada")) == ([], [1])


async def test_calls_are_found_by_pages_the_latest_first(store: Store) -> None:
    await made(store, *(called(n, user_id="ada" if n % 2 else "bob") for n in range(1, 8)))
    ada = Filter([Condition("user_id", "=", "ada")])
    assert [found.no for found in store.calls.found(ada, 2)] == [7, 5]
    assert [found.no for found in store.calls.found(ada, 2, before=5)] == [3, 1]


async def test_what_changed_since_is_known(store: Store) -> None:
    await made(store, *(called(n, at=100.0 * n) for n in range(1, 5)))
    await store.flush(called(1, at=500.0))
    found, last = store.calls.changed(200.0, 10)
    assert ([each.no for each in found], store.calls.changed(last, 10)) == ([4, 3, 1], ([], last))
    assert [each.no for each in store.calls.changed(200.0, 2)[0]] == [4, 3]


async def test_a_turns_words_are_found_and_only_together(store: Store) -> None:
    await made(store, called(1, said=("hello there", "general question")), called(2, said=("hello again",)))
    assert (numbers(store, "hello"), numbers(store, "hello the"), numbers(store, "hello general")) == ([2, 1], [1], [])


async def test_words_that_are_told_again_are_found_once(store: Store) -> None:
    await made(store, called(1, said=("first",)))
    await store.flush(called(1, said=("second",)))
    assert (numbers(store, "first"), numbers(store, "second")) == ([], [1])


async def test_of_a_call_with_more_turns_than_have_a_number_the_first_are_found(store: Store) -> None:
    await made(store, called(1), called(2, said=("mine",)))
    last = 2**words.TURN_BITS - 1
    await store.flush(Flush([], [], 0, said=[(1, last, "last"), (1, last + 1, "beyond")]))
    assert (numbers(store, "last"), numbers(store, "beyond"), numbers(store, "mine")) == ([1], [], [2])


async def test_a_call_of_a_session_that_is_gone_does_not_come_back(store: Store) -> None:
    await made(store, called(1))
    await store.erase(1)
    await store.flush(called(1))
    assert numbers(store) == []


async def test_a_failed_commit_leaves_neither_call_nor_words(store: Store, tmp_path: Path) -> None:
    await appending(store, 1, b"x")
    with without(tmp_path, "sessions"), pytest.raises(Unavailable):
        await store.flush(called(1, user_id="ada", said=("hello",)))
    assert (numbers(store, user_id="ada"), numbers(store, "hello")) == ([], [])
    await store.flush(called(1, user_id="ada", said=("hello",)))
    assert (numbers(store, user_id="ada"), numbers(store, "hello")) == ([1], [1])


@pytest.mark.parametrize("way", ["erase", "retire"])
async def test_with_its_session_a_call_and_its_words_go_and_the_neighbours_stay(store: Store, way: str) -> None:
    await made(store, *(called(n, said=("hello", f"only {n}")) for n in (1, 2, 3)))
    await store.flush(Flush([row(2, due=None)], [], 3))
    await (store.erase(2) if way == "erase" else store.retire(2, delivered=True))
    assert (numbers(store), numbers(store, "hello"), numbers(store, "only")) == ([3, 1], [3, 1], [3, 1])


@pytest.mark.parametrize("closed", [False, True])
async def test_words_that_were_erased_are_in_none_of_the_files(tmp_path: Path, closed: bool) -> None:
    others = tuple(f"hello number{n} and so on and on" for n in range(200))
    async with opened(tmp_path) as store:
        for n in range(1, 40):
            await made(store, called(n, said=(*others, "unspeakable") if n == 20 else others))
        assert files_with(tmp_path, b"unspeakable")
        await store.erase(20)
        if closed:
            await store.close()
        await wait_until(lambda: not files_with(tmp_path, b"peakable"))


async def test_a_start_goes_on_with_what_was_to_be_wiped(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await made(store, called(1, said=("unspeakable",)), called(2, said=("hello",)))
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as db:
        # As a process leaves it that was killed after the erasure.
        db.execute("DELETE FROM words WHERE rowid >> 12 = 1")
        db.execute("UPDATE counters SET value = 2 WHERE name = 'to_wipe'")
        db.commit()
    async with opened(tmp_path) as store:
        await wait_until(lambda: not wiping(tmp_path))
        assert numbers(store, "hello") == [2]
    assert b"peakable" not in bytes_of(tmp_path / FILE)


def wiping(directory: Path) -> bool:
    with contextlib.closing(sqlite3.connect(directory / FILE)) as db:
        (value,) = db.execute("SELECT value FROM counters WHERE name = 'to_wipe'").fetchone()
    return bool(value)


async def wait_until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends
        await asyncio.sleep(0.01)


# A damaged index of words


WORDS = [f"words_{name}" for name in ("data", "idx", "content", "docsize", "config")]
# As FTS5 finds it, where every page is one: what it reads is nothing, or nonsense.
EMPTY = "UPDATE words_data SET block = zeroblob(length(block))"
IN_IT = "UPDATE words_data SET block = CAST(replace(hex(zeroblob(length(block))), '00', char(127)) AS BLOB)"


def damage_words(directory: Path, where: str) -> None:
    """While a store is open, too: what it has read of the file is nothing that it may rely on any more."""
    if where in WORDS:
        damage(directory, where)
    with contextlib.closing(sqlite3.connect(directory / FILE, isolation_level=None)) as db:
        db.execute("UPDATE counters SET value = value" if where in WORDS else where)


async def goes_on(store: Store) -> None:
    """All that is asked of a store works, and new words are found."""
    heard: list[Damaged] = []
    store.on_damage = heard.append
    assert numbers(store, "hello") in ([], [3, 2, 1])
    await store.erase(1)
    await appending(store, 9, b"y")
    await store.flush(called(9, said=("a new hello",)))
    await store.flush(called(2, said=("told again",)))
    assert (numbers(store, "new"), numbers(store, "again"), numbers(store)) == ([9], [2], [9, 3, 2])
    assert (bodies(store.reader, 2), bodies(store.reader, 9)) == ([b"x"], [b"y"])
    assert heard == []


async def is_sound(directory: Path) -> None:
    """After one more start."""
    async with opened(directory):
        pass
    assert set(os.listdir(directory)) == {FILE, "lock"}
    with contextlib.closing(sqlite3.connect(directory / FILE)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        db.execute("INSERT INTO words (words) VALUES ('integrity-check')")


@pytest.mark.parametrize("where", [*WORDS, EMPTY, IN_IT])
async def test_an_index_of_words_that_a_start_finds_damaged_is_begun_anew_and_all_else_kept(
    tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as store:
        await made(store, *(called(n, said=("hello", f"only {n}")) for n in (1, 2, 3)))
    damage_words(tmp_path, where)
    async with opened(tmp_path) as store:
        await goes_on(store)
    assert "index of words" in caplog.text
    await is_sound(tmp_path)


@pytest.mark.parametrize("where", [*WORDS, EMPTY, IN_IT])
async def test_an_index_of_words_that_is_damaged_in_the_middle_of_the_work_is_begun_anew_and_all_else_kept(
    tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as store:
        await made(store, *(called(n, said=("hello", f"only {n}")) for n in (1, 2, 3)))
        damage_words(tmp_path, where)
        await goes_on(store)
    await is_sound(tmp_path)
    assert "index of words" in caplog.text


async def test_a_search_that_meets_a_damaged_index_of_words_answers_and_the_next_words_are_found(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as store:
        await made(store, called(1, said=("hello",), user_id="hello"), called(2, said=("hello",)))
        damage_words(tmp_path, IN_IT)
        assert numbers(store, "hello") == [1]
        assert store.calls.plots(Filter(text="hello")).calls == 1
        await made(store, called(3, said=("hello",)))
        assert numbers(store, "hello") == [3, 1]


async def test_words_that_were_in_a_damaged_index_are_in_none_of_the_files_after_a_start(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await made(store, called(1, said=("unspeakable",)), called(2, said=("hello",)))
        damage_words(tmp_path, "words_data")
        await store.erase(1)
    assert files_with(tmp_path, b"peakable")
    async with opened(tmp_path):
        pass
    assert not files_with(tmp_path, b"peakable")


async def test_other_damage_is_not_taken_for_that_of_the_words(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await made(store, called(1, said=("hello",)))
    damage_words(tmp_path, "words_data")
    damage(tmp_path, "outbox")
    async with opened(tmp_path) as store:
        assert numbers(store) == []
    assert (tmp_path / f"{FILE}.damaged-1").exists()


async def test_the_index_is_put_in_order_when_nobody_waits(store: Store, tmp_path: Path) -> None:
    for n in range(1, 40):
        await made(store, called(n, said=(f"hello {n}",)))

    def pieces() -> int:
        with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as db:
            (count,) = db.execute("SELECT count(DISTINCT segid) FROM words_idx").fetchone()
        return int(count)

    await wait_until(lambda: pieces() < 8)
    assert len(numbers(store, "hello")) == 39


async def test_a_store_of_the_version_before_keeps_its_pending_spans_and_nobody_knows_since_when(
    tmp_path: Path,
) -> None:
    folder = Path(store_file.__file__).parent
    schema = "".join((folder / name).read_text() for name in ("schema.sql", "calls.sql"))
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.executescript(f"BEGIN; {schema} PRAGMA user_version = 4; COMMIT;")
        db.execute("INSERT INTO outbox (session, body) VALUES (0, x'61')")
        db.execute("UPDATE counters SET value = 1 WHERE name = 'made'")
        db.commit()
    async with opened(tmp_path) as store:
        assert ([each.body for each in store.reader.pending(10, 2**40)], store.reader.pending_since()) == ([b"a"], None)
        await store.flush(Flush([], [(0, b"b")], 0, at=7.0))
        (first,) = store.reader.pending(1, 2**40)
        await store.delivered([first.id])
        assert (ledger(store.reader), store.reader.pending_since()) == ((2, 1, 1, 0, 0), 7.0)


async def test_a_store_of_two_versions_before_is_carried_over(tmp_path: Path) -> None:
    latency = {"p50": 500.0, "p95": 900.0, "max": 900.0}
    summary = {
        **{"session_id": "old", "status": "ended", "started_at": 5.0, "ended_at": 9.0, "end_reason": "user_hangup"},
        **{"user_id": "ada", "agent_name": "support", "provider": "openai", "model": "m", "duration_ms": 4.0},
        **{"turn_count": 3, "interruption_count": 1, "tool_call_count": 2, "tool_error_count": 1},
        **{"user_bot_latency_ms": latency, "tokens": {"input_tokens": 10, "output_tokens": 5}, "events_lost": 2},
    }
    schema = Path(store_file.__file__).with_name("schema.sql").read_text()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.executescript(f"BEGIN; {schema} PRAGMA user_version = 3; COMMIT;")
        insert = "INSERT INTO sessions (no, id, started_at, status, summary, head) VALUES (?, ?, ?, ?, ?, ?)"
        db.execute(insert, (1, "old", 5.0, "ended", json.dumps(summary).encode(), 1))
        db.execute(insert, (2, "fresh", 6.0, "open", None, None))
        db.execute(insert, (3, "broken", 7.0, "broken", b"{}", None))
        db.execute(insert, (4, "torn", 8.0, "open", b"{", None))
        db.execute("INSERT INTO log VALUES (1, 1, NULL, 5.0, 1, x'78')")
        db.execute("UPDATE counters SET value = 1 WHERE name IN ('accepted', 'mapped')")
        db.execute("UPDATE sessions SET events = 1, mapped = 1 WHERE no = 1")
        db.commit()
    async with opened(tmp_path) as store:
        old = Call(
            *("old", 5.0, 9.0, "ended", "user_hangup", "ada", "support", "openai", "m"),
            *(4.0, 3, 1, 2, 1, 500.0, 900.0, 15, 2),
        )
        with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as db:
            carried = db.execute("SELECT * FROM calls ORDER BY no").fetchall()
        assert carried == [
            (1, 0, *old),
            (2, 0, *Call("fresh", 6.0)),
            (3, 0, *Call("broken", 7.0)),
            (4, 0, *Call("torn", 8.0)),
        ]
        assert (numbers(store, "ada"), numbers(store, status="ended"), bodies(store.reader, 1)) == ([1], [1], [b"x"])
        await made(store, called(5, said=("hello",)))
        assert numbers(store, "hello") == [5]
    async with opened(tmp_path) as store:
        assert numbers(store) == [5, 4, 3, 2, 1]


async def test_without_FTS5_calls_are_found_by_their_columns(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await made(store, called(1, user_id="ada", said=("hello",)))
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute("DROP TABLE words")
        db.commit()
    reader = Reader(tmp_path)
    assert [found.no for found in reader.found(Filter(text="hello"), 10)] == []
    assert [found.no for found in reader.found(Filter(text="ada"), 10)] == [1]
    assert (reader.has_words, reader.plots(Filter(text="ada")).calls) == (False, 1)
    reader.close()


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("hello", '"hello"*'),
        ("hello  the", '"hello" "the"*'),
        ('say "no"', '"say" "no"*'),
        ("a b", '"a" "b"'),
        ("AND OR - *", '"AND" "OR"*'),
        ("\x00!", ""),
    ],
)
def test_a_query_is_words_and_no_syntax(text: str, terms: str) -> None:
    assert words.terms(text) == terms


@pytest.mark.parametrize("span", [0.0, 1.0, 59_000.0, 3.6e6, 8.64e7, 3e9, 1e12, 5e15])
async def test_a_plot_has_few_bins_however_long_it_is(store: Store, span: float) -> None:
    first = called(1, started_at=1e12 + 123, p50_ms=0.0, p95_ms=span / 1e6)
    await made(store, first, called(2, started_at=1e12 + 123 + span, p50_ms=span / 1e3, p95_ms=None))
    plots = store.calls.plots(Filter())
    assert plots.first <= 1e12 + 123 < plots.first + plots.bin_ms
    assert (sum(plots.starts), sum(plots.p50), sum(plots.p95)) == (2, 2, 1)
    assert len(plots.starts) <= calls.TIME_BINS and len(plots.p50) <= calls.LATENCY_BINS
