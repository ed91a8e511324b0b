"""Recordings: a provider session, a JSON line a frame, or a downloaded session, a JSON line an event -> the events that
pages would post of it."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Raw, Struct

from otel_voice import bodies, spans
from otel_voice import events as e
from otel_voice.adapters.allow import Forward, Provider, reduce
from otel_voice.download import RECORD_TYPES, Created, Ended, Looked, Refused, event_of
from otel_voice.session import Session
from otel_voice.summary import Summary

# Frames without a time are told this far apart.
FRAME_MS = 20.0
# A recording may count its times from 0.
BASE_MS = e.EARLIEST_MS
END_REASON = "recording_ended"
# Of one that was recorded here; who posts it names another.
SOURCE = "replay"


class Frame(Struct):
    dir: Literal["sent", "received"]
    message: dict[str, Any]
    ts: Annotated[float, Meta(ge=0, le=e.LATEST_MS)] | None = None


class _Head(Struct):
    type: str | None = None


class Line(NamedTuple):
    """What a source told and when it came (ms). Times of events are by the receiver's clock; `clock` is what the sender
    said of its own."""

    at: float
    source: str | None
    clock: e.Clock | None
    what: e.WireEvent | e.Record


class BadRecording(ValueError):
    """One sentence that names the line."""


class Recording:
    """What a file holds (frames as numbered `provider_message` events), with times as they were recorded (ms).

    The frames' `provider` is told from their messages where nobody says it."""

    def __init__(self, path: Path, provider: Provider | None = None) -> None:
        self._read(path.read_bytes(), str(path), provider)

    @classmethod
    def of(cls, content: bytes, name: str, provider: Provider | None = None) -> Recording:
        recording = cls.__new__(cls)
        recording._read(content, name, provider)
        return recording

    def _read(self, content: bytes, name: str, provider: Provider | None) -> None:
        self.id = str(uuid.UUID(bytes=hashlib.sha256(content).digest()[:16]))
        # Up to when time had passed when it was downloaded.
        self.looked_at = float("inf")
        self.is_download = _is_download(content)
        if self.is_download:
            self.lines = self._downloaded(content, name)
        else:
            self.lines = _frame_lines(_frames(content, name), provider, name)

    @property
    def events(self) -> list[e.WireEvent]:
        return [line.what for line in self.lines if not isinstance(line.what, e.Record)]

    @property
    def new(self) -> e.NewSession | None:
        """What was said of the session first."""
        return next((line.what.session for line in self.lines if isinstance(line.what, e.Created)), None)

    @property
    def start(self) -> float:
        """The first event; of frames, they are in order. Where there is none, the creation or the end."""
        return min([event.ts or 0.0 for event in self.events] or [line.at for line in self.lines])

    @property
    def end(self) -> float:
        return max([event.ts or 0.0 for event in self.events] + [line.at for line in self.lines])

    def moved_to(self, start: float) -> list[e.WireEvent]:
        """The events with the first one at `start`."""
        shift = start - self.start
        return [msgspec.structs.replace(event, ts=(event.ts or 0) + shift) for event in self.events]

    def session(self, session_id: str | None = None, capture_content: bool = True) -> Session:
        """The session that a receiver would have made of it; frames end after the last one."""
        session = Session(session_id or self.id, capture_content)
        for at, source, _, what in self.lines:
            if isinstance(what, e.Record):
                session.apply(what, at)
            else:
                session.apply(e.Accepted([Raw(e.encode(what))], source), at)
        session.advance(self.looked_at)
        return session

    def look(self) -> tuple[list[spans.Span], Summary]:
        """All spans, those that are not final marked open, and the summary."""
        session = self.session()
        final = session.take()
        unfinished, summary = session.so_far()
        return final + unfinished, summary

    def _downloaded(self, content: bytes, name: str) -> list[Line]:
        found: list[Line] = []
        clock: dict[str | None, e.Clock | None] = {}
        for number, line in _numbered(content):
            try:
                read = self._line(line)
            except bodies.Refused as error:
                raise BadRecording(f"{name}, line {number}: {error}") from None
            if read is not None and read.clock != clock.get(read.source):
                clock[read.source] = read.clock
                found.append(read._replace(what=e.Accepted([], read.source, read.clock)))
            found += [read] if read is not None else []
        # One that somebody has put together himself may be in any order.
        found.sort(key=lambda line: line.at)
        if not any(not isinstance(line.what, e.Accepted) for line in found):
            raise BadRecording(f"{name}: it holds no event")
        return found

    def _line(self, line: bytes) -> Line | None:
        """Raises Refused."""
        bodies.check(line)
        record_type = RECORD_TYPES.get(bodies.decode(line, _Head).type or "")
        if record_type is None:
            at, source, clock, event = event_of(line)
            if isinstance(event, e.ProviderMessage):
                event.message = reduce(event.provider, event.dir, event.message) or {}
            return Line(at, source, clock, event)
        match bodies.decode(line, record_type):
            case Created(at=at, session=new):
                return Line(at, None, None, e.Created(msgspec.structs.replace(new, session_id=None)))
            case Ended(at=at, reason=reason, last_seq=last_seq, source=source):
                return Line(at, source, None, e.Ended(reason, last_seq, source))
            case Refused(at=at, seqs=seqs, source=source):
                return Line(at, source, None, e.Accepted([], source, None, seqs))
            case Looked(at=at, session_id=session_id):
                self.looked_at, self.id = at, _canonical(session_id)
        return None


def _canonical(session_id: str) -> str:
    try:
        return spans.session_id(session_id)
    except ValueError as error:
        raise bodies.Refused(str(error)) from None


def _numbered(content: bytes) -> list[tuple[int, bytes]]:
    return [(number, line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]


def _is_download(content: bytes) -> bool:
    """By its first line: an event has a type, a frame none."""
    first = next((line for _, line in _numbered(content)), b"{}")
    try:
        return bodies.decode(first, _Head).type is not None
    except bodies.Refused:
        return False


def _frames(content: bytes, name: str) -> list[Frame]:
    frames = []
    for number, line in _numbered(content):
        try:
            bodies.check(line)
            frames.append(bodies.decode(line, Frame))
        except bodies.Refused as error:
            raise BadRecording(f"{name}, line {number}: {error}") from None
    return frames


def _frame_lines(frames: list[Frame], provider: Provider | None, name: str) -> list[Line]:
    told = provider or _provider_of(frames)
    events = _events(frames, told)
    if not events:
        raise BadRecording(f"{name}: it holds no message of {told} that says anything")
    end = e.Ended(END_REASON, len(events) - 1, SOURCE)
    last = max(event.ts or 0.0 for event in events)
    return [*(Line(event.ts or 0.0, SOURCE, None, event) for event in events), Line(last, SOURCE, None, end)]


def _provider_of(frames: list[Frame]) -> Provider:
    """OpenAI's messages have types, Gemini's have none."""
    return "openai-realtime" if any("type" in frame.message for frame in frames) else "gemini-live"


def _events(frames: list[Frame], provider: Provider) -> list[e.ProviderMessage]:
    forward, t = Forward(provider), 0.0
    kept: list[Frame] = []
    for frame in frames:
        t = frame.ts if frame.ts is not None else t + FRAME_MS
        kept += [Frame(frame.dir, message, t) for message in forward(frame.dir, frame.message)]
    kept += [Frame("received", message, t) for message in forward.flush()]
    return [
        e.ProviderMessage(seq=n, ts=_epoch(frame.ts or 0.0), provider=provider, dir=frame.dir, message=frame.message)
        for n, frame in enumerate(kept)
    ]


def _epoch(t: float) -> float:
    return t if t >= e.EARLIEST_MS else BASE_MS + t
