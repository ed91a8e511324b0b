"""The oracle: each event that a receiver answered with 2xx is an obligation, and the backend is asked for every one.

A `Load` is many pages that post at once through the HTTP API; what they were promised goes into a `Book`. All that
must arrive follows from the ids alone. `audit` looks for it at the backend; duplicates must be the same to the byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import statistics
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_voice.semconv import EVENTS_LOST, EVENTS_RECEIVED
from otel_voice.spans import root_id, span_id, trace_id
from tests.real import LangfuseServer

Event = dict[str, Any]
# A trace's id and a span's, in hex.
Key = tuple[str, str]

NO_ANSWER = (ConnectionError, EOFError, TimeoutError)
# A page would wait as long as it is asked to; a test has less time.
LONGEST_PAUSE_S = 0.5
ANSWER_S = 20.0


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """One keep-alive connection to the receiver, opened anew when it was lost."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes, **headers: str) -> Answer:
        """Raises one of NO_ANSWER; then nobody knows whether the request was taken."""
        try:
            async with asyncio.timeout(ANSWER_S):
                await self.send(path, body, **headers)
                return await self._answer()
        except NO_ANSWER:
            self.close()
            raise

    async def send(self, path: str, body: bytes, **headers: str) -> None:
        """The request alone; its answer stays unread."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        named = {"content-type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        lines = [f"POST {path} HTTP/1.1", f"host: 127.0.0.1:{self.port}", f"content-length: {len(body)}"]
        lines += [f"{name}: {text}" for name, text in named.items()]
        await self.write("\r\n".join([*lines, "", ""]).encode() + body)

    async def write(self, data: bytes) -> None:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        self._streams[1].write(data)
        await self._streams[1].drain()

    async def _answer(self) -> Answer:
        assert self._streams is not None
        reader = self._streams[0]
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection") == "close":
            self.close()
        return Answer(int(first.split()[1]), headers, body)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


class Obligation(NamedTuple):
    """An accepted event: the span that has to tell of it, that span's parent, and what is known of it: words in it,
    its start (ns), and for a root the number of events it counts."""

    event: str
    trace: str
    span: str
    parent: str
    words: bytes = b""
    start_ns: int | None = None
    received: int | None = None

    @property
    def key(self) -> Key:
        return self.trace, self.span

    def fault_in(self, span: Span) -> str | None:
        if span.parent_span_id.hex() != self.parent:
            return f"its parent is {span.parent_span_id.hex() or 'none'}, not {self.parent or 'none'}"
        if self.start_ns not in (None, span.start_time_unix_nano):
            return f"it begins {(span.start_time_unix_nano - (self.start_ns or 0)) / 1e6:g} ms late"
        if self.words not in span.SerializeToString():
            return f"{self.words.decode()!r} is not in it"
        counts = {each.key: each.value.int_value for each in span.attributes}
        told = (counts.get(EVENTS_RECEIVED), counts.get(EVENTS_LOST))
        if self.received is not None and told != (self.received, 0):
            return f"it counts {told[0]} events received and {told[1]} lost, not {self.received} and 0"
        return None


@dataclass
class Book:
    """What was issued and what came of it; `latencies` are of accepted requests: when (monotonic s), how long (s)."""

    issued: int = 0
    obligations: list[Obligation] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    latencies: list[tuple[float, float]] = field(default_factory=list)
    refused: Counter[int] = field(default_factory=Counter)
    unanswered: int = 0
    unexpected: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """Those that got their 2xx."""
        return len(self.latencies)

    def refuse(self, answer: Answer) -> None:
        """A good batch may be told to come again, and when; nothing else."""
        self.refused[answer.status] += 1
        if answer.status not in (429, 503) or "retry-after" not in answer.headers:
            self.unexpected.append(f"{answer.status} {answer.headers.get('retry-after', '')} {answer.body[:200]!r}")

    def latency_ms(self, quantile: float, since: float = 0, until: float = float("inf")) -> float:
        """Of the requests accepted between two moments; 0 where there is none."""
        known = sorted(took for at, took in self.latencies if since <= at < until)
        return 1000 * known[min(len(known) - 1, int(quantile * len(known)))] if known else 0.0


@dataclass
class Call:
    """One voice session as its page knows it."""

    id: str
    token: str
    source: str
    sent: int = 0
    refused: int = 0
    last_ts: int = 0

    @property
    def trace(self) -> str:
        return trace_id(self.id)

    def numbered(self, events: Iterable[Event]) -> list[Event]:
        """With their numbers and times (ms), which no retry changes."""
        numbered = []
        for event in events:
            self.last_ts = max(self.last_ts + 1, int(time.time() * 1000))
            numbered.append({**event, "seq": self.sent, "ts": self.last_ts})
            self.sent += 1
        return numbered

    def batch(self, events: list[Event]) -> bytes:
        return json.dumps({"source": self.source, "token": self.token, "events": events}).encode()

    def obligation(self, event: Event) -> Obligation:
        """What follows from a 2xx for this event; for a `session_end`, all others must have had theirs."""
        root, kind = root_id(self.trace), event["type"]
        if kind == "session_end":
            return Obligation(kind, self.trace, root, "", received=event["last_seq"] + 1 - self.refused)
        turn = span_id(self.trace, "turn", event["turn_id"])
        if kind in ("tool_call", "tool_result"):
            tool = span_id(self.trace, "tool", event["call_id"])
            return Obligation(kind, self.trace, tool, turn, event.get("result", "").encode())
        start_ns = event["ts"] * 1_000_000 if kind == "turn_start" else None
        return Obligation(kind, self.trace, turn, root, event.get("user_text", "").encode(), start_ns)


def turn_events(turn_id: str, chunks: int = 0) -> list[Event]:
    """A turn with a tool call, or with so many chunks of an answer instead: then one span tells of all of them."""
    opening: list[Event] = [{"type": "turn_start", "turn_id": turn_id}]
    call_id = f"{turn_id}-call"
    said = [{"type": "transcript", "role": "agent", "text": f"word {n} ", "turn_id": turn_id} for n in range(chunks)]
    tool = [
        {"type": "tool_call", "call_id": call_id, "name": "look", "arguments": {}, "turn_id": turn_id},
        {"type": "tool_result", "call_id": call_id, "result": f"saw {turn_id} there", "turn_id": turn_id},
    ]
    complete = {"type": "turn_complete", "turn_id": turn_id, "user_text": f"ask {turn_id} now", "agent_text": "yes"}
    return [*opening, *(said or tool), complete]


def session_end(call: Call) -> Event:
    return {"type": "session_end", "reason": "user_hangup", "last_seq": call.sent}


@dataclass
class Load:
    """Pages that hold one call after the other, together at `rate` spans/s; without a rate, as fast as they are
    answered. It runs until it is stopped, or until each page held `calls` calls; every call gets its end. `on_taken` is
    called in the load's thread as soon as a 2xx for a batch was read."""

    port: int
    pages: int = 4
    rate: float = 0
    turns: int = 4
    calls: int | None = None
    chunks: int = 0
    split: bool = True
    on_taken: Callable[[], None] = lambda: None
    book: Book = field(default_factory=Book)

    def start(self) -> Load:
        self._thread = threading.Thread(target=self._work, name="load", daemon=True)
        self._started = threading.Event()
        self._failed: BaseException | None = None
        self._thread.start()
        self._started.wait()
        return self

    def stop(self, deadline_s: float = 60) -> Book:
        """Lets each page end its call; fails when one cannot by the deadline."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        return self.join(deadline_s)

    def join(self, deadline_s: float = 60) -> Book:
        self._thread.join(deadline_s)
        assert not self._thread.is_alive(), (
            f"pages could not end their calls within {deadline_s:g} s: {self.book.refused}"
        )
        if self._failed is not None:
            raise self._failed
        return self.book

    def abandon(self) -> None:
        """Ends it at once, whatever its pages are at."""
        with contextlib.suppress(RuntimeError):  # it is over already
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(5)

    def _work(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._run())

    async def _run(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._task = cast("asyncio.Task[None]", asyncio.current_task())
        self._started.set()
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self.pages):
                    group.create_task(_Page(self, number).run())
        except BaseExceptionGroup as failed:
            self._failed = failed.exceptions[0]

    @property
    def over(self) -> bool:
        return self._stopping.is_set()

    async def pause(self, seconds: float) -> None:
        """So long, or until the load is to stop."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass


class _Page:
    def __init__(self, load: Load, number: int) -> None:
        self._load, self._book, self._number = load, load.book, number
        self._wire, self._random = Wire(load.port), random.Random(number)
        spans_a_turn = 2 + 1 / load.turns
        self._interval = load.pages * spans_a_turn / load.rate if load.rate else 0.0

    async def run(self) -> None:
        try:
            # Not all at the same moment.
            await self._load.pause(self._random.random() * self._interval)
            held = 0
            while not self._load.over and (self._load.calls is None or held < self._load.calls):
                await self._hold_call()
                held += 1
        finally:
            self._wire.close()

    async def _hold_call(self) -> None:
        call = await self._open()
        for number in range(self._load.turns):
            for part in self._parts(turn_events(f"p{self._number}-{call.id[:8]}-{number}", self._load.chunks)):
                await self._say(call, part)
            if self._interval:
                await self._load.pause(self._interval * (0.5 + self._random.random()))
            if self._load.over:
                break
        await self._say(call, [session_end(call)])

    def _parts(self, events: list[Event]) -> list[list[Event]]:
        """Now and then a turn comes in two batches, so that a fault falls into the middle of it."""
        if not self._load.split or self._random.random() < 0.5:
            return [events]
        at = self._random.randrange(1, len(events))
        return [events[:at], events[at:]]

    async def _open(self) -> Call:
        session_id = str(uuid.uuid4())
        answer = await self._until(201, "/v1/sessions", json.dumps({"session_id": session_id}).encode())
        self._book.sessions.append(session_id)
        return Call(session_id, json.loads(answer.body)["token"], uuid.uuid4().hex)

    async def _say(self, call: Call, events: list[Event]) -> None:
        events = call.numbered(events)
        self._book.issued += len(events)
        await self._until(204, f"/v1/sessions/{call.id}/events", call.batch(events))
        self._load.on_taken()
        self._book.obligations += [call.obligation(event) for event in events]

    async def _until(self, status: int, path: str, body: bytes) -> Answer:
        """The same bytes again and again until the answer is read that says that they were taken."""
        while True:
            began = time.monotonic()
            try:
                answer = await self._wire.post(path, body)
            except NO_ANSWER:
                self._book.unanswered += 1
                await asyncio.sleep(0.1)
                continue
            if answer.status == status:
                self._book.latencies.append((time.monotonic(), time.monotonic() - began))
                return answer
            self._book.refuse(answer)
            asked = float(answer.headers.get("retry-after", "1"))
            # Whoever hammers does not do as it is told.
            await asyncio.sleep(min(asked, LONGEST_PAUSE_S) if self._interval else 0)


class Arrivals:
    """What the backend took, span by span: the first copy, how many copies, and which of them differ."""

    def __init__(self, backend: LangfuseServer) -> None:
        self._backend, self._looked = backend, 0
        self.first: dict[Key, Span] = {}
        self.copies: Counter[Key] = Counter()
        self.differing: set[Key] = set()

    def look(self) -> None:
        """Takes in what came since."""
        requests = self._backend.requests[self._looked :]
        self._looked += len(requests)
        for request in requests:
            if request.status == 200 and request.answer == b"{}":
                for span in request.spans:
                    self._take(span)

    def _take(self, span: Span) -> None:
        key = span.trace_id.hex(), span.span_id.hex()
        first = self.first.setdefault(key, span)
        self.copies[key] += 1
        if first is not span and _bytes(first) != _bytes(span):
            self.differing.add(key)


def _bytes(span: Span) -> bytes:
    return span.SerializeToString(deterministic=True)


@dataclass
class Result:
    """The audit's numbers: events issued, accepted, missing, wrong; spans that came more than once; latencies in ms."""

    issued: int
    accepted: int
    missing: int
    wrong: int
    duplicates: int
    aside: int
    p50: float
    p99: float
    refused: dict[int, int]
    unexpected: list[str]
    drained_s: float
    first_faults: list[str]

    @property
    def holds(self) -> bool:
        return self.accepted > 0 and not (self.missing or self.wrong or self.unexpected)


def audit(
    backend: LangfuseServer,
    *books: Book,
    deadline_s: float = 30,
    aside: Callable[[], set[Key]] = set,
) -> Result:
    """Waits until every obligation is met at the backend or, openly, set aside, and no longer than the deadline."""
    arrivals, obligations = Arrivals(backend), [each for book in books for each in book.obligations]
    began, pause, left = time.monotonic(), threading.Event(), obligations
    while True:
        arrivals.look()
        known = aside()
        left = [each for each in left if each.key not in arrivals.first and each.key not in known]
        if not left or time.monotonic() > began + deadline_s:
            break
        pause.wait(0.1)
    drained_s = time.monotonic() - began
    wrong = [f"{each.event} {each.key}: {fault}" for each in obligations if (fault := _fault(each, arrivals))]
    wrong += [f"{key}: its copies differ" for key in arrivals.differing]
    latencies = [1000 * took for book in books for _, took in book.latencies]
    return Result(
        issued=sum(book.issued for book in books),
        accepted=len(obligations),
        missing=len(left),
        wrong=len(wrong),
        duplicates=sum(arrivals.copies.values()) - len(arrivals.copies),
        aside=len(known),
        p50=statistics.median(latencies) if latencies else 0,
        p99=sorted(latencies)[int(0.99 * len(latencies))] if latencies else 0,
        refused=dict(sum((book.refused for book in books), Counter[int]())),
        unexpected=[each for book in books for each in book.unexpected],
        drained_s=drained_s,
        first_faults=[f"{each.event} {each.key}: missing" for each in left[:5]] + wrong[:5],
    )


def _fault(obligation: Obligation, arrivals: Arrivals) -> str | None:
    span = arrivals.first.get(obligation.key)
    return None if span is None else obligation.fault_in(span)


def fresh(port: int) -> Book:
    """One more call, after the fault: it has to pass through like any other."""
    return Load(port, pages=1, calls=1, turns=1).start().join()
