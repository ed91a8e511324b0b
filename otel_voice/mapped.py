"""A session mapped again from its log: to load it, to look at it, to send its spans once more."""

from __future__ import annotations

from otel_voice import events as e
from otel_voice import spans
from otel_voice.session import Session
from otel_voice.store import LogRow, Reader, SessionRow
from otel_voice.summary import Summary


class CannotMap(Exception):
    """A defect of ours; one sentence."""


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
    unfinished, summary = session.so_far()
    return final + unfinished, summary


def made_spans(reader: Reader, session_id: str, capture: bool) -> list[spans.Span] | None:
    """The spans that went out of a session so far, mapped again from its log; None if nobody knows it.
    Raises CannotMap."""
    if (row := reader.session(session_id)) is None:
        return None
    return _mapped(reader, row, capture, float("inf")).take()[: row.made]


def _mapped(reader: Reader, row: SessionRow, capture: bool, now: float) -> Session:
    if row.status == "broken":
        raise CannotMap(f"session {row.id} cannot be mapped by this version; its events are kept")
    session = Session(row.id, capture)
    replay(session, reader.log(row.no))
    session.advance(now)
    return session
