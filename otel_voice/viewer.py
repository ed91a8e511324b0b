"""The read API: what the store holds, mapped from the log when it is asked for. Writes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Annotated, TypeVar, cast, get_args

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from otel_voice import download
from otel_voice.adapters.allow import Provider
from otel_voice.edge import JSON, Gate, Load, Rejected, bearer, body_of, canonical, headers_of
from otel_voice.filters import filter_of
from otel_voice.links import BackendLinks, Links
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


Note = Annotated[str, Meta(description="What was not done that the filters ask for.")]


class SessionList(Struct):
    """Summaries, the latest made first; `next` is the next page's `before`, null on the last one."""

    sessions: list[Summary]
    next: str | None
    note: Note | UnsetType = UNSET


class StartBins(Struct, rename={"from_": "from"}):
    """How many sessions began in each bin; the first bin begins at `from` (ms since the epoch)."""

    from_: float
    bin_ms: float
    counts: list[int]


class LatencyBins(Struct):
    """How many sessions have their p50, and their p95, in each bin; the first bin begins at 0."""

    bin_ms: float
    p50: list[int]
    p95: list[int]


class SessionPlots(Struct):
    """Figures over the sessions of a filter; `end_reasons` are pairs of reason and number, the most frequent first."""

    count: int
    over_time: StartBins
    latency: LatencyBins
    end_reasons: list[tuple[str, int]]
    note: Note | UnsetType = UNSET


class SessionSpans(Struct):
    """A session and all its spans so far, those not final yet marked `open`."""

    session_id: str
    trace_id: str
    summary: Summary
    links: BackendLinks
    spans: list[Span]


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
            Route("/v1/sessions/{id:session}", self.summary, methods=["GET"]),
            Route("/v1/sessions/{id}/spans", self.spans, methods=["GET"]),
            # Beside the POST of the same path, which has the name "events".
            Route("/v1/sessions/{id}/events", self.events, methods=["GET"], name="download"),
            Route("/v1/sessions/{id}/otlp", self.otlp, methods=["GET"]),
            Route("/v1/view", self.view, methods=["POST"]),
        ]

    async def sessions(self, request: Request) -> Response:
        """Lists sessions, the latest made first.

        All filters that are set hold; one that is empty is not set."""
        self._gate.reader(headers_of(request.scope))
        limit = _limit(request.query_params.get("limit"))
        before = _cursor(request.query_params.get("before"))
        chosen = filter_of(request.query_params)
        rows = await self._reads.searches.run(lambda: self._rows(chosen, limit + 1, before))
        more, rows = len(rows) > limit, rows[:limit]
        page = [Raw(summary) for row in rows if (summary := self._sessions.summary_of(row))]
        listed = cast("list[Summary]", page)  # as JSON already
        return JSON(SessionList(listed, str(rows[-1].no) if more else None, self._note(chosen)))

    def _rows(self, chosen: Filter, limit: int, before: int | None) -> list[SessionRow]:
        if chosen == Filter():
            return self._store.reader.sessions(limit, before)
        return self._store.calls.found(chosen, limit, before)

    def _note(self, chosen: Filter) -> str | UnsetType:
        return NO_WORDS if chosen.text and not self._store.has_words else UNSET

    async def plots(self, request: Request) -> Response:
        """Figures over the sessions that the same filters choose: starts, latencies, end reasons."""
        self._gate.reader(headers_of(request.scope))
        chosen = filter_of(request.query_params)
        of = await self._reads.searches.run(lambda: self._store.calls.plots(chosen))
        starts = StartBins(of.first, of.bin_ms, of.starts)
        latency = LatencyBins(of.latency_bin_ms, of.p50, of.p95)
        return JSON(SessionPlots(of.calls, starts, latency, of.end_reasons, self._note(chosen)))

    async def summary(self, request: Request) -> Response:
        """The summary of a session: counts, times and tokens, no words."""
        session_id = canonical(request.path_params["id"])
        headers = headers_of(request.scope)
        if not self._gate.is_viewer(headers):
            self._gate.page_or_app(headers, bearer(headers), session_id)
        summary = self._sessions.summary_in_memory(session_id)
        return JSON(summary or await self._look(session_id, lambda _, summary: summary))

    async def spans(self, request: Request) -> Response:
        """A session with its spans so far.

        Those not final yet are marked `open`; all are final some four seconds after the session's end."""
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
        """Downloads a session's events as they were accepted, a line each.

        A line is an event with `ts` by the receiver's clock, and with the `source`, the arrival (`at`) and the `clock`
        of the batch that brought it; `session_created`, `session_ended`, `events_refused` and at last `downloaded` say
        what the log holds beside events. `otel-voice replay` and `POST /v1/view` take the file."""
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
        """Downloads a session's final spans as one OTLP request in JSON."""
        self._gate.reader(headers_of(request.scope))
        session_id = canonical(request.path_params["id"])

        def document(spans: list[Span], summary: Summary) -> bytes:
            final = [span for span in spans if not span.open]
            return msgspec.json.encode(download.document(final, self._encoder))

        return _json(await self._look(session_id, document), _as_file(f"{session_id}.json"))

    async def view(self, request: Request) -> Response:
        """Maps a recording to spans; nothing of it is stored.

        The body is a download of events, or a provider's messages, a line each: `{"dir": "received", "message": {…},
        "ts": …}`. The answer is what the session's spans would be."""
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
    told = cast("list[Span]", encoded(spans))  # as JSON already
    to = links.to(summary.trace_id)
    return msgspec.json.encode(SessionSpans(summary.session_id, summary.trace_id, summary, to, told))


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
