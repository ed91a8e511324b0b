"""Session: a log of records with their arrival times in, finished spans out.

A pure function of that log: no I/O, clock, log lines or randomness. `apply` takes a record, `advance` lets time pass;
whatever time decides happens at deadlines that follow from the arrivals alone, so that `advance` may be called at any
moments and a replay of the log gives the same spans in the same order. All times are milliseconds.
"""

from __future__ import annotations

import copy
import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from typing import NamedTuple
from zlib import crc32

from otel_voice import chat, spans, usage
from otel_voice import events as e
from otel_voice import semconv as s
from otel_voice.adapters import ADAPTERS, Adapter
from otel_voice.conversation import QUIET_MS, SETTLE_MS, WORDS_MS, Conversation
from otel_voice.sources import Arrived, Source, Told, Waiting
from otel_voice.summary import Status, Summary, Totals, latency_of
from otel_voice.trace import PROVIDERS, UNANSWERED, Trace
from otel_voice.turns import History, Tool, Turn

IDLE_MS = 30 * 60_000.0
MAX_DURATION_MS = 12 * 3_600_000.0
# A page that went away may come back from a reload or the back-forward cache.
PAGE_CLOSED_HOLD_MS = 30_000.0
# Events are told at most so often, however many requests bring them.
GRID_MS = 50.0
# Of the events that are due at one moment, so many are a step: whoever steps may do something else between two.
TOLD_AT_ONCE = 100
PROVISIONAL = frozenset({"page_closed"})
CONVERSATION_LIMIT = 256 * 1024


class Ending(NamedTuple):
    """A session_end: what happens before `until` still belongs to the session; at `due`, by the receiver's clock, all
    of that has come."""

    until: float
    due: float
    reason: str
    source: str
    seq: int | None


class Session:
    __slots__ = (
        *("_spans", "adapters", "clock", "conflicts", "conversation", "created_at", "duplicates", "ended", "ended_t"),
        *("endings", "first_t", "id", "idle_ms", "last_at", "last_t", "message_bytes", "messages", "new"),
        *("rests_until", "sources", "told_at", "totals", "trace", "unnumbered", "waiting"),
    )

    def __init__(self, session_id: str, capture_content: bool = True) -> None:
        self.id = session_id
        self.trace = Trace(spans.trace_id(session_id), capture_content)
        self.new = e.NewSession()
        self.idle_ms = IDLE_MS
        self.conversation = Conversation()
        self.sources: dict[str, Source] = {}
        self.adapters: dict[tuple[str, str], Adapter] = {}
        self.waiting = Waiting(self.sources)
        # Nothing happens by itself before this; infinite when it is over.
        self.rests_until = 0.0
        self.totals = Totals()
        self.messages: list[chat.Message] = []
        self.message_bytes = 0
        self.clock: e.Clock | None = None
        self.endings: list[Ending] = []
        self.ended: str | None = None
        self.ended_t: float | None = None
        self.created_at: float | None = None
        self.last_at = 0.0
        self.told_at = 0.0
        self.first_t: float | None = None
        self.last_t: float | None = None
        self.unnumbered = 0
        self.duplicates = 0
        self.conflicts = 0
        self._spans: list[spans.Span] = []
        self.trace.describe(session_id, self.new)

    # In

    def apply(self, record: e.Record, at: float, events: Iterable[e.WireEvent] | None = None) -> None:
        """A record of the log that arrived `at`. Records come in the log's order. Whoever has decoded an Accepted's
        events hands them over."""
        self.advance(at)
        if self.created_at is None:
            self.created_at, self.rests_until = at, 0.0
        self.last_at = max(self.last_at, at)
        if isinstance(record, e.Created):
            self._describe(record.session)
        elif isinstance(record, e.Accepted):
            self._accept(record, at, map(e.decode_event, record.events) if events is None else events)
        else:
            self._hear_of_end(record, at)

    def _describe(self, new: e.NewSession) -> None:
        """What is said first of a session holds."""
        if self.new == e.NewSession():
            self.new, self.rests_until = new, 0.0
            self.idle_ms = new.idle_timeout_s * 1000 if new.idle_timeout_s else IDLE_MS
            self.trace.describe(self.id, new)

    def _hear_of_end(self, record: e.Ended, at: float) -> None:
        """As a source's own session_end, but nobody's event."""
        name = record.source or ""
        if name not in self.sources:
            self.sources[name] = Source()
        end = e.SessionEnd(reason=record.reason, last_seq=record.last_seq)
        self._wait(Arrived(name, None, at, at, end, "end", counted=False))

    def _accept(self, record: e.Accepted, at: float, events: Iterable[e.WireEvent]) -> None:
        name, clock = record.source or "", record.clock
        if (source := self.sources.get(name)) is None:
            source = self.sources[name] = Source()
        self._see_clock(clock)
        for seq in record.refused:
            source.refuse(seq)
        for raw, event in zip(record.events, events, strict=True):
            mark = ""
            if event.seq is None:
                self.unnumbered += 1
                mark = f"u{self.unnumbered}"
            elif not source.take(event.seq, checksum := crc32(raw)):
                self.duplicates += 1
                self.conflicts += source.conflicts(event.seq, checksum)
                continue
            t = at if event.ts is None else event.ts + clock.offset if clock else event.ts
            self._wait(Arrived(name, event.seq, t, at, event, mark))

    def _wait(self, arrived: Arrived) -> None:
        if not self.waiting.arrived:
            self.rests_until = min(self.rests_until, told_from(arrived.at))
        self.waiting.add(arrived)

    def _see_clock(self, clock: e.Clock | None) -> None:
        """The surest estimate is the one to show."""
        if clock is not None:
            known = self.clock
            if known is None or _sureness(clock) < _sureness(known):
                self.clock = clock

    # Time

    def advance(self, now: float) -> None:
        """Does what is due by `now`, each thing at its own moment."""
        while self.step(now):
            pass

    def step(self, now: float) -> bool:
        """The next thing that is due by `now`; False where none is."""
        if self.rests_until > now:
            return False
        due = self.due
        if due is None or due[0] > now:
            self.rests_until = math.inf if due is None else due[0]
            return False
        at, action = due
        action(self, at)
        return True

    @property
    def due(self) -> Deadline | None:
        """The next moment at which something happens by itself, and what."""
        at, action = math.inf, Session._release
        if self.waiting:
            at = told_from(self.waiting.arrived[0].at)
        if (turn := self.conversation.superseded) is not None:
            if turn.settle_at < at:
                at, action = turn.settle_at, Session._settle
        # It comes later than any turn settles, and is dear to know of many turns.
        elif (quiet := self.last_at + QUIET_MS + SETTLE_MS) < at and self.conversation.has_quiet:
            at, action = quiet, Session._quiet
        if self.ended is None and self.created_at is not None:
            if (idle := self.last_at + self.idle_ms + SETTLE_MS) < at:
                at, action = idle, Session._idle
            if (longest := self.created_at + MAX_DURATION_MS) < at:
                at, action = longest, Session._too_long
            for ending in self.endings:
                if ending.due < at:
                    at, action = ending.due, Session._end
        return None if at == math.inf else (at, action)

    def _release(self, at: float) -> None:
        """Tells what has waited long enough, and whatever comes before it."""
        self._tell(min(self.waiting.older(SETTLE_MS, at), TOLD_AT_ONCE))

    def _release_before(self, t: float) -> None:
        self._tell(bisect_left(self.waiting.order, t, key=_time_of))

    def _tell(self, count: int) -> None:
        """Tells the first so many of those that wait."""
        for t, _, _, _, arrived in self.waiting.take(count):
            if self.endings or (self.last_t is not None and t >= self.last_t + self.idle_ms):
                self._end_before(t, arrived.at)
            self._fold(t, arrived)
            if arrived.at > self.told_at:
                self.told_at = arrived.at
            if arrived.counted:
                self.sources[arrived.source].tell(arrived.seq, t)
        self._emit()

    def _fold(self, t: float, arrived: Arrived) -> None:
        event, conversation, key = arrived.event, self.conversation, arrived.key
        if arrived.counted and self.ended is None and (self.first_t is None or t < self.first_t):
            self.first_t = t
        if self.last_t is None or t > self.last_t:
            self.last_t = t
        conversation.at = arrived.at
        if conversation.pass_time(t):
            # What is final is told as it is now, before this event changes anything.
            self._emit()
        if isinstance(event, e.ProviderMessage):
            self._feed(event, t, arrived.source, key)
            return
        if isinstance(event, e.SessionEnd):
            self._see_end(event, t, arrived)
        elif isinstance(event, e.SessionStart) and event.previous_session_id is not None:
            # What the app said goes before what a page says.
            self.trace.common.setdefault(s.PREVIOUS_SESSION_ID, event.previous_session_id)
        conversation.fold(event, t, key)

    def _feed(self, event: e.ProviderMessage, t: float, source: str, key: str) -> None:
        """Folds what the provider's message says."""
        if (adapter := self.adapters.get((source, event.provider))) is None:
            adapter = self.adapters[source, event.provider] = ADAPTERS[event.provider]()
            self.trace.provider = self.trace.provider or PROVIDERS[event.provider]
        self.conversation.is_listened_to = True
        event.ts = t
        for n, fact in enumerate(adapter.feed(event, key)):
            # An adapter may know that something began before the message that tells of it.
            began = t if fact.ts is None else min(t, fact.ts)
            self.conversation.fold(fact, began, f"{key}/{n}" if n else key)

    def _settle(self, at: float) -> None:
        """Makes a turn final whose successor began long enough ago, after all that could still belong to it."""
        turn = self.conversation.superseded
        if turn is None:
            return
        settled = (turn.next_start or turn.start) + (WORDS_MS if turn.waits else SETTLE_MS)
        self._release_before(settled)
        self._end_before(settled, at)
        self.conversation.settle(settled)
        if not turn.final:
            turn.waits, turn.settle_at = True, turn.settle_at + WORDS_MS - SETTLE_MS
        self._emit()

    def _quiet(self, at: float) -> None:
        self._end_before(self.end + QUIET_MS, at)
        self.conversation.finish_quiet()
        self._emit()

    def _idle(self, at: float) -> None:
        self._finish("idle_timeout", self.end + self.idle_ms)

    def _too_long(self, at: float) -> None:
        self._release_before(float("inf"))
        if not self.ended:
            self._finish("max_duration", self.end)

    def _see_end(self, event: e.SessionEnd, t: float, arrived: Arrived) -> None:
        if event.last_seq is not None:
            source = self._numbering(arrived)
            source.last_seq = max(source.last_seq, event.last_seq)
        hold = PAGE_CLOSED_HOLD_MS if event.reason in PROVISIONAL else SETTLE_MS
        if self.ended is None:
            ending = Ending(t + hold, arrived.at + hold + SETTLE_MS, event.reason, arrived.source, arrived.seq)
            insort(self.endings, ending, key=lambda ending: (*ending[:4], -1 if ending.seq is None else ending.seq))

    def _numbering(self, arrived: Arrived) -> Source:
        """The source whose last number an end tells: its own or, where it names none, the only one that numbers."""
        numbering = [source for source in self.sources.values() if source.numbers.top >= 0]
        return numbering[0] if not arrived.source and len(numbering) == 1 else self.sources[arrived.source]

    def _end(self, at: float) -> None:
        """Endings are due: all that was before them has come."""
        for ending in [ending for ending in self.endings if ending.due <= at]:
            self._release_before(ending.until)
            self._end_before(ending.until, at)
        self.endings = [ending for ending in self.endings if ending.due > at]

    def _end_before(self, t: float, at: float) -> None:
        """By the events' own time: a session that ended before `t` is over before an event of `t` is told, which
        arrived `at`. A sender's clock that is set forward makes nobody idle."""
        if self.ended is not None:
            return
        while self.endings and self.endings[0].until <= t:
            ending = self.endings.pop(0)
            # A page that went on has done so for good.
            if self._stands(ending):
                self._finish(ending.reason, ending.until)
                return
        idle = at >= self.told_at + self.idle_ms - SETTLE_MS
        if idle and self.last_t is not None and t >= self.last_t + self.idle_ms:
            self._finish("idle_timeout", self.last_t + self.idle_ms)

    def _stands(self, ending: Ending) -> bool:
        went_on = ending.seq is not None and self.sources[ending.source].told.top > ending.seq
        return ending.reason not in PROVISIONAL or not went_on

    @property
    def end_reason(self) -> str | None:
        """What the session's end was or, as far as it was said, will be."""
        return self.ended or next((ending.reason for ending in self.endings if self._stands(ending)), None)

    @property
    def status(self) -> Status:
        """`closing`: it has ended unless its page comes back."""
        if self.ended or any(ending.reason not in PROVISIONAL for ending in self.endings):
            return "ended"
        return "closing" if self.end_reason else "open"

    def _finish(self, reason: str, t: float) -> None:
        self.conversation.settle(t)
        self.ended, self.ended_t = reason, self.end
        self.conversation.close()
        self._emit()
        self._spans.append(self._root(self.summary()))

    # Out

    @property
    def held(self) -> int:
        """How many things wait for a turn's or the session's end, and would come of it at once."""
        return self.conversation.held

    @property
    def has_made(self) -> bool:
        return bool(self._spans)

    def take(self, most: int | None = None) -> list[spans.Span]:
        """The spans that became final and were not taken yet, or the first of them."""
        if most is None:
            most = len(self._spans)
        taken, self._spans = self._spans[:most], self._spans[most:]
        return taken

    def _emit(self) -> None:
        facts, trace = self.conversation.facts, self.trace
        trace.provider, trace.model = facts.provider or trace.provider, facts.model or trace.model
        for final in self.conversation.take():
            if isinstance(final, Turn):
                self.totals.add_turn(final)
                self._remember(chat.turn_messages(final))
                self._spans += trace.turn(final)
            elif isinstance(final, Tool):
                self.totals.add_tool(final, over=True)
                if final.turn is None or not self._told_with_turn(final):
                    self._remember(chat.tool_messages([final])[final.turn is not None :])
                self._spans.append(trace.tool(final, self.end))
            elif isinstance(final, History):
                self._remember([chat.message(final.role, final.text)])
            else:
                self._spans.append(trace.happening(*final))

    @staticmethod
    def _told_with_turn(tool: Tool) -> bool:
        return tool.end is not None and tool.turn is not None and tool.end <= tool.turn.end

    def _remember(self, messages: list[chat.Message]) -> None:
        if self.message_bytes > CONVERSATION_LIMIT:
            return
        for message in messages:
            self.message_bytes += len(message.json)
            if self.message_bytes > CONVERSATION_LIMIT:
                self.messages.append(chat.message("system", "… the conversation goes on; cut at 256 KiB"))
                return
            self.messages.append(message)

    @property
    def start(self) -> float:
        """The first event, or the creation where none came."""
        return self.first_t if self.first_t is not None else (self.created_at or 0.0)

    @property
    def end(self) -> float:
        """The last event that was told; what comes after the end does not move it."""
        if self.ended_t is not None:
            return self.ended_t
        return max(self.start, self.last_t if self.last_t is not None else self.start)

    @property
    def received(self) -> int:
        return sum(source.told.count + source.unnumbered for source in self.sources.values())

    @property
    def lost(self) -> int:
        return sum(source.lost for source in self.sources.values())

    def _root(self, summary: Summary) -> spans.Span:
        answer = self.messages[-1:] if self.messages and self.messages[-1].role == "assistant" else []
        question = self.messages[: len(self.messages) - len(answer)]
        latency, facts = summary.user_bot_latency_ms, self.conversation.facts
        attributes: dict[str, spans.Value | None] = {
            s.OBSERVATION_TYPE: "span",
            s.PROVIDER_NAME: self.trace.provider,
            s.REQUEST_MODEL: self.trace.model,
            s.REALTIME_SESSION_ID: facts.provider_session_id,
            s.SYSTEM_INSTRUCTIONS: facts.instructions
            and chat.json([{"type": "text", "content": chat.cut(facts.instructions)}]),
            s.SESSION_END_REASON: summary.end_reason,
            s.TURN_COUNT: summary.turn_count,
            s.INTERRUPTION_COUNT: summary.interruption_count,
            s.TOOL_CALL_COUNT: summary.tool_call_count,
            s.TOOL_ERROR_COUNT: summary.tool_error_count,
            s.TOOL_CANCELLED_COUNT: summary.tool_cancelled_count,
            s.FALSE_START_COUNT: summary.false_start_count,
            s.LATENCY_P50: _seconds(latency.p50),
            s.LATENCY_P95: _seconds(latency.p95),
            s.LATENCY_MAX: _seconds(latency.max),
            s.EVENTS_RECEIVED: summary.events_received,
            s.EVENTS_LOST: summary.events_lost,
            s.EVENTS_CONFLICTING: summary.events_conflicting or None,
            s.CLOCK_OFFSET: _seconds(self.clock.offset) if self.clock else None,
            s.CLOCK_UNCERTAINTY: _seconds(self.clock.uncertainty) if self.clock else None,
            s.CALLER: self.new.traceparent,
            s.CUT: True if self.message_bytes > CONVERSATION_LIMIT else None,
            s.OBSERVATION_INPUT: chat.array(question),
            s.OBSERVATION_OUTPUT: chat.array(answer),
            **usage.attributes_of(summary.tokens),
        }
        root = self.trace.span("session", "", s.SESSION, self.start, self.end, attributes)
        root.links = self._links()
        return root

    def _links(self) -> list[str]:
        """The request that asked for the session, and the session that the page had before."""
        links = [self.new.traceparent] if self.new.traceparent else []
        if isinstance(previous := self.trace.common.get(s.PREVIOUS_SESSION_ID), str):
            trace_id = spans.trace_id(previous)
            links.append(spans.traceparent(trace_id, spans.root_id(trace_id)))
        return links

    def summary(self) -> Summary:
        """The session as far as its events have been told."""
        unfinished = self.conversation.open or self.conversation.tools
        totals = self.totals.copy() if unfinished else self.totals
        for turn in self.conversation.open.values():
            totals.add_turn(turn)
        for tool in self.conversation.tools.values():
            totals.add_tool(tool, over=False)
        over = self.ended is not None
        return Summary(
            session_id=self.id,
            trace_id=self.trace.id,
            status=self.status,
            end_reason=self.end_reason,
            started_at=self.start,
            ended_at=self.end if over or self.end_reason else None,
            duration_ms=self.end - self.start,
            user_id=self.new.user_id,
            agent_name=self.new.agent_name,
            provider=self.trace.provider,
            model=self.trace.model,
            turn_count=totals.turns,
            interruption_count=totals.interruptions,
            tool_call_count=totals.tools,
            tool_error_count=totals.tool_errors,
            tool_cancelled_count=totals.tools_cancelled,
            false_start_count=self.conversation.false_starts,
            user_bot_latency_ms=latency_of(totals.latencies),
            tokens=totals.usage,
            events_received=self.received,
            events_lost=self.lost,
            events_duplicate=self.duplicates,
            events_conflicting=self.conflicts,
        )

    def so_far(self) -> tuple[list[spans.Span], Summary]:
        """The spans that are not final yet, marked open and running to the last event, and the summary with all
        that came. Ends a copy of the session here."""
        # Messages never change once they are told: a long call's need no copies of their own.
        copied = copy.deepcopy(self, {id(self.messages): list(self.messages)})
        copied._tell(len(copied.waiting.order))
        summary = copied.summary()
        copied.conversation.close()
        copied._emit()
        unfinished = copied.take()
        if not copied.ended:
            unfinished.append(copied._root(summary))
        for span in unfinished:
            span.open = True
            if span.attributes.get(s.ERROR_TYPE) == UNANSWERED:
                del span.attributes[s.ERROR_TYPE]
                span.status, span.status_message = "UNSET", ""
            if span.attributes.get(s.AGENT_END_REASON) == "session_closed":
                del span.attributes[s.AGENT_END_REASON]
        return unfinished, summary


Deadline = tuple[float, Callable[[Session, float], None]]


def told_from(at: float) -> float:
    """When an event that arrived `at` is told, whatever else comes."""
    return math.ceil((at + SETTLE_MS) / GRID_MS) * GRID_MS


def _time_of(told: Told) -> float:
    return told[0]


def _sureness(clock: e.Clock) -> tuple[float, float]:
    return (clock.uncertainty if clock.uncertainty is not None else float("inf"), clock.offset)


def _seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1000
