"""The read API: what the store holds, mapped from the log when it is asked for. Writes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TypeVar, cast, get_args

import msgspec
from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from otel_voice import download
from otel_voice.adapters.allow import Provider
from otel_voice.edge import JSON, Gate, Load, Rejected, bearer, body_of, canonical, headers_of
from otel_voice.filters import filter_of
from otel_voice.links import Links
from otel_voice.mapped import look
from otel_voice.otlp import Encoder
from otel_voice.reads import Reads, encoded
from otel_voice.recording import BadRecording, Recording
from otel_voice.sessions import Sessions
from otel_voice.spans import Span
from otel_voice.store import Filter, SessionRow, Store
from otel_voice.summary import Summary

T = TypeVar("T")

PAGE = 50
LARGEST_PAGE = 500
JSON_LINES = "application/x-ndjson"
# A file that is looked at, as it comes and inflated: a call of an hour has some 2 MiB.
VIEWED_BYTES = (8 * 2**20, 16 * 2**20)
# Of a log that is downloaded, so much is in memory.
LOG_BYTES = 2**18
NO_WORDS = "this SQLite was built without FTS5: transcripts were not searched"


class Viewer:
    def __init__(
        self,
        sessions: Sessions,
        store: Store,
        reads: Reads,
        gate: Gate,
        load: Load,
        links: Links,
        encoder: Encoder,
        capture: bool,
    ) -> None:
        self._sessions, self._store, self._reads, self._gate, self._load = sessions, store, reads, gate, load
        self._links, self._encoder, self._capture = links, encoder, capture

    def routes(self) -> list[Route]:
        return [
            Route("/v1/sessions", self.sessions, methods=["GET"]),
            Route("/v1/sessions/plots", self.plots, methods=["GET"]),
            Route("/v1/sessions/{id}", self.summary, methods=["GET"]),
            Route("/v1/sessions/{id}/spans", self.spans, methods=["GET"]),
            # Beside the POST of the same path, which has the name "events".
            Route("/v1/sessions/{id}/events", self.events, methods=["GET"], name="download"),
            Route("/v1/sessions/{id}/otlp", self.otlp, methods=["GET"]),
            Route("/v1/view", self.view, methods=["POST"]),
        ]

    async def sessions(self, request: Request) -> Response:
        self._gate.reader(headers_of(request.scope))
        limit = _limit(request.query_params.get("limit"))
        before = _cursor(request.query_params.get("before"))
        chosen = filter_of(request.query_params)
        rows = await self._reads.searches.run(lambda: self._rows(chosen, limit + 1, before))
        more, rows = len(rows) > limit, rows[:limit]
        page = [Raw(summary) for row in rows if (summary := self._sessions.summary_of(row))]
        return JSON({"sessions": page, "next": str(rows[-1].no) if more else None, **self._searched(chosen)})

    def _rows(self, chosen: Filter, limit: int, before: int | None) -> list[SessionRow]:
        if chosen == Filter():
            return self._store.reader.sessions(limit, before)
        return self._store.calls.found(chosen, limit, before)

    def _searched(self, chosen: Filter) -> dict[str, str]:
        return {"note": NO_WORDS} if chosen.text and not self._store.has_words else {}

    async def plots(self, request: Request) -> Response:
        self._gate.reader(headers_of(request.scope))
        chosen = filter_of(request.query_params)
        of = await self._reads.searches.run(lambda: self._store.calls.plots(chosen))
        plots = {
            "count": of.calls,
            "over_time": {"from": of.first, "bin_ms": of.bin_ms, "counts": of.starts},
            "latency": {"bin_ms": of.latency_bin_ms, "p50": of.p50, "p95": of.p95},
            "end_reasons": of.end_reasons,
        }
        return JSON({**plots, **self._searched(chosen)})

    async def summary(self, request: Request) -> Response:
        session_id = canonical(request.path_params["id"])
        headers = headers_of(request.scope)
        if not self._gate.is_viewer(headers):
            self._gate.page_or_app(headers, bearer(headers), session_id)
        summary = self._sessions.summary_in_memory(session_id)
        return JSON(summary or await self._look(session_id, lambda _, summary: summary))

    async def spans(self, request: Request) -> Response:
        self._gate.reader(headers_of(request.scope))
        session_id = canonical(request.path_params["id"])
        return _json(await self._look(session_id, lambda spans, summary: _looked(spans, summary, self._links)))

    async def _look(self, session_id: str, told: Callable[[list[Span], Summary], T]) -> T:
        """What `told` makes of the session's spans and its summary, in the same thread."""
        now = self._sessions.now

        def work() -> T | None:
            found = look(self._store.reader, session_id, self._capture, now)
            return None if found is None else told(*found)

        if (looked := await self._reads.looks.run(work)) is None:
            raise Rejected(404, f"session {session_id} is not known")
        return looked

    async def events(self, request: Request) -> Response:
        self._gate.reader(headers_of(request.scope))
        session_id = canonical(request.path_params["id"])
        now = self._sessions.now
        row = self._store.session(session_id)
        if row is None:
            raise Rejected(404, f"session {session_id} is not known")
        no = row.no
        pages = await self._reads.looks.run(lambda: self._store.reader.log_pages(no, LOG_BYTES))
        headers = _as_file(f"{session_id}.jsonl")
        return StreamingResponse(self._lines(session_id, pages, now), headers=headers, media_type=JSON_LINES)

    async def _lines(self, session_id: str, pages: list[list[int]], now: float) -> AsyncIterator[bytes]:
        for page in pages:
            rows, lines = await self._reads.looks.run(partial(self._page, page), patiently=True)
            yield lines
            if rows < len(page):
                return  # it was erased
        yield download.last_line(session_id, now)

    def _page(self, numbers: list[int]) -> tuple[int, bytes]:
        rows = self._store.reader.log_page(numbers)
        return len(rows), download.lines(rows)

    async def otlp(self, request: Request) -> Response:
        self._gate.reader(headers_of(request.scope))
        session_id = canonical(request.path_params["id"])

        def document(spans: list[Span], summary: Summary) -> bytes:
            final = [span for span in spans if not span.open]
            return msgspec.json.encode(download.document(final, self._encoder))

        return _json(await self._look(session_id, document), _as_file(f"{session_id}.json"))

    async def view(self, request: Request) -> Response:
        """A file's session; nothing of it is stored."""
        headers = headers_of(request.scope)
        self._gate.reader(headers)
        provider = _provider(request.query_params.get("provider"))
        with self._load.request() as hand:
            body = await body_of(headers, request.receive, (), hand, VIEWED_BYTES, waits=False)
            try:
                looked = await self._reads.looks.run(lambda: _viewed(body, provider))
            except BadRecording as error:
                raise Rejected(422, str(error)) from None
        return _json(looked)


def _looked(spans: list[Span], summary: Summary, links: Links) -> bytes:
    looked = {
        "session_id": summary.session_id,
        "trace_id": summary.trace_id,
        "summary": summary,
        "links": links.to(summary.trace_id),
        "spans": encoded(spans),
    }
    return msgspec.json.encode(looked)


def _viewed(content: bytes, provider: Provider | None) -> bytes:
    return _looked(*Recording.of(content, "body", provider).look(), Links())


def _json(encoded: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(encoded, headers=headers, media_type=JSON.media_type)


def _as_file(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}


def _provider(name: str | None) -> Provider | None:
    if name not in (None, "", *get_args(Provider)):
        raise Rejected(422, f"provider: must be {' or '.join(get_args(Provider))}")
    return cast("Provider | None", name or None)


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
