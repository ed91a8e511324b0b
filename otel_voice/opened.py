"""A session that is open: in memory, a cache of its log, with what the store knows of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, ParamSpec

import msgspec

from otel_voice import events as e
from otel_voice import spans
from otel_voice.session import Session
from otel_voice.store import Call, SessionRow
from otel_voice.summary import Summary

log = logging.getLogger(__name__)
P = ParamSpec("P")
LARGEST = 2**53


class News(NamedTuple):
    """What the store is to know with a session's row: encoded spans, the words of turns by their numbers, and how many
    spans were delivered past it."""

    unsaved: list[bytes]
    said: list[tuple[int, str]]
    delivered: int


class Open:
    """A session in memory, with what the store knows of it."""

    __slots__ = (
        *("broken", "bytes", "checked_from", "delivered", "erased", "events", "in_flight", "inbox", "leaving", "lent"),
        *("made", "made_before", "new", "no", "over_since", "row", "said", "session", "storing", "unsaved", "wakes"),
    )

    def __init__(self, no: int, session: Session, new: bool, made: int = 0) -> None:
        self.no, self.session, self.new, self.made = no, session, new, made
        # A replay makes again what is in the outbox already.
        self.made_before = made
        # Logged, and not applied yet: time or somebody who looks will.
        self.inbox: list[tuple[e.Record, float, Sequence[e.WireEvent] | None]] = []
        # Encoded, neither in the store nor delivered yet; the first `lent` of them are on their way to the next hop.
        # While those before them are being stored, none goes there: they may come back.
        self.unsaved: list[bytes] = []
        self.lent = 0
        self.storing = False
        # That were made and delivered since its row was written, and the words of new spans, by turn.
        self.delivered = 0
        self.said: list[tuple[int, str]] = []
        self.events = self.bytes = self.checked_from = 0
        self.in_flight = 0
        # When time comes by, the next one last; an earlier one is put on top, so there are few.
        self.wakes: list[float] = []
        self.over_since: float | None = None
        # On its way out, and out.
        self.leaving = self.erased = False
        self.broken = False
        self.row: SessionRow | None = None

    def attempt(self, step: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """A step of the mapping. One session that cannot be mapped must not stop the others: its log is kept and can
        be mapped by a later version."""
        if self.broken:
            return
        try:
            step(*args, **kwargs)
        except Exception:
            self.break_off()

    def break_off(self) -> None:
        """While the error is under way that tells why."""
        self.broken = True
        log.exception("session %s cannot be mapped; its events are kept", self.session.id)

    def give_up(self) -> None:
        """What came of it cannot be stored: its row knows no more than who made it, and when."""
        self.break_off()
        self.unsaved, self.said = [], []
        self.row = self._row(self._as_it_began(self.session.created_at or 0.0), due=0.0)

    def sent(self, count: int) -> None:
        """The next hop has taken the first spans."""
        del self.unsaved[:count]
        self.made += count
        self.delivered += count

    @property
    def may_be_lent(self) -> bool:
        return bool(self.unsaved) and not (self.lent or self.storing or self.erased)

    def news(self, stores: bool) -> News:
        """What the store is to get with its row, and its spans where it `stores` them; it has it no more. Spans come in
        one order, so those behind some that are on their way wait for these."""
        unsaved = self.unsaved if stores and not self.lent else []
        new = News(unsaved, self.said, self.delivered)
        if unsaved:
            self.unsaved, self.storing = [], True
        self.made, self.said, self.delivered = self.made + len(unsaved), [], 0
        return new

    def take_back(self, new: News) -> None:
        """The store could not take it."""
        self.made -= len(new.unsaved)
        self.unsaved, self.said = new.unsaved + self.unsaved, new.said + self.said
        self.delivered += new.delivered

    def finished(self, most: int | None = None) -> list[spans.Span]:
        """The session's new spans, or the first of them: the mapping gives the same ones in the same order, those made
        before first."""
        taken = self.session.take(most)
        known = min(len(taken), self.made_before)
        self.made_before -= known
        return taken[known:]

    def summary(self, so_far: bool = False) -> Summary:
        """With what still waits to be told, it costs a copy of the session."""
        return self.session.so_far()[1] if so_far and self.session.waiting else self.session.summary()

    def summarized(self, so_far: bool = False) -> SessionRow:
        """What the store is to know of it."""
        self.attempt(self._summarize, so_far)
        if self.broken or self.row is None:
            # Due at once, so that the next start, with a version that may be mended, tries again.
            self.row = self._row(self._as_far_as_it_came(), due=0.0)
        return self.row._replace(made=self.made)

    def _as_far_as_it_came(self) -> Summary:
        """What was known of one that cannot be mapped, before it came to what it cannot take."""
        if self.row is not None and len(self.row.summary) > len(b"{}"):
            known = msgspec.json.decode(self.row.summary, type=Summary)
            return msgspec.structs.replace(known, status="broken")
        return self._as_it_began(self.session.start)

    def _as_it_began(self, start: float) -> Summary:
        of, new = self.session, self.session.new
        return Summary(of.id, of.trace.id, "broken", start, user_id=new.user_id, agent_name=new.agent_name)

    @property
    def is_over(self) -> bool:
        """By its row."""
        return self.row is not None and self.row.due is None and not self.broken

    @property
    def lingers(self) -> bool:
        """It is in memory for latecomers only."""
        return self.over_since is not None and self.is_over and not self.inbox and not self.unsaved

    def _summarize(self, so_far: bool) -> None:
        due = None if self.session.rests_until == math.inf else self.session.rests_until
        # Due at once where spans are on their way of which the row knows nothing: the next start makes them again.
        self.row = self._row(self.summary(so_far), 0.0 if self.unsaved else due)

    def _row(self, summary: Summary, due: float | None) -> SessionRow:
        return SessionRow(
            no=self.no,
            id=self.session.id,
            made=self.made,
            due=due,
            started_at=summary.started_at,
            status=summary.status,
            summary=e.encode(summary),
            call=call_of(summary),
        )

    def go_on(self, now: float, is_enough: Callable[[], bool]) -> bool:
        """Applies what was logged, and does what is due by `now`, until it is enough for once. Whether more is to be
        done."""
        self.attempt(self._go_on, now, is_enough)
        if self.broken:
            self.inbox.clear()
        return not self.broken and (bool(self.inbox) or self.session.rests_until <= now)

    def _go_on(self, now: float, is_enough: Callable[[], bool]) -> None:
        while self.inbox:
            self.session.apply(*self.inbox.pop(0))
            if is_enough():
                return
        while self.session.step(now) and not is_enough():
            pass

    def catch_up(self) -> None:
        """Applies what was logged, in the log's order."""
        inbox, self.inbox = self.inbox, []
        for record, at, decoded in inbox:
            self.session.apply(record, at, decoded)


def call_of(summary: Summary) -> Call:
    tokens, latency = summary.tokens, summary.user_bot_latency_ms
    return Call(
        id=summary.session_id,
        started_at=summary.started_at,
        ended_at=summary.ended_at,
        status=summary.status,
        end_reason=summary.end_reason,
        user_id=summary.user_id,
        agent_name=summary.agent_name,
        provider=summary.provider,
        model=summary.model,
        duration_ms=summary.duration_ms,
        turns=summary.turn_count,
        interruptions=summary.interruption_count,
        tools=summary.tool_call_count,
        tool_errors=summary.tool_error_count,
        p50_ms=latency.p50,
        p95_ms=latency.p95,
        # A page may claim any number, and a table's integers have 64 bits.
        tokens=min(tokens.get("input_tokens", 0) + tokens.get("output_tokens", 0), LARGEST),
        lost=min(summary.events_lost, LARGEST),
    )
