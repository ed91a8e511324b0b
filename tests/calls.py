"""Whole recorded calls, played through a real receiver and a real collector to Langfuse's path."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.components.build import COLLECTOR
from tests.conftest import binary_of
from tests.facts import RECORDINGS, SHARED
from tests.real import COLLECTOR_CONFIG, Collector, LangfuseServer, Receiver, wait_for
from tests.test_end_to_end import otel_voice

DEMO = COLLECTOR_CONFIG.parent / "otel_voice" / "demo"
OWN = ("openai_failed_and_incomplete", "gemini_cancelled_tool")
# Between them: tools of every outcome, barge-ins, usage, errors, marks, what came late, a page's own events.
FILES = [
    *sorted(DEMO.glob("*.jsonl")),
    *(RECORDINGS / f"{name}.jsonl" for name in OWN),
    *sorted(SHARED.glob("*/*.jsonl")),
]

each_call = pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")


@dataclass(frozen=True)
class Played:
    """A call: its recording's lines, the receiver's log and spans of it, and what Langfuse got, in order of arrival."""

    session_id: str
    lines: list[dict[str, Any]]
    log: bytes
    made: list[dict[str, Any]]
    spans: list[Span]

    @property
    def trace_id(self) -> str:
        return self.session_id.replace("-", "")


@dataclass(frozen=True)
class Chain:
    receiver: Receiver
    collector: Collector
    langfuse: LangfuseServer

    def play(self, file: Path, **fields: object) -> Played:
        """Replays a recording as a session with these properties, until all its spans are at Langfuse."""
        session_id = str(uuid.uuid4())
        asked = f"{self.receiver.url}/v1/sessions"
        httpx.post(asked, json={"session_id": session_id, **fields}).raise_for_status()
        otel_voice("replay", file, "--endpoint", self.receiver.url, "--session-id", session_id, "--instant")
        made = wait_for(lambda: self.final(session_id), 30, "every span to be final")
        spans = wait_for(lambda: self.arrived(session_id, len(made)), 30, f"{len(made)} spans at Langfuse")
        log = httpx.get(f"{asked}/{session_id}/events").raise_for_status().content
        return Played(session_id, [json.loads(line) for line in file.read_text().splitlines()], log, made, spans)

    def final(self, session_id: str) -> list[dict[str, Any]] | None:
        answer = httpx.get(f"{self.receiver.url}/v1/sessions/{session_id}/spans").raise_for_status()
        spans: list[dict[str, Any]] = answer.json()["spans"]
        return None if any(span.get("open") for span in spans) else spans

    def arrived(self, session_id: str, count: int) -> list[Span] | None:
        """A session's spans at Langfuse, once there are so many."""
        trace_id = session_id.replace("-", "")
        spans = [span for span in self.langfuse.spans if span.trace_id.hex() == trace_id]
        return spans if len(spans) >= count else None

    def play_all(self, **fields: object) -> dict[Path, Played]:
        with ThreadPoolExecutor(4) as pool:
            return dict(zip(FILES, pool.map(lambda file: self.play(file, **fields), FILES), strict=True))


@contextmanager
def chain(folder: Path, receiving: dict[str, str], collecting: dict[str, str]) -> Iterator[Chain]:
    """Receiver, collector and Langfuse's path, with these variables for the first two."""
    langfuse = LangfuseServer()
    collector = Collector(binary_of(COLLECTOR), folder, {**langfuse.env, **collecting})
    try:
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.otlp_http_endpoint}
        receiver = Receiver(folder / "data", folder, endpoint | receiving)
        try:
            yield Chain(receiver, collector, langfuse)
        finally:
            receiver.kill()
    finally:
        collector.kill()
        langfuse.close()
