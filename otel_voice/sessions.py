"""Sessions: those that are open, in memory, each a cache of its log. Log first, then apply, then flush what came of it.

The clock is an argument and gives seconds since the epoch. Sessions are loaded from the store when something comes for
them, by an event or by time; one that is over leaves the memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import math
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from itertools import accumulate, islice, takewhile
from typing import Protocol

from otel_voice import events as e
from otel_voice import spans
from otel_voice.changes import Changes
from otel_voice.loud import OnceAMinute
from otel_voice.mapped import look, replay
from otel_voice.opened import Open
from otel_voice.otlp import Encoder
from otel_voice.session import Session, told_from
from otel_voice.store import Append, Counted, Flush, SessionRow, Store, Unavailable, Unwritable
from otel_voice.summary import Summary
from otel_voice.words import said_in

log = logging.getLogger(__name__)

TICK_S = 0.1
# What the store knows of open sessions, and their new spans, may be so old: after a crash the log is ahead by as much.
FLUSH_S = 1.0
# Time does its work by pieces of so long, and a flush takes so many sessions at once: who posts does not wait for all.
SLICE_S = 0.0005
# One session with a lot to do has so long, and then lets others go on.
SESSION_S = 0.005
FLUSHED_AT_ONCE = 20
SPANS_AT_ONCE = 64
# What is sent without a detour by the disk: so many spans and bytes a request, and so many bytes may wait for it.
LENT_SPANS, LENT_BYTES, WAITING_BYTES = 512, 2**20, 32 * 2**20
# At the end, answers are waited for as long.
LENT_S = 2.0
# How long a session that is over stays in memory for latecomers.
LINGER_MS = 60_000.0
# So many requests of one session may wait for their commit.
IN_FLIGHT = 64
# What a page may log in all; a call of half a day takes some 10 MiB.
SESSION_BYTES = 64 * 2**20
# In less than this no session can get too much of anything: what is dear to count is counted each time so much more was
# logged.
CHECKED_BYTES = 32 * 2**10
# What may wait in one session: events to be told, and things for their turn's end. A page posts some dozen events a
# second, and no turn has a hundred of anything; what comes of them at once holds up all other sessions.
WAITING, HELD = 5_000, 5_000
# A page load each.
SOURCES = 1_000
# Sessions are caches of their logs: beyond so many, the ones that nothing came for longest are read again when it does.
IN_MEMORY = 20_000
# Of the many that may be due after an outage, so many are loaded before what came of them is written down.
AT_ONCE = 500


class Busy(Exception):
    """This session has too much under way; nothing of the request was stored."""


class UsedUp(Exception):
    """This session has as much as a session may; one sentence."""


class Slice:
    """A piece of work, after which others have their turn."""

    def __init__(self) -> None:
        self._time = asyncio.get_running_loop().time
        self._ends = self._time() + SESSION_S

    def is_over(self) -> bool:
        return self._time() > self._ends

    async def next(self) -> None:
        await asyncio.sleep(0)
        self._ends = self._time() + SESSION_S


class Hop(Protocol):
    """Where spans go that are not in the store."""

    @property
    def is_well(self) -> bool:
        """It takes what it gets, as far as is known."""

    def send(self, bodies: list[bytes]) -> asyncio.Future[bool] | None:
        """Whether it took them; None where it is not well or has enough to do."""


class Sessions:
    def __init__(
        self,
        store: Store,
        encoder: Encoder,
        clock: Callable[[], float],
        capture_content: bool = True,
        in_memory: int = IN_MEMORY,
    ) -> None:
        self._store, self._encoder, self._clock, self._capture = store, encoder, clock, capture_content
        self._in_memory = in_memory
        self._open: dict[str, Open] = {}
        self._under_way: dict[str, asyncio.Future[None]] = {}
        self._due: list[tuple[float, int, str]] = []
        self._asleep: set[str] = set()
        self._arrivals: deque[float] = deque()
        self._dirty: dict[int, Open] = {}
        self._unsaved: dict[int, Open] = {}
        self._flushing = asyncio.Lock()
        self._applied = store.last_log
        self._last_at: float = store.last_at
        self._wrote_at = self._last_at
        self._looked_at = clock() * 1000
        self.on_made: Callable[[], None] = lambda: None
        self.hop: Hop | None = None
        self._sending: set[asyncio.Future[bool]] = set()
        # The flush under way writes spans, too.
        self._stores = True
        self._listening: list[Changes] = []
        self.refused = 0
        self._cannot_write = OnceAMinute()

    @property
    def count(self) -> int:
        """Sessions in memory."""
        return len(self._open)

    def is_open(self, session_id: str) -> bool:
        """Whether a session of this very id is in memory."""
        return session_id in self._open

    # Start and stop

    async def start(self) -> None:
        """Takes up what an earlier process left: sessions whose rows are behind their log, and those time waits for."""
        reader = self._store.reader
        rows = await asyncio.to_thread(reader.open_sessions)
        for row in rows:
            self._asleep.add(row.id)
            self._wake(row.id, row.no, row.due or 0.0)
        for row in await asyncio.to_thread(reader.by_number, self._store.behind):
            self._dirty[row.no] = await self._get(row.id)

    async def run(self) -> None:
        """Lets time pass, for ever."""
        while True:
            for _ in range(round(FLUSH_S / TICK_S)):
                await self.pass_time()
                await self.flush_spans()
                await asyncio.sleep(TICK_S)
            await self._settle()

    async def tick(self) -> None:
        """Does what is due in the sessions, and writes down what came of it."""
        await self.pass_time()
        await self._settle()

    async def pass_time(self) -> None:
        """Does what is due in the sessions."""
        now, look = self._safe_now(), asyncio.get_running_loop().time
        advanced, began = 0, look()
        while self._due and self._due[0][0] <= now:
            at, no, session_id = heapq.heappop(self._due)
            if self._is_awaited(session_id, at):
                await self._advance(session_id, no, now)
                advanced += 1
                if advanced % AT_ONCE == 0:
                    await self._settle()
                # The later it is, the longer: who posts has to wait for it, or it would never be done.
                if look() > began + SLICE_S * (1 + (now - at) / 100):
                    await asyncio.sleep(0)
                    began = look()

    async def _settle(self) -> None:
        await self.flush()
        self._let_sleep()

    def _let_sleep(self) -> None:
        """Those that nothing came for longest leave the memory; an event or time brings them back."""
        for session_id in list(islice(self._open, max(0, len(self._open) - self._in_memory))):
            entry = self._open.pop(session_id)
            if entry.broken or entry.new or self._in_use(entry):
                self._open[session_id] = entry
            elif entry.over_since is None:
                self._asleep.add(session_id)

    def _is_awaited(self, session_id: str, at: float) -> bool:
        """Not when the session is over and out of memory, or was loaded anew since."""
        entry = self._open.get(session_id)
        if entry is None:
            return session_id in self._asleep
        if not entry.wakes or entry.wakes[-1] != at:
            return False
        entry.wakes.pop()
        return True

    def _safe_now(self) -> float:
        """Never past an arrival that is not applied yet: time must pass as it will in a replay."""
        return min(self._now(), self._arrivals[0]) if self._arrivals else self._now()

    def _now(self) -> float:
        """Milliseconds; never backwards, so that arrivals are in the log's order. Where the clock was set back, time
        goes on from where it was, at half the pace, until the clock has caught up."""
        clock = self._clock() * 1000
        passed, self._looked_at = max(0.0, clock - self._looked_at), clock
        self._last_at = max(clock, self._last_at + passed / 2)
        return self._last_at

    async def _advance(self, session_id: str, no: int, now: float) -> None:
        try:
            entry = await self._get(session_id)
        except Unavailable:
            self._wake(session_id, no, now + 1000)
            return
        until, slice_ = min(now, self._safe_now()), Slice()
        while entry.go_on(until, slice_.is_over) or entry.session.has_made:
            self._collect(entry, SPANS_AT_ONCE)
            if slice_.is_over():
                await slice_.next()
                if self._open.get(session_id) is not entry:
                    return  # erased meanwhile
        if entry.row is not None and entry.row.due is not None and entry.session.rests_until == math.inf:
            # Its row waits for a time that has passed without a span.
            self._dirty[entry.no] = entry
        if entry.over_since is None or now < entry.over_since + LINGER_MS:
            self._schedule(entry)
        elif self._in_use(entry):
            self._wake_at(entry, now + 1000)
        else:
            self._open.pop(session_id, None)

    def _in_use(self, entry: Open) -> bool:
        busy = entry.no in self._dirty or entry.no in self._unsaved
        return busy or entry.in_flight > 0 or self._flushing.locked()

    def _schedule(self, entry: Open) -> None:
        at = math.inf if entry.broken else entry.session.rests_until
        if at == math.inf:
            entry.over_since = entry.over_since or self._last_at
            at = entry.over_since + LINGER_MS
        else:
            entry.over_since = None
        self._wake_at(entry, at)

    def _wake_at(self, entry: Open, at: float) -> None:
        if not entry.wakes or at < entry.wakes[-1]:
            entry.wakes.append(at)
            self._wake(entry.session.id, entry.no, at)

    def _wake(self, session_id: str, no: int, at: float) -> None:
        heapq.heappush(self._due, (at, no, session_id))

    # In

    async def create(self, new: e.NewSession, session_id: str) -> Open:
        """Makes a session; one that exists keeps what was first said of it. Raises Unavailable."""
        entry = await self._get(session_id)
        self._catch_up(entry)
        if entry.session.new == e.NewSession() and (entry.new or new != e.NewSession()):
            await self._record(entry, e.Created(new))
        return entry

    async def accept(
        self, session_id: str, batch: e.Accepted | e.Ended, events: Sequence[e.WireEvent] | None = None
    ) -> Open:
        """Logs and applies a batch, whose events whoever has decoded them hands over; one for a session that nobody
        knows makes it. Raises Unavailable, Busy or UsedUp."""
        entry = self._open.get(session_id) or await self._get(session_id)
        # A page that goes away takes nothing back: what is under way is stored and applied.
        await self._record(entry, batch, events)
        return entry

    def _record(
        self, entry: Open, record: e.Record, decoded: Sequence[e.WireEvent] | None = None
    ) -> asyncio.Future[int]:
        if entry.in_flight >= IN_FLIGHT:
            raise Busy
        if isinstance(record, e.Accepted) and entry.bytes >= CHECKED_BYTES:
            self._check(entry, record)
        at = self._now()
        events = len(record.events) if isinstance(record, e.Accepted) else 0
        body = e.encode(record)
        entry.in_flight += 1
        self._arrivals.append(at)

        def logged(log_id: int) -> None:
            entry.in_flight -= 1
            self._arrivals.popleft()
            entry.events += events
            entry.bytes += len(body)
            entry.inbox.append((record, at, decoded))
            self._applied = log_id
            self._heed(entry, at)

        def not_logged() -> None:
            entry.in_flight -= 1
            self._arrivals.popleft()
            if entry.new and not entry.in_flight:
                self._open.pop(entry.session.id, None)

        append = Append(entry.no, entry.session.id, entry.new, at, body, events)
        return self._store.append(append, logged, not_logged)

    def _check(self, entry: Open, batch: e.Accepted) -> None:
        """Raises UsedUp, or Busy where it is enough to come again."""
        session = entry.session
        if entry.bytes >= SESSION_BYTES:
            raise UsedUp(f"this session has logged {SESSION_BYTES} bytes, as much as one may")
        if len(session.sources) >= SOURCES and (batch.source or "") not in session.sources:
            raise UsedUp(f"this session has had {SOURCES} sources, as many as one may")
        if entry.bytes < entry.checked_from:
            return
        logged = sum(len(record.events) for record, _, _ in entry.inbox if isinstance(record, e.Accepted))
        waiting = logged + len(session.waiting.arrived)
        if waiting >= WAITING:
            raise Busy
        if session.held >= HELD:
            raise UsedUp(f"this session has {HELD} tool calls and other things without an end, as many as one may")
        entry.checked_from = entry.bytes + CHECKED_BYTES

    def _heed(self, entry: Open, at: float) -> None:
        """Something came for it, at the time `at`."""
        entry.new = False
        if not entry.leaving:
            # Last, as the one that something came for.
            self._open.pop(entry.session.id, None)
            self._open[entry.session.id] = entry
        self._dirty[entry.no] = entry
        self._wake_at(entry, told_from(at))

    def _catch_up(self, entry: Open) -> None:
        if entry.inbox:
            entry.attempt(entry.catch_up)
            entry.inbox.clear()  # of one that cannot be mapped, too
            self._collect(entry)
            self._schedule(entry)

    async def _get(self, session_id: str) -> Open:
        """A session, from memory or from the store, or a new one. Only one caller loads, none while it is erased."""
        while (entry := self._open.get(session_id)) is None:
            await asyncio.shield(self._under_way.get(session_id) or self._begin(session_id, self._load(session_id)))
        return entry

    def _begin(self, session_id: str, work: Coroutine[None, None, None]) -> asyncio.Future[None]:
        future = self._under_way[session_id] = asyncio.ensure_future(work)
        future.add_done_callback(lambda done: self._end(session_id, done))
        return future

    def _end(self, session_id: str, done: asyncio.Future[None]) -> None:
        # Another may have begun in the moment before this is called.
        if self._under_way.get(session_id) is done:
            del self._under_way[session_id]

    async def _load(self, session_id: str) -> None:
        row = self._store.session(session_id)
        if row is None:
            no, self._store.next_session = self._store.next_session, self._store.next_session + 1
            entry = Open(no, Session(session_id, self._capture), new=True)
        else:
            rows = await asyncio.to_thread(self._store.reader.log, row.no, self._store.head(row.no))
            entry = Open(row.no, Session(session_id, self._capture), new=False, made=row.made)
            entry.row = row
            for logged in rows:
                entry.events += logged.events
                entry.bytes += len(logged.body)
            await asyncio.to_thread(entry.attempt, replay, entry.session, rows)
            if entry.broken:
                self._dirty[entry.no] = entry
            self._collect(entry)
            self._schedule(entry)
        self._asleep.discard(session_id)
        self._open[session_id] = entry

    # Out

    def _collect(self, entry: Open, most: int | None = None) -> None:
        if entry.session.has_made and (finished := entry.finished(most)):
            self._dirty[entry.no] = entry
            entry.attempt(self._encode, entry, finished)

    def _encode(self, entry: Open, finished: list[spans.Span]) -> None:
        self._unsaved[entry.no] = entry
        entry.unsaved += map(self._encoder.request, finished)
        entry.said += said_in(finished)

    async def flush(self) -> None:
        """Writes the sessions' rows, each in one transaction with its new spans; keeps them for later if it fails."""
        await asyncio.shield(asyncio.ensure_future(self._flush()))

    async def flush_spans(self) -> None:
        """Sends new spans, or writes them, with as much of the rows as belongs to them."""
        if self._unsaved:
            await asyncio.shield(asyncio.ensure_future(self._flush_spans()))

    async def stop(self) -> None:
        """The last flush: the rows say all that came, for nobody will tell the rest before the next start."""
        self.hop = None
        if self._sending:
            _, late = await asyncio.wait(self._sending, timeout=LENT_S)
            for sending in late:
                sending.cancel()
            if late:
                await asyncio.wait(late, timeout=LENT_S)
        waiting = (entry for entry in self._open.values() if entry.inbox or entry.session.waiting)
        self._dirty |= {entry.no: entry for entry in islice(waiting, AT_ONCE)}
        await asyncio.shield(asyncio.ensure_future(self._flush(AT_ONCE)))

    async def _flush(self, so_far: int = 0) -> None:
        # One after the other: a later one that succeeds must not pass over what an earlier one could not write.
        async with self._flushing:
            self._stores = self._has_to_store()
            dirty, self._dirty = self._dirty | (self._unsaved if self._stores else {}), {}
            # What the rows count goes as far as the log that they are said to know, whatever comes meanwhile.
            whole = [(entry, entry.events) for entry in dirty.values()]
            self._dirty = await self._write(list(dirty.values()), so_far, self._applied, whole) | self._dirty

    async def _flush_spans(self) -> None:
        self._send()
        async with self._flushing:
            self._stores = self._has_to_store()
            if self._stores:
                await self._write([entry for entry in self._unsaved.values() if not entry.lent], 0, 0, [])

    def _has_to_store(self) -> bool:
        """New spans: where they cannot go on soon."""
        if self.hop is None or not self.hop.is_well:
            return True
        return sum([len(body) for entry in self._unsaved.values() for body in entry.unsaved]) > WAITING_BYTES

    def _send(self) -> None:
        """Where the next hop takes what it gets, new spans need not lie on the disk: until it has taken them, the rows
        know nothing of them, and the log would give them again."""
        for loan in _loans([entry for entry in self._unsaved.values() if entry.may_be_lent]):
            bodies = [body for entry, count in loan for body in entry.unsaved[:count]]
            if self.hop is None or (sending := self.hop.send(bodies)) is None:
                return
            for entry, count in loan:
                entry.lent = count
            self._sending.add(sending)
            sending.add_done_callback(lambda done, loan=loan: self._sent(done, loan))  # type: ignore[misc]

    def _sent(self, sending: asyncio.Future[bool], loan: list[tuple[Open, int]]) -> None:
        self._sending.discard(sending)
        for entry, _ in loan:
            entry.lent = 0
        if sending.cancelled() or not sending.result():
            return  # the next flush writes them
        for entry, count in loan:
            if not entry.erased:
                entry.sent(count)
                self._dirty[entry.no] = entry
            if not entry.unsaved:
                self._unsaved.pop(entry.no, None)
        self._send()

    async def _write(
        self, entries: list[Open], so_far: int, applied: int, whole: list[tuple[Open, int]]
    ) -> dict[int, Open]:
        """By parts, with the last of which all know so much of the log. Gives those that are to be written again."""
        for first, last in _parts(entries, self._stores):
            is_last = last == len(entries)
            part = entries[first:last]
            known = (applied, whole) if is_last else (0, [])
            try:
                try:
                    await self._write_part(part, so_far - first, *known)
                except Unwritable:
                    await self._write_one_by_one(part, *known)
            except Unavailable as error:
                self._cannot_write.say(log.warning, "the store cannot write, spans wait in memory: %s", error)
                return {entry.no: entry for entry in entries}
        return {}

    async def _write_one_by_one(self, entries: list[Open], applied: int, whole: list[tuple[Open, int]]) -> None:
        """What one of them makes cannot be stored, and must not hold up the others."""
        for entry in entries:
            try:
                await self._write_part([entry], 0, 0, [])
            except Unwritable:
                entry.give_up()
                await self._write_part([entry], 0, 0, [])
        await self._write_part([], 0, applied, whole)

    async def _write_part(self, entries: list[Open], so_far: int, applied: int, whole: list[tuple[Open, int]]) -> None:
        """These sessions' rows and spans; raises Unavailable, and they have them still. The first `so_far` rows say
        what still waits to be told, too."""
        living = [entry for entry in entries if not entry.erased and not entry.new]
        for entry in living:
            self._catch_up(entry)
            # Its row must not say that it is over while spans of it are on their way here.
            self._collect(entry)
        news = [(entry, entry.news(self._stores)) for entry in living]
        rows = [entry.summarized(n < so_far) for n, entry in enumerate(living)]
        bodies = [(entry.no, body) for entry, new in news for body in new.unsaved]
        said = [(entry.no, *turn) for entry, new in news for turn in new.said]
        delivered = sum(new.delivered for _, new in news)
        counted = [Counted(entry.no, events, entry.is_over) for entry, events in whole if not entry.erased]
        try:
            # Each at a moment of its own, for whoever has seen all that was written up to one.
            self._wrote_at = max(self._last_at, math.nextafter(self._wrote_at, math.inf))
            await self._store.flush(Flush(rows, bodies, applied, self._wrote_at, counted, said, delivered))
        except Unavailable:
            for entry, new in news:
                entry.take_back(new)
            raise
        finally:
            for entry in living:
                entry.storing = False
        for changes in self._listening:
            changes.note(rows, self._wrote_at)
        for entry in entries:
            if entry.erased or not entry.unsaved:
                self._unsaved.pop(entry.no, None)
        if bodies:
            self.on_made()

    # Reads

    async def summary(self, session_id: str) -> Summary | None:
        """The summary of all that came; None if nobody knows the session."""
        if (known := self.summary_in_memory(session_id)) is not None:
            return known
        looked = await self.look(session_id)
        return looked and looked[1]

    def summary_in_memory(self, session_id: str) -> Summary | None:
        """The same; None also where its log has to be read for it."""
        entry = self._open.get(session_id)
        if entry is None or entry.new:
            return None
        self._catch_up(entry)
        return None if entry.broken else entry.summary(so_far=True)

    def summary_of(self, row: SessionRow) -> bytes:
        """A row's summary, at most `FLUSH_S` behind what was told; empty where there is nothing to say of it yet."""
        if len(row.summary) > len(b"{}") or (entry := self._open.get(row.id)) is None:
            return row.summary
        # It was made a moment ago. With what waits to be told, each would cost a copy of the session.
        self._catch_up(entry)
        return row.summary if entry.broken else e.encode(entry.summary())

    @contextlib.contextmanager
    def changes(self) -> Iterator[Changes]:
        """Hears of every row that is written."""
        changes = Changes()
        self._listening.append(changes)
        try:
            yield changes
        finally:
            self._listening.remove(changes)

    @property
    def now(self) -> float:
        """Up to when time has passed for the sessions (ms)."""
        return self._safe_now()

    async def look(self, session_id: str) -> tuple[list[spans.Span], Summary] | None:
        """All spans of a session, those not final yet marked open, and its summary; None if nobody knows it."""
        return await asyncio.to_thread(look, self._store.reader, session_id, self._capture, self._safe_now())

    async def erase(self, session_id: str) -> bool:
        """Forgets a session: log, spans, summary; or, raising Unavailable, nothing of it. False if nobody knows it."""
        entry = await self._get(session_id)
        known = not entry.new or entry.in_flight > 0
        entry.leaving = True
        self._open.pop(session_id, None)
        await asyncio.shield(self._begin(session_id, self._store_erase(entry)))
        return known

    async def _store_erase(self, entry: Open) -> None:
        # No flush in between: it would leave the session out, and say that it took all of the log into account.
        async with self._flushing:
            entry.erased = True
            try:
                await self._store.erase(entry.no)
                self._unsaved.pop(entry.no, None)
            except Unavailable:
                entry.leaving = entry.erased = False
                self._open[entry.session.id] = entry
                entry.wakes.clear()  # what came up meanwhile was passed over
                self._schedule(entry)
                raise

    async def retire(self, no: int, session_id: str, delivered: bool) -> None:
        """Lets go of a session that is past, unless something has come for it. Raises Unavailable."""
        entry = self._open.get(session_id)
        if entry is not None and entry.lingers and not self._in_use(entry) and self._store.refuses is not None:
            # Its latecomers are not taken now; others have been waiting for the room.
            del self._open[session_id]
        if session_id not in self._open and session_id not in self._under_way:
            await asyncio.shield(self._begin(session_id, self._store_retire(no, delivered)))

    async def _store_retire(self, no: int, delivered: bool) -> None:
        await self._store.retire(no, delivered)


def _loans(entries: list[Open]) -> Iterator[list[tuple[Open, int]]]:
    """Which sessions' spans go into a request, and how many of each, the first ones."""
    loan: list[tuple[Open, int]] = []
    spans_in_it = size = 0
    for entry in entries:
        count = _fitting(entry.unsaved, LENT_SPANS - spans_in_it, LENT_BYTES - size)
        if not count and loan:
            yield loan
            loan, spans_in_it, size = [], 0, 0
            count = _fitting(entry.unsaved, LENT_SPANS, LENT_BYTES)
        count = count or 1
        loan.append((entry, count))
        spans_in_it += count
        size += sum(map(len, entry.unsaved[:count]))
    if loan:
        yield loan


def _fitting(bodies: list[bytes], count: int, size: int) -> int:
    """How many of them, from the first on, are no more than so many, and of that size together."""
    sizes = accumulate(map(len, bodies[:count]))
    return sum(1 for _ in takewhile(lambda so_far: so_far <= size, sizes))


def _parts(entries: list[Open], stores: bool) -> Iterator[tuple[int, int]]:
    """From where to where a transaction goes: long ones hold up whoever posts meanwhile."""
    first = spans_in_it = 0
    for n, entry in enumerate(entries):
        spans_in_it += len(entry.unsaved) if stores else 0
        if n + 1 == len(entries) or n + 1 == first + FLUSHED_AT_ONCE or spans_in_it >= SPANS_AT_ONCE:
            yield first, n + 1
            first, spans_in_it = n + 1, 0
