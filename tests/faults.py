"""The faults: what is done to real processes while pages post, and what has to hold. One function each.

The same function runs short in the tests and long in `python -m benchmarks.faults`; each returns a `Row`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import json
import platform
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_voice.spans import span_id
from tests.components.build import COLLECTOR
from tests.oracle import (
    NO_ANSWER,
    Answer,
    Arrivals,
    Book,
    Call,
    Event,
    Key,
    Load,
    Result,
    Wire,
    audit,
    fresh,
    session_end,
    turn_events,
)
from tests.real import (
    COLLECTOR_CONFIG,
    Collector,
    LangfuseServer,
    Program,
    Receiver,
    Reply,
    free_port,
    spans_in,
    wait_for,
)

Started = TypeVar("Started", bound=Program)

FAILING_DISK = Path(__file__).parent / "components" / "failing_disk.c"
GRACE_S = 10
READY_S = 5
DRAINED_S = 60
# What a receiver may grow by: an allocator's noise, or what it holds of the sessions of a minute.
FLAT_MIB = 16
GROWTH_MIB = 64
OVERLOAD_MIB = 256
# In an overload an answer may take so long, if it is not refused at once.
LONGEST_ANSWER_S = 5
SPAN_COUNTS = ("made", "delivered", "pending", "dead_letter", "dropped")


class Absent(Exception):
    """What a fault needs and this machine does not have; one sentence."""


@dataclass
class Row:
    """What was done, what the oracle counted (events; duplicates are spans), what was measured, whether it held."""

    fault: str
    done: str
    issued: int
    accepted: int
    missing: int
    wrong: int
    duplicates: int
    measured: str
    holds: bool
    first_faults: list[str] = field(default_factory=list)


class Stage:
    """The processes of one fault in a folder; all of them are ended with it. `keep` hears of each."""

    def __init__(self, folder: Path, keep: Callable[[Any], Any] = lambda program: program) -> None:
        self.folder, self._keep = folder, keep
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _kept(self, program: Started) -> Started:
        self._exit.callback(program.kill)
        self._keep(program)
        return program

    def backend(self) -> LangfuseServer:
        backend = LangfuseServer()
        self._exit.callback(backend.close)
        return backend

    def receiver(self, env: Mapping[str, str], port: int = 0, data_dir: Path | None = None) -> Receiver:
        """Started again, it takes over the data of the one before."""
        return self._kept(Receiver(data_dir or self.folder / "data", self.folder, env, port))

    def collector(self, port: int, backend: LangfuseServer) -> Collector:
        """Takes OTLP over HTTP at the port; started again, it takes over the queue of the one before."""
        if (binary := COLLECTOR.find()) is None:
            raise Absent(COLLECTOR.how_to_get)
        env = {
            "OTEL_VOICE_COLLECTOR_HTTP": f"127.0.0.1:{port}",
            "OTEL_VOICE_COLLECTOR_EXPORTERS": "[otlp_http/langfuse]",
            **backend.env,
        }
        return self._kept(Collector(binary, self.folder, env))

    def load(self, port: int, **load: Any) -> Load:
        started = Load(port, **load).start()
        self._exit.callback(started.abandon)
        return started

    def small_disk(self, mib: int) -> Path:
        """A file system of so many MiB."""
        disk = self.folder / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=700", "tmpfs", str(disk)]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
            raise Absent("a full disk needs a small file system, and here none may be mounted: run it as root")
        self._exit.callback(subprocess.run, ["umount", "--lazy", str(disk)], check=True)
        return disk

    def failing_disk(self) -> tuple[Path, dict[str, str]]:
        """A file that makes the store's writes fail while it exists, and the environment in which it does."""
        control, library = self.folder / "failing", self.folder / "failing_disk.so"
        if platform.system() != "Linux" or shutil.which("gcc") is None:
            raise Absent("a failing disk is a preloaded library: it needs Linux, and gcc to build it")
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(FAILING_DISK), "-ldl"], check=True)
        return control, {"LD_PRELOAD": str(library), "FAILING_DISK": str(control)}


def wait(seconds: float) -> None:
    threading.Event().wait(seconds)


def rss_mib(program: Program) -> float:
    """Resident memory."""
    status = Path(f"/proc/{program.process.pid}/status")
    if not status.exists():
        told = subprocess.run(["ps", "-o", "rss=", "-p", str(program.process.pid)], capture_output=True, check=True)
        return int(told.stdout) / 1024
    found = re.search(r"^VmRSS:\s+(\d+) kB", status.read_text(), re.MULTILINE)
    assert found, f"{program.name} has no memory any more"
    return int(found[1]) / 1024


def ledger(receiver: Receiver) -> dict[str, int]:
    """Events accepted, mapped, open, erased; spans made, delivered, pending, dead_letter, dropped; as /metrics says."""
    text = httpx.get(f"{receiver.url}/metrics", timeout=10).raise_for_status().text
    found = re.findall(r"^otel_voice_(?:events|spans)_(\w+?)(?:_total)? (\S+)$", text, re.MULTILINE)
    return {name: int(float(count)) for name, count in found}


def adds_up(counted: Mapping[str, int]) -> bool:
    events = counted["accepted"] == sum(counted[name] for name in ("mapped", "open", "erased"))
    spans = counted["made"] == sum(counted[name] for name in SPAN_COUNTS[1:])
    return events and spans


def row(fault: str, done: str, result: Result, measured: list[str], holds: bool) -> Row:
    refused = ", ".join(f"{count} x {status}" for status, count in sorted(result.refused.items()))
    told = [*measured, f"requests accepted in p50 {result.p50:.1f}, p99 {result.p99:.1f} ms"]
    told += [f"refused {refused}"] if refused else []
    told += [f"unexpected answers: {result.unexpected[:3]}"] if result.unexpected else []
    return Row(
        fault=fault,
        done=done,
        issued=result.issued,
        accepted=result.accepted,
        missing=result.missing,
        wrong=result.wrong,
        duplicates=result.duplicates,
        measured="; ".join(told),
        holds=holds and result.holds,
        first_faults=result.first_faults,
    )


# The next hop


def next_hop_down(stage: Stage, seconds: float, rate: float) -> Row:
    """The collector is away, and comes back."""
    backend, port = stage.backend(), free_port()
    receiver = stage.receiver({"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"})
    load = stage.load(receiver.port, pages=8, rate=rate)
    # Until as many sessions leave the memory, a minute after their end, as come: that growth is not the outage's.
    settled_s = min(120, seconds / 2)
    wait(settled_s)
    before = rss_mib(receiver)
    wait(seconds - settled_s)
    after = rss_mib(receiver)
    load.stop()
    stage.collector(port, backend)
    result = audit(backend, load.book, fresh(receiver.port), deadline_s=DRAINED_S)
    measured = [f"drained {result.drained_s:.1f} s after its return"]
    measured += [f"RSS {before:.0f} MiB after {settled_s:g} s, {after:.0f} MiB at its end"]
    done = f"collector down {seconds:g} s at {rate:g} spans/s, then up"
    return row("next hop down", done, result, measured, after < before + FLAT_MIB)


def next_hop_slow(stage: Stage, seconds: float, rate: float, timeout_s: float, noise_ms: float) -> Row:
    """Each answer after 1 s; then none; then a byte a second of one that never ends."""
    backend = stage.backend()
    receiver = stage.receiver({**backend.env, "OTEL_EXPORTER_OTLP_TIMEOUT": f"{timeout_s:g}"})
    load = stage.load(receiver.port, pages=8, rate=rate)
    wait(min(2, seconds))
    before, p99 = rss_mib(receiver), {}
    never = threading.Event()
    for name, pause_s, standing in (
        ("calm", 0.0, None),
        ("slow", 1.0, None),
        ("silent", 0.0, Reply(503, hang_on=never)),
        ("dripping", 0.0, Reply(503, drips=True)),
    ):
        backend.pause_s, backend.standing = pause_s, standing
        began = time.monotonic()
        wait(seconds)
        p99[name] = load.book.latency_ms(0.99, since=began)
    after = rss_mib(receiver)
    # The drip goes on: whoever waits for the end of that answer waits for ever.
    backend.standing = None
    load.stop()
    result = audit(backend, load.book, fresh(receiver.port), deadline_s=DRAINED_S)
    never.set()
    measured = [f"p99 {name} {took:.1f} ms" for name, took in p99.items()]
    measured += [f"RSS {before:.0f} -> {after:.0f} MiB", f"drained {result.drained_s:.1f} s after its recovery"]
    unchanged = max(p99.values()) <= 3 * p99["calm"] + noise_ms
    done = f"calm, answers after 1 s, none, a byte a second: {seconds:g} s each at {rate:g} spans/s"
    return row("next hop slow, then silent", done, result, measured, unchanged and after < before + GROWTH_MIB)


PARTIAL = b'{"partialSuccess": {"rejectedSpans": "1", "errorMessage": "one is too many"}}'
JSON = {"Content-Type": "application/json"}
ANSWERS = {
    "500": Reply(500),
    "503": Reply(503),
    "429 with Retry-After": Reply(429, headers={**JSON, "Retry-After": "1"}),
    "413": Reply(413),
    "401": Reply(401),
    "404": Reply(404),
    "302": Reply(302, headers={**JSON, "Location": "/elsewhere"}),
    "partial success": Reply(200, PARTIAL),
}
REFUSALS = {"400": Reply(400), "413": Reply(413), "partial": Reply(200, PARTIAL)}


def next_hop_refuses(stage: Stage, rounds: int, rate: float) -> Row:
    """One bad answer after the other, and all the time a refusal of whatever holds one of three spans."""
    backend, book = stage.backend(), Book()
    receiver = stage.receiver(backend.env)
    marked = {_marked_call(receiver, backend, book, reply): reason for reason, reply in REFUSALS.items()}
    load, balanced = stage.load(receiver.port, pages=8, rate=rate), True
    wait_for(lambda: marked.keys() <= dead_letters(receiver).keys(), 20, "the marked spans to be set aside")
    for _ in range(rounds):
        for name, reply in ANSWERS.items():
            seen = len(backend.requests)
            backend.answer_next(reply)
            _wait_for_requests(backend, seen + 2, f"a request after {name}")
            balanced &= adds_up(ledger(receiver))
    load.stop()
    result = audit(backend, book, load.book, fresh(receiver.port), aside=lambda: set(dead_letters(receiver)))
    dead, arrivals = dead_letters(receiver), Arrivals(backend)
    arrivals.look()
    spans = len(arrivals.first.keys() | dead.keys())
    wait_for(lambda: ledger(receiver)["made"] >= spans, 20, "the ledger to know of all spans")
    counted = wait_for(lambda: None if (found := ledger(receiver))["pending"] else found, 20, "nothing to be pending")
    told = balanced and adds_up(counted) and counted["dead_letter"] == len(dead)
    told = told and counted["made"] == spans
    reasons = {key: reason.split()[0] for key, reason in dead.items()}
    holds = told and marked.items() <= reasons.items() and set(reasons.values()) <= REFUSALS.keys()
    measured = [", ".join(f"{name} {counted[name]}" for name in SPAN_COUNTS)]
    measured += [f"dead letters say {sorted(reason[:30] for reason in dead.values())}"]
    done = f"{', '.join(ANSWERS)}, one after the other, {rounds} x; three marked spans always refused"
    return row("next hop refuses", done, result, measured, holds)


def _wait_for_requests(backend: LangfuseServer, count: int, what: str) -> None:
    wait_for(lambda: len(backend.requests) >= count, DRAINED_S, what)


def _marked_call(receiver: Receiver, backend: LangfuseServer, book: Book, reply: Reply) -> Key:
    """A call of its own, one of whose spans gets this reply; that span's key."""
    call = _new_call(receiver, book)
    span = span_id(call.trace, "turn", "marked")
    backend.marked[span] = reply
    _deliver(receiver, call, book, call.numbered(turn_events("marked")))
    _deliver(receiver, call, book, call.numbered([session_end(call)]))
    return call.trace, span


def dead_letters(receiver: Receiver) -> dict[Key, str]:
    """What was set aside, and the reason."""
    address = f"file:{receiver.data_dir / 'otel-voice.db'}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, uri=True)) as db:
        rows = db.execute("SELECT body, reason FROM dead_letters").fetchall()
    exports = [(ExportTraceServiceRequest.FromString(body), reason) for body, reason in rows]
    return {
        (span.trace_id.hex(), span.span_id.hex()): reason for export, reason in exports for span in spans_in(export)
    }


# The processes


def receiver_killed(stage: Stage, kills: int, rate: float) -> Row:
    """SIGKILL under load, at random moments or as soon as a page has read its 2xx; another takes over port and data."""
    backend, moments, ready, armed = stage.backend(), random.Random(17), list[float](), threading.Event()
    # Long enough that a kill falls into an export as well.
    backend.pause_s = 0.1
    receiver = stage.receiver(backend.env)

    def strike() -> None:
        if armed.is_set():
            armed.clear()
            receiver.process.kill()

    load = stage.load(receiver.port, pages=8, rate=rate, on_taken=strike)
    for number in range(kills):
        wait(moments.uniform(0.1, 2.5))
        if number % 2:
            receiver.kill()
        else:
            armed.set()
            wait_for(receiver.ended, 20, "an answer, and the receiver to be killed")
        began = time.monotonic()
        receiver = stage.receiver(backend.env, receiver.port)
        ready.append(time.monotonic() - began)
    load.stop()
    result = audit(backend, load.book, fresh(receiver.port))
    balanced = adds_up(ledger(receiver))
    measured = [f"ready again after {max(ready):.2f} s at most", f"{load.book.unanswered} requests cut off"]
    measured += [f"the ledger {'adds up' if balanced else 'DOES NOT ADD UP'}"]
    done = f"SIGKILL {kills} times at {rate:g} spans/s, at random moments or just after a 2xx"
    return row("receiver killed", done, result, measured, balanced and max(ready) <= READY_S)


def killed_with_backlog(stage: Stage, calls: int) -> Row:
    """Each call leaves 501 spans; all of them wait when the receiver is killed."""
    backend, book, turns = stage.backend(), Book(), 250
    backend.down()
    receiver = stage.receiver(backend.env)
    for _ in range(calls):
        call = _new_call(receiver, book)
        _deliver(receiver, call, book, call.numbered(event for n in range(turns) for event in turn_events(f"t{n}")))
        _deliver(receiver, call, book, call.numbered([session_end(call)]))
    pending = calls * (2 * turns + 1)
    wait_for(lambda: ledger(receiver)["pending"] == pending, 120, "all spans to wait", receiver.log)
    receiver.kill()
    backend.up()
    began = time.monotonic()
    receiver = stage.receiver(backend.env, receiver.port)
    ready_s = time.monotonic() - began
    result = audit(backend, book, fresh(receiver.port), deadline_s=2 * DRAINED_S)
    measured = [f"ready again after {ready_s:.2f} s", f"drained {result.drained_s:.1f} s later"]
    measured += [f"RSS {rss_mib(receiver):.0f} MiB"]
    done = f"SIGKILL with {pending:,} spans pending"
    return row("receiver killed with a backlog", done, result, measured, ready_s <= READY_S)


def collector_killed(stage: Stage, kills: int, rate: float) -> Row:
    """SIGKILL while the backend is down: what the collector took lies in its queue on disk."""
    backend, port, moments = stage.backend(), free_port(), random.Random(23)
    collector = stage.collector(port, backend)
    receiver = stage.receiver({"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"})
    load = stage.load(receiver.port, pages=8, rate=rate)
    wait_for(lambda: backend.spans, 20, "spans to flow through the collector")
    backend.down()
    for _ in range(kills):
        _wait_for_delivery(receiver, ledger(receiver)["delivered"] + 1)
        wait(moments.uniform(0, 0.5))
        collector.kill()
        collector = stage.collector(port, backend)
    backend.up()
    load.stop()
    result = audit(backend, load.book, fresh(receiver.port), deadline_s=2 * DRAINED_S)
    done = f"backend down, collector SIGKILLed {kills} times at {rate:g} spans/s, backend up"
    measured = [f"all there {result.drained_s:.1f} s after the backend's return"]
    return row("collector killed", done, result, measured, True)


def _wait_for_delivery(receiver: Receiver, count: int) -> None:
    wait_for(lambda: ledger(receiver)["delivered"] >= count, DRAINED_S, "the next hop to take more", receiver.log)


def sigterm_in_outage(stage: Stage, seconds: float, rate: float, silent: bool) -> Row:
    """SIGTERM while the next hop refuses connections, or takes them and says nothing."""
    backend, never = stage.backend(), threading.Event()
    if silent:
        backend.standing = Reply(503, hang_on=never)
    else:
        backend.down()
    receiver = stage.receiver(backend.env)
    load = stage.load(receiver.port, pages=8, rate=rate)
    wait_for(lambda: ledger(receiver)["pending"], 20, "spans to wait")
    wait(seconds)
    began = time.monotonic()
    receiver.stop(GRACE_S + 2)
    ended_s = time.monotonic() - began
    backend.down()
    backend.standing = None
    backend.up()
    never.set()
    receiver = stage.receiver(backend.env, receiver.port)
    load.stop()
    result = audit(backend, load.book, fresh(receiver.port))
    hop = "takes requests and never answers" if silent else "refuses connections"
    fault = f"SIGTERM in an outage ({'silent' if silent else 'refused'})"
    done = f"SIGTERM while the next hop {hop}, at {rate:g} spans/s; then both back"
    return row(fault, done, result, [f"exit 0 after {ended_s:.1f} s"], ended_s <= GRACE_S)


def dropped_by_the_collector(stage: Stage, calls: int) -> Row:
    """The collector's own hole: a backend's 500 makes it drop for good. `resend` fills it."""
    backend, port = stage.backend(), free_port()
    stage.collector(port, backend)
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    receiver = stage.receiver(endpoint)
    backend.standing = Reply(500)
    book = Load(receiver.port, pages=calls, calls=1, turns=2).start().join()
    wait_for(lambda: _keys(backend, 500) >= {each.key for each in book.obligations}, 30, "the backend to refuse all")
    backend.standing = None
    lost = audit(backend, book, deadline_s=2).missing
    refused = _keys(backend, 500)
    for session in book.sessions:
        resend(receiver, session, endpoint)
    result = audit(backend, book, fresh(receiver.port))
    again = _keys(backend, 200)
    measured = [f"{lost} of {len(book.obligations)} events lost before the resend", f"{len(refused)} spans sent again"]
    done = f"backend answers 500 to the collector for {calls} calls; then `otel-voice resend` for each"
    return row("dropped by the collector", done, result, measured, lost == len(book.obligations) and refused <= again)


def _keys(backend: LangfuseServer, status: int) -> set[Key]:
    requests = [request for request in backend.requests if request.status == status]
    return {(span.trace_id.hex(), span.span_id.hex()) for request in requests for span in request.spans}


def resend(receiver: Receiver, session: str, env: Mapping[str, str]) -> None:
    """By the command line, as an operator does."""
    command = [sys.executable, "-m", "otel_voice.cli", "resend", session, "--data-dir", str(receiver.data_dir)]
    given = {"PYTHONPATH": str(COLLECTOR_CONFIG.parent), **env}
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# The disk


def disk_full(stage: Stage, seconds: float, rate: float) -> Row:
    """A file system that others fill, until they give it back."""
    disk = stage.small_disk(16)
    ballast, backend = disk / "ballast", stage.backend()
    receiver = stage.receiver(backend.env, data_dir=disk / "data")
    done = f"data on a file system of 16 MiB, filled for {seconds:g} s at {rate:g} spans/s, then freed"
    return _disk_fails(
        stage, "store's disk full", done, backend, receiver, seconds, rate, [lambda: _fill(ballast)], ballast
    )


def disk_fails(stage: Stage, seconds: float, rate: float) -> Row:
    """Every write and every sync of the store fails, first as a broken disk's, then as a read-only one's."""
    backend, (control, env) = stage.backend(), stage.failing_disk()
    receiver = stage.receiver({**backend.env, **env})
    done = f"EIO, then EROFS from each write and sync, {seconds:g} s each at {rate:g} spans/s"
    errors = [lambda: _say(control, errno.EIO), lambda: _say(control, errno.EROFS)]
    return _disk_fails(stage, "store's disk fails", done, backend, receiver, seconds, rate, errors, control)


def _say(control: Path, error: int) -> None:
    # Never seen empty, which would be no error.
    new = control.with_name("failing.new")
    new.write_text(str(error))
    new.replace(control)


def _fill(ballast: Path) -> None:
    """Takes what room is left, to the last block."""
    with ballast.open("ab", buffering=0) as file:
        for size in (2**20, 4096):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass


def _disk_fails(
    stage: Stage,
    fault: str,
    done: str,
    backend: LangfuseServer,
    receiver: Receiver,
    seconds: float,
    rate: float,
    begins: list[Callable[[], None]],
    until_gone: Path,
) -> Row:
    """Each fault in turn, begun again and again (others take what the store gives up) until its file is removed."""
    load, book = stage.load(receiver.port, pages=8, rate=rate, split=False), Book()
    call, refusals, back_s = _new_call(receiver, book), list[httpx.Response](), list[float]()
    fitted = 0
    wait(1)
    for number, begin in enumerate(begins):
        large = call.numbered(_large_turn(f"large-{number}"))
        begin()
        _wait_for_refusal(receiver, call, large)
        fitted -= load.book.requests
        refusals += _offered_for(seconds, receiver, call, large, begin)
        fitted += load.book.requests
        until_gone.unlink()
        began = time.monotonic()
        _deliver(receiver, call, book, large)
        back_s.append(time.monotonic() - began)
    alive = not receiver.ended()
    _deliver(receiver, call, book, call.numbered([session_end(call)]))
    load.stop()
    result = audit(backend, book, load.book, fresh(receiver.port), deadline_s=DRAINED_S)
    refused = [answer for answer in refusals if answer.status_code == 503 and "retry-after" in answer.headers]
    measured = [f"of {len(refusals)} large requests meanwhile {len(refused)} answered 503 with Retry-After"]
    measured += [f"{fitted} small ones still found room"] if fitted else []
    measured += [f"taking again after {max(back_s):.1f} s, {'the same process' if alive else 'the process had ended'}"]
    return row(fault, done, result, measured, alive and bool(refused) and len(refused) == len(refusals))


def _large_turn(turn_id: str) -> list[Event]:
    """Larger than what room a store may have left in its own files."""
    *events, complete = turn_events(turn_id)
    return [*events, {**complete, "agent_text": "word " * 40_000}]


def _wait_for_refusal(receiver: Receiver, call: Call, events: list[Event]) -> None:
    wait_for(lambda: _offer(receiver, call, events).status_code == 503, 20, "the store to refuse", receiver.log)


def _offered_for(
    seconds: float, receiver: Receiver, call: Call, events: list[Event], again: Callable[[], None]
) -> list[httpx.Response]:
    answers, ends = list[httpx.Response](), time.monotonic() + seconds
    while time.monotonic() < ends:
        again()
        answers.append(_offer(receiver, call, events))
        wait(0.1)
    return answers


# One page, step by step


def _new_call(receiver: Receiver, book: Book) -> Call:
    made = httpx.post(f"{receiver.url}/v1/sessions", json={"session_id": str(uuid.uuid4())}).raise_for_status().json()
    book.sessions.append(made["session_id"])
    return Call(made["session_id"], made["token"], uuid.uuid4().hex)


def _offer(receiver: Receiver, call: Call, events: list[Event]) -> httpx.Response:
    return _raw(receiver, call, call.batch(events), {})


def _deliver(receiver: Receiver, call: Call, book: Book, events: list[Event]) -> None:
    """Numbered events, until they are taken."""
    book.issued += len(events)
    wait_for(lambda: _offer(receiver, call, events).status_code == 204, 30, "a 204", receiver.log)
    book.obligations += [call.obligation(event) for event in events]


# What comes in


def overload(stage: Stage, seconds: float, connections: int) -> Row:
    """A few connections without a pause give the capacity; then many times as many."""
    backend = stage.backend()
    receiver = stage.receiver(backend.env)
    few = stage.load(receiver.port, pages=4, turns=20, chunks=40, split=False)
    wait(seconds)
    few.stop()
    before, capacity = rss_mib(receiver), len(few.book.latencies) / seconds
    many = stage.load(receiver.port, pages=connections, turns=20, chunks=40, split=False)
    wait(seconds)
    held, took = rss_mib(receiver), len(many.book.latencies) / seconds
    p99 = many.book.latency_ms(0.99)
    # Whoever was not answered yet ends its call now, and is no part of the measurement.
    many.stop(120)
    result = audit(backend, few.book, many.book, fresh(receiver.port), deadline_s=2 * DRAINED_S)
    measured = [
        f"4 connections {capacity:.0f} requests/s with p99 {few.book.latency_ms(0.99):.1f} ms",
        f"{connections} connections {took:.0f} requests/s with p99 {p99:.0f} ms",
        f"RSS {before:.0f} -> {held:.0f} MiB",
    ]
    done = f"{connections} connections that never pause, batches of 42 events, {seconds:g} s"
    bounded = p99 <= 1000 * LONGEST_ANSWER_S and held < before + OVERLOAD_MIB
    return row("overload", done, result, measured, bounded)


def hostile_bodies(stage: Stage, rounds: int, rate: float) -> Row:
    """What no page sends, among good batches; and a good event beside a bad one."""
    backend, book, strange, statuses = stage.backend(), Book(), list[str](), Counter[int]()
    receiver = stage.receiver(backend.env)
    load = stage.load(receiver.port, pages=8, rate=rate)
    for number in range(rounds):
        call = _new_call(receiver, book)
        for name, status in [*_refused(receiver, call), *_beside(receiver, call, book, number)]:
            statuses[status] += 1
            # Nobody is left to be answered, or a batch with good events is taken with a verdict; all else is refused.
            if status != NOBODY and not (status == 200 if name.startswith("beside") else 400 <= status < 500):
                strange.append(f"{name}: {status}")
        _deliver(receiver, call, book, call.numbered([session_end(call)]))
    load.stop()
    result = audit(backend, book, load.book, fresh(receiver.port))
    told = ", ".join(f"{count} x {status or 'cut off'}" for status, count in sorted(statuses.items()))
    measured = [f"hostile requests answered {told}"] + ([f"strange answers {strange[:5]}"] if strange else [])
    done = f"malformed, truncated, huge, deep, zipped and mixed bodies, {rounds} x 31 among {rate:g} spans/s"
    return row("hostile bodies", done, result, measured, not strange and not receiver.ended())


def _refused(receiver: Receiver, call: Call) -> Iterator[tuple[str, int]]:
    """Each hostile request's name and the status it got."""
    for name, body, headers in hostile(call):
        yield name, _raw(receiver, call, body, headers).status_code
    for name, data in broken_requests(call):
        yield name, asyncio.run(_status_of(receiver.port, data))


def _beside(receiver: Receiver, call: Call, book: Book, number: int) -> Iterator[tuple[str, int]]:
    """Four good events and a bad one in a batch; the good ones are obligations where the verdict says so."""
    for name, bad in bad_events():
        good = call.numbered(turn_events(f"{name.replace(' ', '-')}-{number}"))
        book.issued += len(good)
        answer = _raw(receiver, call, _with_raw(call, good, bad), {})
        if answer.status_code == 200:
            verdict = answer.json()
            assert (verdict["accepted"], [each["index"] for each in verdict["rejected"]]) == (4, [2]), verdict
            book.obligations += [call.obligation(event) for event in good]
        yield f"beside {name}", answer.status_code


def _raw(receiver: Receiver, call: Call, body: bytes, headers: dict[str, str]) -> httpx.Response:
    url = f"{receiver.url}/v1/sessions/{call.id}/events"
    return httpx.post(url, content=body, headers={"content-type": "text/plain", **headers}, timeout=20)


def hostile(call: Call) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    """A name, a body, headers."""
    good = call.batch([{"type": "mark", "name": "m"}])
    deep = b"[" * 100_000 + b"]" * 100_000
    token = json.dumps(call.token).encode()
    zipped = {"content-encoding": "gzip"}
    yield "nothing", b"", {}
    yield "malformed", b'{"token": %s, "events": [}' % token, {}
    yield "truncated", good[:-5], {}
    yield "no object", b"[%s]" % good, {}
    yield "bad UTF-8", good.replace(call.source.encode(), b"\xff\xfe"), {}
    yield "huge", good[:-1] + b" " * 2**21 + b"}", {}
    yield "deep", b'{"token": %s, "events": %s}' % (token, deep), {}
    yield "deep and open", b'{"token": %s, "events": %s' % (token, b'[{"a":' * 50_000), {}
    yield "too many", call.batch([{"type": "mark", "name": "m"}] * 1_001), {}
    yield "events are none", b'{"token": %s, "events": {"a": 1}}' % token, {}
    yield "gzip bomb", gzip.compress(bytes(200 * 2**20), 9), zipped
    yield "gzip in gzip bomb", gzip.compress(gzip.compress(bytes(50 * 2**20))), zipped
    yield "truncated gzip", gzip.compress(good)[:-9], zipped
    yield "no gzip", good, zipped
    yield "another encoding", good, {"content-encoding": "br"}
    yield "another type", good, {"content-type": "application/xml"}
    yield "no token", b'{"events": []}', {}
    yield "a wrong token", good.replace(call.token.encode(), call.token[:-4].encode() + b"AAAA"), {}
    yield "noise", random.Random(5).randbytes(5000), {}


def bad_events() -> Iterator[tuple[str, bytes]]:
    """Single events that cannot be taken, as bytes."""
    yield "an unknown type", b'{"type": "surprise", "seq": %d}'
    yield "no type", b'{"seq": %d}'
    yield "no object", b"17"
    yield "a wrong field", b'{"type": "turn_start", "turn_id": 5, "seq": %d}'
    yield "a far future", b'{"type": "mark", "name": "m", "ts": 9999999999999, "seq": %d}'
    yield "a number too large", b'{"type": "mark", "name": "m", "ts": 1e999, "seq": %d}'
    yield "bad UTF-8", b'{"type": "mark", "name": "\xff\xfe", "seq": %d}'
    yield "deep", b'{"type": "mark", "name": "m", "attributes": ' + b'{"a":' * 500 + b"1" + b"}" * 500 + b', "seq": %d}'
    yield "a long name", b'{"type": "mark", "name": "' + b"m" * 5_000 + b'", "seq": %d}'


def _with_raw(call: Call, good: list[Event], bad: bytes) -> bytes:
    """A batch of good events with a bad one in their midst, under a number of its own where it has one."""
    if b"%d" in bad:
        bad = bad.replace(b"%d", str(call.sent).encode())
        call.sent += 1
        call.refused += 1
    events = [json.dumps(event).encode() for event in good]
    return call.batch([]).replace(b'"events": []', b'"events": [%s]' % b", ".join([*events[:2], bad, *events[2:]]))


NOBODY = 0


def broken_requests(call: Call) -> Iterator[tuple[str, bytes]]:
    """What is no HTTP, or ends before it should."""
    path = f"/v1/sessions/{call.id}/events".encode()
    yield "no HTTP", b"\x16\x03\x01 hello\r\n\r\n"
    yield "a length that is none", b"POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: -5\r\n\r\n" % path
    yield "a body cut off", b"POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 500\r\n\r\n{" % path


async def _status_of(port: int, data: bytes) -> int:
    """The answer to these bytes, after which nothing more is said; NOBODY without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    writer.write_eof()
    try:
        async with asyncio.timeout(5):
            line = await reader.readline()
    except NO_ANSWER:
        line = b""
    writer.close()
    return int(line.split()[1]) if line else NOBODY


def any_order(stage: Stage, calls: int) -> Row:
    """Each batch up to three times, in any order, with answers that nobody reads."""
    backend, book = stage.backend(), Book()
    receiver = stage.receiver(backend.env)
    asyncio.run(_scrambled(receiver.port, book, calls))
    result = audit(backend, book, fresh(receiver.port))
    arrivals = Arrivals(backend)
    arrivals.look()
    spans = [each.span_id for request in backend.requests for each in request.spans]
    once = len(spans) == len(arrivals.first)
    measured = [f"{book.requests} requests answered, {book.unanswered} answers left unread"]
    measured += [f"{len(spans)} spans sent, {len(arrivals.first)} different ones"]
    done = f"{calls} calls, their batches shuffled, sent 1 to 3 times, some without reading the answer"
    return row("duplicates in any order", done, result, measured, once and book.unanswered > 0)


async def _scrambled(port: int, book: Book, calls: int) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(calls):
            group.create_task(_scrambled_call(port, book, random.Random(number)))
            # A few at a time: all of a call has to come within the settle time.
            await asyncio.sleep(0.05)


async def _scrambled_call(port: int, book: Book, chance: random.Random) -> None:
    wire = Wire(port)
    made = json.loads((await wire.post("/v1/sessions", json.dumps({"session_id": str(uuid.uuid4())}).encode())).body)
    wire.close()
    call = Call(made["session_id"], made["token"], "page")
    events = call.numbered(event for number in range(3) for event in turn_events(f"t{number}"))
    events += call.numbered([session_end(call)])
    book.issued += len(events)
    shuffled = chance.sample(events, len(events))
    batches = [shuffled[at : at + 3] for at in range(0, len(shuffled), 3)]
    sent = [batch for batch in batches for _ in range(chance.randint(1, 3))]
    async with asyncio.TaskGroup() as group:
        for batch in chance.sample(sent, len(sent)):
            group.create_task(_say_twice(port, book, call, batch, chance.random() < 0.4, chance.random() / 4))
    book.obligations += [call.obligation(event) for event in events]


async def _say_twice(port: int, book: Book, call: Call, events: list[Event], unread: bool, delay_s: float) -> None:
    """On a connection of its own; unread, it is closed with the answer under way, and a new one says all again."""
    await asyncio.sleep(delay_s)
    wire, path = Wire(port), f"/v1/sessions/{call.id}/events"
    if unread:
        await wire.send(path, call.batch(events))
        await asyncio.sleep(delay_s / 10)
        wire.close()
        book.unanswered += 1
    began = time.monotonic()
    answer: Answer = await wire.post(path, call.batch(events))
    wire.close()
    book.latencies.append((began, time.monotonic() - began))
    if answer.status != 204:
        book.unexpected.append(f"{answer.status} {answer.body[:200]!r}")


# All of them


@dataclass(frozen=True)
class Fault:
    """A fault by its name on the command line, and what makes it short and long; `components`: with the collector."""

    name: str
    run: Callable[..., Row]
    short: dict[str, Any]
    full: dict[str, Any]
    components: bool = False


# A few seconds have few requests, and the tests beside them take the processor: there the noise is of another order.
SLOW_SHORT = {"seconds": 3, "rate": 50, "timeout_s": 1.5, "noise_ms": 250}
SLOW_FULL = {"seconds": 30, "rate": 50, "timeout_s": 10, "noise_ms": 50}
SIGTERM_SHORT, SIGTERM_FULL = {"seconds": 0.5, "rate": 50}, {"seconds": 20, "rate": 50}

FAULTS = (
    Fault("down", next_hop_down, {"seconds": 5, "rate": 50}, {"seconds": 600, "rate": 50}, components=True),
    Fault("killed", receiver_killed, {"kills": 3, "rate": 50}, {"kills": 50, "rate": 100}),
    Fault("backlog", killed_with_backlog, {"calls": 4}, {"calls": 200}),
    Fault("collector", collector_killed, {"kills": 2, "rate": 50}, {"kills": 20, "rate": 50}, components=True),
    Fault("sigterm", partial(sigterm_in_outage, silent=False), SIGTERM_SHORT, SIGTERM_FULL),
    Fault("sigterm-silent", partial(sigterm_in_outage, silent=True), SIGTERM_SHORT, SIGTERM_FULL),
    Fault("full", disk_full, {"seconds": 2, "rate": 50}, {"seconds": 20, "rate": 50}),
    Fault("disk", disk_fails, {"seconds": 1, "rate": 50}, {"seconds": 10, "rate": 50}),
    Fault("answers", next_hop_refuses, {"rounds": 1, "rate": 30}, {"rounds": 4, "rate": 50}),
    Fault("slow", next_hop_slow, SLOW_SHORT, SLOW_FULL),
    Fault("overload", overload, {"seconds": 2, "connections": 200}, {"seconds": 10, "connections": 500}),
    Fault("hostile", hostile_bodies, {"rounds": 1, "rate": 50}, {"rounds": 20, "rate": 50}),
    Fault("order", any_order, {"calls": 20}, {"calls": 400}),
    Fault("dropped", dropped_by_the_collector, {"calls": 3}, {"calls": 20}, components=True),
)
