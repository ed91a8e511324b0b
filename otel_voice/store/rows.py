"""What goes into the store and comes out of it: plain rows, and the ways in which it says no."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple


class Unavailable(Exception):
    """The store cannot take or give it now; nothing of it was stored."""


class Unwritable(Unavailable):
    """What was to be stored cannot be, however often one tries: a defect of ours."""


class TooLong(Unavailable):
    """A search took longer than it may."""


class Damaged(Unavailable):
    """The database file is no longer one."""


class Locked(Exception):
    """Another process works on this data directory."""


class OtherSchema(Exception):
    """A version of otel-voice wrote it that this one can do nothing with; it was left as it is."""


class Call(NamedTuple):
    """What lists filter by; times are milliseconds. The columns of the table `calls`, from the third on."""

    id: str
    started_at: float
    ended_at: float | None = None
    status: str = "open"
    end_reason: str | None = None
    user_id: str | None = None
    agent_name: str | None = None
    provider: str | None = None
    model: str | None = None
    duration_ms: float = 0
    turns: int = 0
    interruptions: int = 0
    tools: int = 0
    tool_errors: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    tokens: int = 0
    lost: int = 0


class Condition(NamedTuple):
    """What a column of `Call` must be; a row that has nothing there is none."""

    column: str
    is_: Literal["=", ">=", "<"]
    value: str | float


class Filter(NamedTuple):
    """All conditions hold and, where there is `text`, its words were said in one turn, or it is a part of the call's
    user, agent or model, or begins its id."""

    conditions: Sequence[Condition] = ()
    text: str = ""


class Plots(NamedTuple):
    """How many calls there are by the bin of their start, from `first` (ms) on, of their latencies, from 0 on, and by
    their end reason, the most frequent first. Bins are as wide as `bin_ms` and `latency_bin_ms`."""

    calls: int
    first: float
    bin_ms: float
    starts: list[int]
    latency_bin_ms: float
    p50: list[int]
    p95: list[int]
    end_reasons: list[tuple[str, int]]


class SessionRow(NamedTuple):
    """What a session's row says of it; times are milliseconds. `call` is written with it and not read back."""

    no: int
    id: str
    made: int
    due: float | None
    started_at: float
    status: str
    summary: bytes
    call: Call | None = None


class LogRow(NamedTuple):
    at: float
    body: bytes
    events: int = 0


class Pending(NamedTuple):
    id: int
    session: int
    body: bytes


class DeadLetter(NamedTuple):
    """A span that the next hop refused for good, at the time `at` (ms)."""

    id: int
    session_id: str | None
    at: float
    reason: str
    body: bytes


class Append(NamedTuple):
    """A record to log, with the number of events in it. `new` sessions get their row with it."""

    session: int
    session_id: str
    new: bool
    at: float
    body: bytes
    events: int = 0


class Counted(NamedTuple):
    """How many of a session's events its row counts from now on, and whether they are all mapped."""

    no: int
    events: int
    over: bool


class Flush(NamedTuple):
    """Sessions' rows and the spans they made up to the time `at` (ms), later than any flush's before, with the words in
    them, `said`: session, number of the turn, text; `delivered` more were made, and taken by the next hop already. The
    log is taken into account up to and with its row `flushed`, and what the sessions' rows count, `counted`, goes just
    as far."""

    rows: Sequence[SessionRow]
    spans: Sequence[tuple[int, bytes]]
    flushed: int
    at: float = 0.0
    counted: Sequence[Counted] = ()
    said: Sequence[tuple[int, int, str]] = ()
    delivered: int = 0


class Ledger(NamedTuple):
    """Two lines that add up: events accepted = mapped + open + erased, and spans made = delivered + pending + dead +
    dropped.

    An event is mapped when its session has made all its spans. What is erased or dropped is the operator's doing.
    """

    accepted: int
    mapped: int
    open: int
    erased: int
    made: int
    delivered: int
    pending: int
    dead: int
    dropped: int

    @property
    def adds_up(self) -> bool:
        events = self.mapped + self.open + self.erased
        spans = self.delivered + self.pending + self.dead + self.dropped
        return (self.accepted, self.made) == (events, spans)

    def __str__(self) -> str:
        events = f"events: {self.accepted} accepted = {self.mapped} mapped + {self.open} open"
        erased = f" + {self.erased} erased" if self.erased else ""
        spans = f"spans: {self.made} made = {self.delivered} delivered + {self.pending} pending"
        return f"{events}{erased}; {spans} + {self.dead} dead letters + {self.dropped} dropped by the operator"
