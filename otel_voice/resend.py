"""Resend: a session's spans made again from its log and sent again, for what a hop lost after it had taken it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx

from otel_voice.exporter import Verdict, joined, post
from otel_voice.mapped import made_spans
from otel_voice.otlp import Encoder
from otel_voice.session import MAX_DURATION_MS
from otel_voice.settings import Export
from otel_voice.store import Pending, Reader

PAGE = 500


class NotTaken(Exception):
    """The next hop did not take the spans; one sentence."""


def rows_of(reader: Reader, session_id: str, capture_content: bool, encoder: Encoder) -> list[Pending] | None:
    """The session's spans that went out, the same to the byte; None if nobody knows it. Raises CannotMap."""
    spans = made_spans(reader, session_id, capture_content)
    return None if spans is None else [Pending(n, 0, encoder.request(span)) for n, span in enumerate(spans)]


def sessions_since(reader: Reader, since: float) -> Iterator[str]:
    """The ids of those that began at the time `since` (ms) or later, the latest made first."""
    before = None
    while rows := reader.sessions(PAGE, before):
        yield from (row.id for row in rows if row.started_at >= since)
        # They come in the order in which they were made, and a start may lie before that.
        if all(row.started_at < since - MAX_DURATION_MS for row in rows):
            return
        before = rows[-1].no


async def send(http: httpx.AsyncClient, export: Export, rows: list[Pending]) -> list[str]:
    """Once; who asks for it sees at once when it fails, and can ask again: the same spans replace themselves.
    Returns why single spans were refused. Raises NotTaken."""
    refused: list[str] = []
    waiting = [rows] if rows else []
    while waiting:
        rows = waiting.pop()
        batch = joined(rows)
        if rest := rows[len(batch) :]:
            waiting.append(rest)
        answer = await post(http, export, b"".join(row.body for row in batch))
        if answer.verdict is Verdict.SPLIT and len(batch) > 1:
            half = len(batch) // 2
            waiting += [batch[half:], batch[:half]]
        elif answer.verdict is Verdict.SPLIT:
            refused.append(answer.reason)
        elif answer.verdict is not Verdict.TAKEN:
            raise NotTaken(f"{export.url} did not take the spans: {answer.reason}; try again")
    return refused
