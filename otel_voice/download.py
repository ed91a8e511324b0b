"""Downloads: a session's log as recording lines, an event a line, and such a line read again; its spans as OTLP JSON.

A line is an event as it was accepted, with `ts` by the receiver's clock, and with the batch that brought it: its
`source`, `at` (its arrival) and what the sender said of its `clock`. (`interrupted` has a field `source` of its own: it
is `interruption_source` here.) Four more types say what the log holds beside events: `session_created`,
`session_ended`, `events_refused`, and at last `downloaded`, up to when time had passed. Times are milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from otel_voice import bodies, otlp
from otel_voice import events as e
from otel_voice.fields import LastSeq, Name, Seq, SourceName
from otel_voice.reads import encoded
from otel_voice.spans import Span
from otel_voice.store import LogRow

At = Annotated[float, Meta(ge=0, le=10**13)]


class Created(Struct, tag="session_created", tag_field="type", omit_defaults=True):
    ts: At
    at: At
    session: e.NewSession


class Ended(Struct, tag="session_ended", tag_field="type", omit_defaults=True):
    ts: At
    at: At
    reason: Name
    last_seq: LastSeq | None = None
    source: SourceName | None = None


class Refused(Struct, tag="events_refused", tag_field="type", omit_defaults=True):
    ts: At
    at: At
    seqs: list[Seq]
    source: SourceName | None = None


class Looked(Struct, tag="downloaded", tag_field="type"):
    ts: At
    at: At
    session_id: str


RecordLine = Created | Ended | Refused | Looked
RECORD_TYPES: dict[str, type[RecordLine]] = {
    str(type_.__struct_config__.tag): type_ for type_ in (Created, Ended, Refused, Looked)
}


class _Arrival(Struct):
    ts: At | None = None
    at: At | None = None
    source: SourceName | None = None
    clock: e.Clock | None = None


_json = msgspec.json.Decoder(dict[str, Any])


def lines(rows: Iterable[LogRow]) -> bytes:
    return b"".join(e.encode(line) + b"\n" for row in rows for line in _lines_of(e.decode_record(row.body), row.at))


def last_line(session_id: str, now: float) -> bytes:
    """Whatever lacks it is not whole."""
    return e.encode(Looked(now, now, session_id)) + b"\n"


def _lines_of(record: e.Record, at: float) -> list[Any]:
    if isinstance(record, e.Created):
        return [Created(at, at, record.session)]
    if isinstance(record, e.Ended):
        return [Ended(at, at, record.reason, record.last_seq, record.source)]
    told: list[Any] = [_told(raw, record, at) for raw in record.events]
    return [*told, Refused(at, at, record.refused, record.source)] if record.refused else told


def _told(raw: Raw, batch: e.Accepted, at: float) -> dict[str, Any]:
    event = _json.decode(raw)
    own = {"interruption_source": event["source"]} if event.get("type") == "interrupted" and "source" in event else {}
    ts = event.get("ts")
    offset = batch.clock.offset if batch.clock else 0.0
    event |= {"ts": at if ts is None else ts + offset, **own, "source": batch.source, "at": at}
    if batch.clock is not None:
        event["clock"] = batch.clock
    return event


def event_of(line: bytes) -> tuple[float, str | None, e.Clock | None, e.WireEvent]:
    """A line's arrival, source, clock and event. Raises Refused."""
    arrival = bodies.decode(line, _Arrival)
    fields = bodies.decode(line, dict[str, Any])
    for key in ("source", "at", "clock"):
        fields.pop(key, None)
    if fields.get("type") == "interrupted" and "interruption_source" in fields:
        fields["source"] = fields.pop("interruption_source")
    event = e.decode_event(e.encode(fields))
    event.ts = arrival.at if event.ts is None else event.ts
    if event.ts is None:
        raise bodies.Refused("ts: it is missing")
    if not e.EARLIEST_MS <= event.ts <= e.LATEST_MS:
        raise bodies.Refused("ts: it must be milliseconds since the epoch, from 2000 to 2100")
    return event.ts if arrival.at is None else arrival.at, arrival.source, arrival.clock, event


def document(spans: Iterable[Span], encoder: otlp.Encoder) -> dict[str, Any]:
    """One OTLP request in JSON, its spans encoded."""
    resources, told = list[dict[str, Any]](), list[Raw]()
    for span in spans:
        resources = otlp.as_json(encoder.request(span))["resourceSpans"]
        (scope,) = resources[0]["scopeSpans"]
        told += encoded(scope["spans"])
        scope["spans"] = told
    return {"resourceSpans": resources}
