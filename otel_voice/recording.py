"""Recordings: a provider session, a JSON line a frame -> the events that a page would have posted of it."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from otel_voice import bodies
from otel_voice import events as e
from otel_voice.adapters.allow import Forward, Provider
from otel_voice.session import Session

# Frames without a time are told this far apart.
FRAME_MS = 20.0
# A recording may count its times from 0.
BASE_MS = e.EARLIEST_MS
END_REASON = "recording_ended"


class Frame(Struct):
    dir: Literal["sent", "received"]
    message: dict[str, Any]
    ts: Annotated[float, Meta(ge=0, le=e.LATEST_MS)] | None = None


class BadRecording(ValueError):
    """One sentence that names the line."""


class Recording:
    """A file's frames as numbered `provider_message` events, with times as they were recorded (ms)."""

    def __init__(self, path: Path, provider: Provider) -> None:
        content = path.read_bytes()
        self.id = str(uuid.UUID(bytes=hashlib.sha256(content).digest()[:16]))
        self.events = _events(_frames(content, path), provider)
        if not self.events:
            raise BadRecording(f"{path}: it holds no message of {provider} that says anything")

    @property
    def start(self) -> float:
        return self.events[0].ts or 0.0

    @property
    def end(self) -> float:
        return max(event.ts or 0.0 for event in self.events)

    def moved_to(self, start: float) -> list[e.ProviderMessage]:
        """The events with the first one at `start`."""
        shift = start - self.start
        return [msgspec.structs.replace(event, ts=(event.ts or 0) + shift) for event in self.events]

    def session(self, session_id: str | None = None, capture_content: bool = True) -> Session:
        """The session that a receiver would have made of it, ended after the last frame."""
        session = Session(session_id or self.id, capture_content)
        for event in self.events:
            session.apply(e.Accepted([Raw(e.encode(event))], source="replay"), at=event.ts or 0.0)
        session.apply(e.Ended(END_REASON, len(self.events) - 1, "replay"), at=self.end)
        session.advance(float("inf"))
        return session


def _frames(content: bytes, path: Path) -> list[Frame]:
    frames = []
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            try:
                frames.append(bodies.decode(line, Frame))
            except bodies.Refused as error:
                raise BadRecording(f"{path}, line {number}: {error}") from None
    return frames


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
