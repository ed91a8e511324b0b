"""The read API: what the store holds, mapped from the log when it is asked for. Writes nothing."""

from __future__ import annotations

import asyncio

from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from otel_voice.edge import JSON, Gate, Rejected, bearer, canonical, headers_of
from otel_voice.sessions import Sessions
from otel_voice.store import Store

PAGE = 50
LARGEST_PAGE = 500


class Viewer:
    def __init__(self, sessions: Sessions, store: Store, gate: Gate) -> None:
        self._sessions, self._store, self._gate = sessions, store, gate

    def routes(self) -> list[Route]:
        return [
            Route("/v1/sessions", self.sessions, methods=["GET"]),
            Route("/v1/sessions/{id}", self.summary, methods=["GET"]),
            Route("/v1/sessions/{id}/spans", self.spans, methods=["GET"]),
        ]

    async def sessions(self, request: Request) -> Response:
        self._gate.app_only(headers_of(request.scope))
        limit = _limit(request.query_params.get("limit"))
        before = _cursor(request.query_params.get("before"))
        rows = await asyncio.to_thread(self._store.reader.sessions, limit + 1, before)
        more, rows = len(rows) > limit, rows[:limit]
        page = [Raw(summary) for row in rows if (summary := self._sessions.summary_of(row))]
        return JSON({"sessions": page, "next": str(rows[-1].no) if more else None})

    async def summary(self, request: Request) -> Response:
        session_id = canonical(request.path_params["id"])
        headers = headers_of(request.scope)
        self._gate.page_or_app(headers, bearer(headers), session_id)
        summary = await self._sessions.summary(session_id)
        if summary is None:
            raise Rejected(404, f"session {session_id} is not known")
        return JSON(summary)

    async def spans(self, request: Request) -> Response:
        self._gate.app_only(headers_of(request.scope))
        session_id = canonical(request.path_params["id"])
        looked = await self._sessions.look(session_id)
        if looked is None:
            raise Rejected(404, f"session {session_id} is not known")
        spans, summary = looked
        return JSON({"session_id": session_id, "trace_id": summary.trace_id, "spans": spans})


def _limit(text: str | None) -> int:
    if text is None:
        return PAGE
    if not text.isdecimal() or len(text) > 4 or not 1 <= int(text) <= LARGEST_PAGE:
        raise Rejected(422, f"limit: must be a number from 1 to {LARGEST_PAGE}")
    return int(text)


def _cursor(text: str | None) -> int | None:
    if text is None:
        return None
    # SQLite's integers have 64 bits.
    if not text.isdecimal() or len(text) > 18:
        raise Rejected(422, "before: must be what `next` said on the page before")
    return int(text)
