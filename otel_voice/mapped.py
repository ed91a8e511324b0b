"""A session mapped again from its log: to load it, to look at it, to send its spans once more."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

from otel_voice import events as e
from otel_voice import spans
from otel_voice.session import Session
from otel_voice.store import LogRow, Reader, SessionRow
from otel_voice.summary import Summary


class CannotMap(Exception):
    """A defect of ours; one sentence."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {session_id} cannot be mapped by this version; its events are kept")


def replay(session: Session, rows: list[LogRow]) -> None:
    """Tells a session its log."""
    for row in rows:
        session.apply(e.decode_record(row.body), row.at)


def look(reader: Reader, session_id: str, capture: bool, now: float) -> tuple[list[spans.Span], Summary] | None:
    """All spans of a session at `now` (ms), those not final yet marked open, and its summary; None if nobody knows it.
    Raises CannotMap."""
    if (row := reader.session(session_id)) is None:
        return None
    session = _mapped(reader, row, capture, now)
    final = session.take()
    with _mapping(session):
        unfinished, summary = session.so_far()
    return final + unfinished, summary


def made_spans(reader: Reader, session_id: str, capture: bool) -> list[spans.Span] | None:
    """The spans that went out of a session so far, mapped again from its log; None if nobody knows it.
    Raises CannotMap."""
    if (row := reader.session(session_id)) is None:
        return None
    return _mapped(reader, row, capture, float("inf")).take()[: row.made]


class Growing:
    """A session that is looked at again and again: what its log has got since is mapped, no more."""

    def __init__(self, row: SessionRow, capture: bool, seen: int = 0) -> None:
        """`seen` final spans are known already."""
        self.no, self._session, self._seen = row.no, _session_of(row, capture), seen
        self._last = 0
        # Final ones so far, and after a look: the new ones, those not final yet, and the summary.
        self.count = 0
        self.spans: list[spans.Span] = []
        self.unfinished: list[spans.Span] = []
        self.summary: Summary | None = None

    @property
    def rests_until(self) -> float:
        return self._session.rests_until

    @property
    def is_over(self) -> bool:
        """Nothing more comes of it, unless somebody tells something after its end."""
        return self.summary is not None and self._session.ended is not None and self.rests_until == math.inf

    def look(self, reader: Reader, head: int | None, now: float) -> bool:
        """At `now` (ms), with the log as far as its row `head`; False where the session was erased."""
        if not reader.by_number([self.no]):
            return False
        rows, self._last = reader.log_after(self.no, head, self._last)
        _tell(self._session, rows, now)
        made = self._session.take()
        self.spans = made[max(0, self._seen - self.count) :]
        self.count += len(made)
        with _mapping(self._session):
            self.unfinished, self.summary = self._session.so_far()
        return True


def _mapped(reader: Reader, row: SessionRow, capture: bool, now: float) -> Session:
    session = _session_of(row, capture)
    _tell(session, reader.log(row.no), now)
    return session


def _tell(session: Session, rows: list[LogRow], now: float) -> None:
    with _mapping(session):
        replay(session, rows)
        session.advance(now)


@contextlib.contextmanager
def _mapping(session: Session) -> Iterator[None]:
    """Whatever the defect is that shows here: it is this session's alone."""
    try:
        yield
    except Exception as error:
        raise CannotMap(session.id) from error


def _session_of(row: SessionRow, capture: bool) -> Session:
    if row.status == "broken":
        raise CannotMap(row.id)
    return Session(row.id, capture)
