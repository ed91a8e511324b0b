"""`python -m benchmarks.states [--quick] [--rounds N] [--only memory|start|export|growth ...]`: what it holds, and what
comes of much of it: memory, the start, the drain, and a load beside a large store.

Large stores are filled by SQL, as a receiver would have left them: the records, summaries and spans in them are what
the mapping makes of a call, under other sessions' ids.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import http.client
import json
import math
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import uvloop
from msgspec import Raw

from benchmarks.corpus import TOKEN_KEY, Corpus, make
from benchmarks.http import Measured, Pinned, folder, measure, program
from benchmarks.turns import Clock, compact, session_ids
from otel_voice import events as e
from otel_voice.app import encoder
from otel_voice.session import Session
from otel_voice.sessions import Sessions
from otel_voice.settings import Settings
from otel_voice.spans import trace_id
from otel_voice.store import FILE, Reader, Store, check
from tests.real import Program, free_port, wait_for

CHECKOUT = Path(__file__).parent.parent
OTEL_VOICE = Path(sys.executable).with_name("otel-voice")
ROUNDS = 5
MIB = 2**20
# One for who is measured, one for who measures.
SERVER, OTHERS = 0, 1
NOBODY = "http://127.0.0.1:9"
SETTINGS = {"OTEL_VOICE_TOKEN_KEY": TOKEN_KEY, "OTEL_VOICE_MAX_STORE_MIB": "65536"}
BARE = """
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
async def ready(_):
    return PlainTextResponse("ok")
uvicorn.run(Starlette(routes=[Route("/readyz", ready)]), port={port}, log_level="warning")
"""


@dataclass(frozen=True)
class Memory:
    """RSS of idle processes; bytes of RSS that a session with an open turn adds, after a malloc_trim."""

    bare_mib: float
    idle_mib: float
    sessions: int
    session_bytes: float


@dataclass(frozen=True)
class Start:
    """Seconds from exec to the first 200: of a bare server, on an empty store, on one with open sessions and pending
    spans, and on the same where each open session has a record that its row does not know of."""

    bare_s: float
    empty_s: float
    spans: int
    open_sessions: int
    filled_s: float
    behind_s: float


@dataclass(frozen=True)
class Export:
    """The drain of a full outbox, with a hop that takes 50 ms for an answer."""

    spans: int
    distinct: int
    requests: int
    spans_per_s: float
    idle_mib: float
    peak_mib: float


@dataclass(frozen=True)
class Loaded:
    """Of a receiver under load: CPU an event as fast as it goes, the 99th percentile at `RATE`, and the most RSS."""

    cpu_us: float
    p99_ms: float
    peak_mib: float


@dataclass(frozen=True)
class Growth:
    """The same load on an empty store and on a large one, which took `filled_after_s` to make."""

    open_sessions: int
    log_rows: int
    store_mib: float
    filled_after_s: float
    empty: Loaded
    large: Loaded
    wrong: tuple[str, ...]


# Calls as they lie in a store


class Record(NamedTuple):
    at: float
    events: int
    body: bytes


class Call(NamedTuple):
    """A session as the store has it, under an id that is to be replaced."""

    records: list[Record]
    spans: list[bytes]
    summary: bytes
    status: str
    due: float | None

    @property
    def events(self) -> int:
        return sum(record.events for record in self.records)


TEMPLATE = "ffffffff-ffff-4fff-bfff-ffffffffffff"
TURNS = 8


def session_id(no: int) -> str:
    return f"00000000-0000-4000-8000-{no:012x}"


def stamped(made: bytes, id_: str) -> bytes:
    """What was made for the template, as another session's: ids are of one length, in text and in OTLP."""
    old, new = trace_id(TEMPLATE), trace_id(id_)
    made = made.replace(TEMPLATE.encode(), id_.encode()).replace(old.encode(), new.encode())
    return made.replace(bytes.fromhex(old), bytes.fromhex(new))


def mapped(records: Sequence[tuple[float, e.Record]], until: float) -> Call:
    session, encode = Session(TEMPLATE), encoder(Settings()).request
    for at, record in records:
        session.apply(record, at)
    session.advance(until)
    summary, due = session.summary(), session.due
    return Call(
        [
            Record(at, len(record.events) if isinstance(record, e.Accepted) else 0, e.encode(record))
            for at, record in records
        ],
        [encode(span) for span in session.take()],
        e.encode(summary),
        summary.status,
        None if due is None else due[0],
    )


def accepted(*events: dict[str, object]) -> e.Accepted:
    return e.Accepted([Raw(compact(event).encode()) for event in events], source="page")


def turn(number: int, ts: float) -> list[dict[str, object]]:
    """A turn with a tool in a few words: a span of it has a kilobyte."""
    id_, call = f"turn_{number}", f"call_{number}"
    usage = {"input_tokens": 412, "output_tokens": 67, "input_audio_tokens": 292, "output_audio_tokens": 56}
    told: list[dict[str, object]] = [
        {"type": "turn_start", "turn_id": id_},
        {
            "type": "transcript",
            "role": "user",
            "text": "Is there a table for two tonight?",
            "final": True,
            "turn_id": id_,
        },
        {"type": "tool_call", "call_id": call, "name": "find_table", "arguments": {"guests": 2}, "turn_id": id_},
        {"type": "tool_result", "call_id": call, "result": {"free": ["19:30", "21:00"]}, "turn_id": id_},
        {
            "type": "turn_complete",
            "turn_id": id_,
            "agent_text": "At half past seven or at nine. Which one would you like?",
            "usage": usage,
            "model": "gpt-realtime",
        },
    ]
    return [{**event, "seq": len(told) * (number - 1) + n, "ts": ts + 300 * n} for n, event in enumerate(told)]


def past_call(now: float) -> Call:
    """One of some turns that is over since a minute before `now`."""
    began = now - 60_000 - 3_000 * TURNS
    starts = [began + 3_000 * n for n in range(TURNS)]
    records: list[tuple[float, e.Record]] = [(at + 1_500, accepted(*turn(n, at))) for n, at in enumerate(starts, 1)]
    records.append((now - 60_000, e.Ended("user_hangup", source="page")))
    return mapped(records, math.inf)


def open_call(now: float) -> Call:
    """One in its first turn, which nothing will come for in a day."""
    events, at = turn(1, now - 20_000), now - 15_000
    records: list[tuple[float, e.Record]] = [
        (at, e.Created(e.NewSession(idle_timeout_s=86_400))),
        (at, accepted(*events[:2])),
        (at, accepted(events[2])),
    ]
    return mapped(records, now)


# Stores


def fill(place: Path, spans: int = 0, open_sessions: int = 0, behind: bool = False, log_rows: int = 0) -> None:
    """Pending spans of calls that are over; open sessions; and a log of delivered calls. With `behind`, the open
    sessions' rows do not know of their last record yet."""
    check(place)
    now = math.floor(time.time() * 1000)
    with contextlib.closing(sqlite3.connect(place / FILE, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN")
        _fill_log(db, log_rows, now)
        _fill_past(db, spans, now)
        flushed = _fill_open(db, open_sessions, now, behind)
        _count(db, flushed, now)
        db.execute("COMMIT")
        db.execute("PRAGMA journal_mode = WAL")
    with contextlib.closing(Reader(place)) as reader:
        ledger = reader.ledger()
        assert ledger == reader.counted_ledger() and ledger.adds_up and ledger.pending >= spans, str(ledger)


ROW = """
INSERT INTO sessions (no, id, head, made, due, started_at, status, summary, events, mapped)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
# So many sessions side by side, each with marks and an end.
LOG = """
INSERT INTO log
WITH RECURSIVE number(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n + 1 < :sessions * (:marks + 1))
SELECT n + 1, n % :sessions + 1, iif(n < :sessions, NULL, n + 1 - :sessions), :at + n / :sessions,
       n < :sessions * :marks, iif(n < :sessions * :marks, :mark, :end)
FROM number
"""
MARKS = 999


def _fill_log(db: sqlite3.Connection, rows: int, now: float) -> None:
    """Sessions of a thousand records that are over and delivered."""
    sessions, at = rows // (MARKS + 1), now - 600_000
    mark, end = accepted({"type": "mark", "name": "here"}), e.Ended("user_hangup", source="page")
    values = {"sessions": sessions, "marks": MARKS, "at": at, "mark": e.encode(mark), "end": e.encode(end)}
    if sessions:
        db.execute(LOG, values)
    call = mapped([(at + n, mark) for n in range(MARKS)] + [(at + MARKS, end)], math.inf)
    last = sessions * MARKS
    db.executemany(ROW, (_row(no, last + no, call, at, len(call.spans)) for no in range(1, sessions + 1)))


def _fill_past(db: sqlite3.Connection, spans: int, now: float) -> None:
    """Calls that are over, and nothing of them is delivered."""
    call = past_call(now)
    first = _last(db, "sessions", "no") + 1
    numbers = range(first, first + math.ceil(spans / len(call.spans)))
    _log(db, numbers, call.records, {})
    head, started_at = _last(db, "log", "id") - len(numbers), call.records[0].at
    db.executemany(ROW, (_row(no, head + n, call, started_at, len(call.spans)) for n, no in enumerate(numbers, 1)))
    pending = ((no, stamped(span, session_id(no))) for no in numbers for span in call.spans)
    db.executemany("INSERT INTO outbox (session, body) VALUES (?, ?)", pending)


def _fill_open(db: sqlite3.Connection, sessions: int, now: float, behind: bool) -> int:
    """Returns the last row of the log that the sessions' rows know of."""
    call = open_call(now)
    known = call._replace(records=call.records[:-1]) if behind else call
    first = _last(db, "sessions", "no") + 1
    numbers, heads = range(first, first + sessions), dict[int, int]()
    _log(db, numbers, known.records, heads)
    db.executemany(ROW, (_row(no, heads[no], known, call.records[0].at, 0) for no in numbers))
    flushed = _last(db, "log", "id")
    _log(db, numbers, call.records[len(known.records) :], heads)
    return flushed


def _row(no: int, head: int, call: Call, started_at: float, made: int) -> tuple[object, ...]:
    id_, events = session_id(no), call.events
    mapped = 0 if call.due else events
    return no, id_, head, made, call.due, started_at, call.status, stamped(call.summary, id_), events, mapped


def _log(db: sqlite3.Connection, numbers: Sequence[int], records: Sequence[Record], heads: dict[int, int]) -> None:
    """The sessions' records side by side; `heads` are their last rows, before and after."""
    id_ = _last(db, "log", "id")
    rows = list[tuple[object, ...]]()
    for at, events, body in records:
        for no in numbers:
            id_, prev = id_ + 1, heads.get(no)
            rows.append((id_, no, prev, at, events, body))
            heads[no] = id_
    db.executemany("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)", rows)


def _last(db: sqlite3.Connection, table: str, column: str) -> int:
    (last,) = db.execute(f"SELECT coalesce(max({column}), 0) FROM {table}").fetchone()
    return int(last)


def _count(db: sqlite3.Connection, flushed: int, now: float) -> None:
    events, mapped, made = db.execute("SELECT total(events), total(mapped), total(made) FROM sessions").fetchone()
    (tail,) = db.execute("SELECT total(events) FROM log WHERE id > ?", (flushed,)).fetchone()
    (pending,) = db.execute("SELECT count(*) FROM outbox").fetchone()
    counters = {
        "accepted": int(events + tail),
        "mapped": int(mapped),
        "made": int(made),
        "delivered": int(made) - pending,
        "flushed": flushed,
        "last_at": now,
        "last_log": _last(db, "log", "id"),
        "last_session": _last(db, "sessions", "no"),
    }
    db.executemany("UPDATE counters SET value = ? WHERE name = ?", [(value, name) for name, value in counters.items()])


# Processes


def on_core(core: int, *command: str) -> list[str]:
    return ["taskset", "-c", str(core), *command]


class Running:
    """A server on the first core, once it says that it is ready; `started_s` after its exec. Killed in the end: the
    folder that it works on is a copy."""

    def __init__(self, place: Path, data_dir: Path | None, **env: str) -> None:
        self.port = free_port()
        if data_dir is None:
            command = [sys.executable, "-c", BARE.format(port=self.port)]
        else:
            command = [str(OTEL_VOICE), "serve", "--port", str(self.port), "--data-dir", str(data_dir)]
        began = time.perf_counter()
        self.program = Program("server", on_core(SERVER, *command), place, SETTINGS | env)
        while not answers(self.port, "/readyz"):
            assert not self.program.ended(), self.program.log()
            time.sleep(0.001)
        self.started_s = time.perf_counter() - began

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.program.ended():
            self.program.kill()

    def mib(self, what: str = "VmRSS") -> float:
        return resident(self.program.process.pid, what) / MIB


def answers(port: int, path: str) -> bytes | None:
    """The body of a 200."""
    try:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.read() if response.status == 200 else None
    except OSError:
        return None


def resident(pid: int, what: str = "VmRSS") -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:"))


@contextlib.contextmanager
def elsewhere() -> Iterator[Path]:
    """A folder to work in, and this process out of the way of what it measures."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {OTHERS})
    try:
        with folder() as place:
            yield place
    finally:
        os.sched_setaffinity(0, cores)


@contextlib.contextmanager
def copied(store: Path) -> Iterator[Path]:
    """A copy of a data directory, on the disk before anything is measured."""
    copy = store.with_name(f"{store.name}-copy")
    shutil.copytree(store, copy)
    os.sync()
    try:
        yield copy
    finally:
        shutil.rmtree(copy)


# Memory


def memory(rounds: int = ROUNDS, sessions: int = 20_000) -> Memory:
    bare, idle, bytes_ = list[float](), list[float](), list[float]()
    for _ in range(rounds):
        with elsewhere() as place:
            bare.append(_idle_mib(place, None))
            idle.append(_idle_mib(place, place / "data"))
        bytes_.append(_in_process(sessions))
    return Memory(statistics.median(bare), statistics.median(idle), sessions, statistics.median(bytes_))


def _idle_mib(place: Path, data_dir: Path | None) -> float:
    with Running(place, data_dir, OTEL_EXPORTER_OTLP_ENDPOINT=NOBODY) as server:
        time.sleep(1)
        return server.mib()


def _in_process(sessions: int) -> float:
    code = f"from benchmarks import states; print(states.session_bytes({sessions}))"
    command = on_core(SERVER, sys.executable, "-c", code)
    return float(subprocess.run(command, cwd=CHECKOUT, check=True, stdout=subprocess.PIPE, text=True).stdout)


def session_bytes(sessions: int) -> float:
    """What each of so many sessions with an open turn adds to this process."""
    with folder() as place:
        return uvloop.run(_session_bytes(place, session_ids(sessions + WARM)))


# Sessions before those that count: what is imported late, caches and the store's pages are nobody's.
WARM = 1_000


async def _session_bytes(place: Path, ids: list[str]) -> float:
    clock = Clock()
    store = Store(place, asyncio.get_running_loop())
    sessions = Sessions(store, encoder(Settings()), clock, in_memory=2 * len(ids))
    await sessions.start()
    await _begin(sessions, clock, ids[:WARM])
    before = _resident()
    await _begin(sessions, clock, ids[WARM:])
    after = _resident()
    assert sessions.count == len(ids)
    await store.close()
    return (after - before) / (len(ids) - WARM)


async def _begin(sessions: Sessions, clock: Clock, ids: list[str]) -> None:
    """Each gets the beginning of a turn in three requests, and time to be told it."""
    for first in range(0, len(ids), 500):
        for event in turn(1, clock.now * 1000)[:3]:
            await asyncio.gather(*(sessions.accept(id_, accepted(event)) for id_ in ids[first : first + 500]))
    clock.now += 3
    await sessions.tick()


def _resident() -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident(os.getpid())


# Start


def start(rounds: int = ROUNDS, spans: int = 100_000, open_sessions: int = 10_000) -> Start:
    took: dict[str, list[float]] = {"bare": [], "empty": [], "filled": [], "behind": []}
    with elsewhere() as place:
        fill(place / "filled", spans, open_sessions)
        fill(place / "behind", spans, open_sessions, behind=True)
        for _ in range(rounds):
            for name, seconds in took.items():
                seconds.append(_start_s(place, name))
    medians = {name: statistics.median(seconds) for name, seconds in took.items()}
    return Start(medians["bare"], medians["empty"], spans, open_sessions, medians["filled"], medians["behind"])


def _start_s(place: Path, name: str) -> float:
    if name == "bare":
        with Running(place, None) as server:
            return server.started_s
    (place / "empty").mkdir(exist_ok=True)
    with copied(place / name) as data_dir, Running(place, data_dir, OTEL_EXPORTER_OTLP_ENDPOINT=NOBODY) as server:
        return server.started_s


# Export


def export(rounds: int = ROUNDS, spans: int = 200_000) -> Export:
    found = list[Export]()
    with elsewhere() as place:
        fill(place / "full", spans)
        idle_mib = _idle_mib(place, place / "data")
        for _ in range(rounds):
            with copied(place / "full") as data_dir:
                found.append(_drain(place, data_dir, idle_mib))
    return Export(
        spans=found[0].spans,
        distinct=min(row.distinct for row in found),
        requests=found[0].requests,
        spans_per_s=statistics.median(row.spans_per_s for row in found),
        idle_mib=idle_mib,
        peak_mib=statistics.median(row.peak_mib for row in found),
    )


def _drain(place: Path, data_dir: Path, idle_mib: float) -> Export:
    port = free_port()
    with contextlib.closing(Reader(data_dir)) as reader:
        pending = reader.ledger().pending
    command = [sys.executable, "-m", "benchmarks.sink", "--port", str(port), "--delay", "50", "--distinct"]
    sink = Program("sink", on_core(OTHERS, *command), place, {"PYTHONPATH": str(CHECKOUT)})
    try:
        wait_for(lambda: answers(port, "/count"), what="the sink", note=sink.log)
        with Running(place, data_dir, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}") as server:
            first = wait_for(lambda: _counted(port, 1), what="the first span")
            last = wait_for(lambda: _counted(port, pending), 600, "the last span", server.program.log)
            peak_mib = server.mib("VmHWM")
            server.program.stop()
        said = json.loads(answers(port, "/count") or b"{}")
    finally:
        sink.kill()
    with contextlib.closing(Reader(data_dir)) as reader:
        ledger = reader.ledger()
    assert ledger.pending == 0 and ledger.adds_up and said["distinct"] == pending, f"{ledger}; {said}"
    per_s = (last[1] - first[1]) / (last[0] - first[0])
    return Export(pending, said["distinct"], said["requests"], per_s, idle_mib, peak_mib)


def _counted(port: int, least: int) -> tuple[float, int] | None:
    """When the sink had how many, once it has so many."""
    count = json.loads(answers(port, "/count") or b'{"spans": 0}')["spans"]
    return (time.perf_counter(), count) if count >= least else None


# Growth

RATE = 3_000


def growth(
    rounds: int = ROUNDS, open_sessions: int = 100_000, log_rows: int = 10_000_000, requests: int = 38_000
) -> Growth:
    runs: dict[str, list[Measured]] = {"empty": [], "large": []}
    with elsewhere() as place:
        began = time.perf_counter()
        fill(place / "large", open_sessions=open_sessions, log_rows=log_rows)
        filled_after_s = time.perf_counter() - began
        store_mib = (place / "large" / FILE).stat().st_size / MIB
        (place / "empty").mkdir()
        for number in range(rounds):
            corpora = [make(place / f"corpus-{n}", requests, seed=2 * number + n) for n in range(2)]
            for name, measured in runs.items():
                with copied(place / name) as data_dir:
                    measured += [
                        _under_load(data_dir, corpus, rate) for corpus, rate in zip(corpora, (0, RATE), strict=True)
                    ]
    wrong = tuple(sentence for measured in runs.values() for run in measured for sentence in run.wrong)
    empty, large = (_loaded(measured[::2], measured[1::2]) for measured in runs.values())
    return Growth(open_sessions, log_rows, store_mib, filled_after_s, empty, large, wrong)


def _under_load(data_dir: Path, corpus: Corpus, rate: int) -> Measured:
    """As `benchmarks.http` runs it, on a store that is there."""
    with folder() as place, contextlib.ExitStack() as stack:
        (place / "data").symlink_to(data_dir)
        port, sink_port = free_port(), free_port()
        backend = f"http://127.0.0.1:{sink_port}"
        sink = Pinned("sink", OTHERS, place, [sys.executable, "-m", "benchmarks.sink", "--port", str(sink_port)])
        stack.callback(sink.kill)
        sink.wait_until_answers(f"{backend}/count")
        server = Pinned("otel_voice", SERVER, place, *program("otel_voice", port, backend, place))
        stack.callback(server.kill)
        server.wait_until_answers(f"http://127.0.0.1:{port}/readyz")
        return measure(server, sink, backend, port, corpus, rate)


def _loaded(closed: Sequence[Measured], paced: Sequence[Measured]) -> Loaded:
    return Loaded(
        cpu_us=statistics.median(run.cpu_us for run in closed),
        p99_ms=statistics.median(run.latency_ms["p99"] for run in paced),
        peak_mib=max(run.peak_mib for run in (*closed, *paced)),
    )


# All of them


def memory_table(found: Memory) -> str:
    return (
        f"idle          {found.idle_mib:8.1f} MiB, a bare server {found.bare_mib:.1f} MiB\n"
        f"a session     {found.session_bytes:8,.0f} bytes each of {found.sessions:,} with an open turn"
    )


def start_table(found: Start) -> str:
    return (
        f"bare server   {found.bare_s:8.2f} s\n"
        f"empty store   {found.empty_s:8.2f} s ({found.empty_s / found.bare_s:.1f} times)\n"
        f"filled store  {found.filled_s:8.2f} s with {found.spans:,} spans, {found.open_sessions:,} open sessions\n"
        f"rows behind   {found.behind_s:8.2f} s where each of these has a record beyond its row"
    )


def export_table(found: Export) -> str:
    return (
        f"drain         {found.spans_per_s:8,.0f} spans/s, {found.requests:,} requests\n"
        f"arrived       {found.distinct:8,} different ones of {found.spans:,}\n"
        f"memory        {found.peak_mib:8.1f} MiB at most, {found.idle_mib:.1f} MiB idle"
    )


def growth_table(found: Growth) -> str:
    what = f"{found.log_rows:,} records, {found.open_sessions:,} open sessions"
    lines = [f"large store   {found.store_mib:8,.0f} MiB, {what}, made in {found.filled_after_s:.0f} s"]
    for name, loaded in (("empty", found.empty), ("large", found.large)):
        p99 = f"p99 {loaded.p99_ms:.2f} ms at {RATE:,} a second"
        lines.append(f"{name:14}{loaded.cpu_us:8.1f} us CPU an event, {p99}, {loaded.peak_mib:.0f} MiB at most")
    cpu, p99_ms = found.large.cpu_us / found.empty.cpu_us, found.large.p99_ms / found.empty.p99_ms
    lines.append(f"large/empty   {cpu:8.2f} CPU, {p99_ms:.2f} p99")
    return "\n".join([*lines, *(f"  ! {wrong}" for wrong in found.wrong)])


def _growth(quick: bool, rounds: int) -> Growth:
    return growth(rounds, 10_000, 1_000_000, 19_264) if quick else growth(rounds)


RUNS: dict[str, Callable[[bool, int], str]] = {
    "memory": lambda quick, rounds: memory_table(memory(rounds, 5_000 if quick else 20_000)),
    "start": lambda quick, rounds: start_table(start(rounds, *((10_000, 1_000) if quick else (100_000, 10_000)))),
    "export": lambda quick, rounds: export_table(export(rounds, 20_000 if quick else 200_000)),
    "growth": lambda quick, rounds: growth_table(_growth(quick, rounds)),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.states", description="Memory, start, drain, growth.")
    parser.add_argument("--quick", action="store_true", help="less of everything, and once")
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS} if not said otherwise")
    parser.add_argument("--only", nargs="+", choices=RUNS, metavar="NAME", default=RUNS)
    chosen = parser.parse_args(arguments)
    for name in chosen.only:
        print(RUNS[name](chosen.quick, chosen.rounds or (1 if chosen.quick else ROUNDS)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
