"""HTTP in: authenticate, decode, commit, answer."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import msgspec
from msgspec import Raw, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from otel_voice import bodies, spans
from otel_voice import events as e
from otel_voice.adapters import allow
from otel_voice.edge import JSON, Gate, Load, Rejected, bearer, body_of, canonical
from otel_voice.session import MAX_DURATION_MS, PROVISIONAL
from otel_voice.sessions import Sessions
from otel_voice.store import Store
from otel_voice.summary import Summary
from otel_voice.tokens import Tokens

# A page that was closed leaves events behind, which the next visit sends.
TOKEN_OUTLIVES_S = 24 * 3600
# A sender's clock may be wrong, but not by more than this into the future after its own correction.
AHEAD_MS = 24 * 3_600_000
BATCH_TYPES = ("application/json", "text/plain")


class Made(Struct):
    """The answer to a new session; `expires_at` is the token's end in ms since the epoch."""

    session_id: str
    trace_id: str
    token: str
    traceparent: str
    events_url: str
    expires_at: int


class RejectedEvent(Struct):
    index: int
    error: str


class Verdict(Struct):
    accepted: int
    rejected: list[RejectedEvent]


class Receiver:
    def __init__(
        self, sessions: Sessions, store: Store, tokens: Tokens, gate: Gate, load: Load, clock: Callable[[], float]
    ) -> None:
        self._sessions, self._store, self._tokens = sessions, store, tokens
        self._gate, self._load, self._clock = gate, load, clock

    def routes(self) -> list[Route]:
        return [
            Route("/v1/sessions", self.create, methods=["POST"]),
            Route("/v1/sessions/{id}/events", self.events, methods=["POST"]),
            Route("/v1/sessions/{id}/end", self.end, methods=["POST"]),
            Route("/v1/sessions/{id}", self.erase, methods=["DELETE"]),
        ]

    async def create(self, request: Request) -> Response:
        self._gate.app_only(request)
        with self._load.request() as hand:
            return await self._create(request, await body_of(request, ("application/json",), hand))

    async def _create(self, request: Request, body: bytes) -> Response:
        new = decoded(body or b"{}", e.NewSession)
        session_id = canonical(str(uuid.uuid4()) if new.session_id is None else new.session_id)
        self._admit()
        await self._sessions.create(msgspec.structs.replace(new, session_id=None), session_id)
        trace_id = spans.trace_id(session_id)
        expires_at = self._clock() + MAX_DURATION_MS / 1000 + TOKEN_OUTLIVES_S
        made = Made(
            session_id=session_id,
            trace_id=trace_id,
            token=self._tokens.mint(session_id, expires_at),
            traceparent=spans.traceparent(trace_id, spans.root_id(trace_id)),
            events_url=str(request.url_for("events", id=session_id)),
            expires_at=int(expires_at) * 1000,
        )
        return JSON(made, 201, {"cache-control": "no-store"})

    async def events(self, request: Request) -> Response:
        session_id = canonical(request.path_params["id"])
        with self._load.request() as hand:
            return await self._events(request, await body_of(request, BATCH_TYPES, hand), session_id)

    async def _events(self, request: Request, body: bytes, session_id: str) -> Response:
        self._authorize(request, body, session_id)
        self._admit()
        envelope = decode_envelope(body)
        batch, rejected = self._sort(envelope)
        self._sessions.refused += len(rejected)
        if batch.events or batch.refused:
            await self._sessions.accept(session_id, batch)
        if not rejected:
            return Response(status_code=204)
        return JSON(Verdict(len(batch.events), rejected), 200 if batch.events else 422)

    def _authorize(self, request: Request, body: bytes, session_id: str) -> None:
        """Before anything is decoded. Raises Rejected: 400, 401, 403."""
        found = bearer(request)
        tokens = [found] if found else bodies.tokens_in(body)
        if not any(self._gate.fits(token, session_id) for token in tokens):
            if not tokens:
                check_json(body)
            self._gate.page(tokens[0] if tokens else None, session_id)

    def _sort(self, envelope: e.Envelope) -> tuple[e.Accepted, list[RejectedEvent]]:
        """What is taken, reduced to what may be kept, and a verdict for each event that is not."""
        batch = e.Accepted([], envelope.source, envelope.clock)
        rejected = []
        offset = envelope.clock.offset if envelope.clock else 0.0
        latest = self._clock() * 1000 + AHEAD_MS
        for index, raw in enumerate(envelope.events):
            try:
                batch.events.append(_taken(raw, offset, latest))
            except bodies.Refused as refused:
                rejected.append(RejectedEvent(index, str(refused)))
                if (seq := e.seq_of(raw)) is not None:
                    batch.refused.append(seq)
        return batch, rejected

    def _admit(self) -> None:
        if (why := self._store.refuses) is not None:
            raise Rejected(503, f"{why}; send it again", retry_after=2)

    async def end(self, request: Request) -> Response:
        session_id = canonical(request.path_params["id"])
        with self._load.request() as hand:
            return await self._end(request, await body_of(request, BATCH_TYPES, hand), session_id)

    async def _end(self, request: Request, body: bytes, session_id: str) -> Response:
        ending = decoded(body or b"{}", e.EndRequest)
        by_page = self._gate.page_or_app(request, bearer(request) or ending.token, session_id)
        summary = await self._sessions.summary(session_id)
        if summary is None and not by_page:
            raise Rejected(404, f"session {session_id} is not known")
        if summary is None or _goes_on(summary, ending.reason):
            self._admit()
            await self._sessions.accept(session_id, e.Ended(ending.reason, ending.last_seq, ending.source))
            summary = await self._sessions.summary(session_id)
        return JSON(summary)

    async def erase(self, request: Request) -> Response:
        self._gate.app_only(request)
        session_id = canonical(request.path_params["id"])
        if not await self._sessions.erase(session_id):
            raise Rejected(404, f"session {session_id} is not known")
        return Response(status_code=204)


def _goes_on(summary: Summary, reason: str) -> bool:
    """Whether an end for this reason is news: a firm one is, where the page has only gone away."""
    return summary.status == "open" or (summary.status == "closing" and reason not in PROVISIONAL)


def _taken(raw: Raw, offset: float, latest: float) -> Raw:
    """An event as it is logged. Raises Refused."""
    bodies.check(raw)
    event = e.decode_event(raw)
    if event.ts is not None and event.ts + offset > latest:
        raise bodies.Refused("ts: it lies more than a day in the future")
    if event.ts is not None and event.ts + offset < e.EARLIEST_MS:
        raise bodies.Refused("ts: it lies before the year 2000; it is in milliseconds since the epoch")
    if not isinstance(event, e.ProviderMessage):
        return raw
    event.message = allow.reduce(event.provider, event.dir, event.message) or {}
    return Raw(e.encode(event))


def check_json(body: bytes) -> None:
    try:
        bodies.check_json(body)
    except bodies.NotJSON as error:
        raise Rejected(400, str(error)) from None


def decode_envelope(body: bytes) -> e.Envelope:
    try:
        return e.decode_envelope(body)
    except bodies.TooMany as too_many:
        raise Rejected(413, str(too_many)) from None
    except bodies.Refused as refused:
        raise Rejected(400, str(refused)) from None


def decoded(body: bytes, type_: type[bodies.T]) -> bodies.T:
    """Raises Rejected: 400 for what is no JSON, 422 for a field that is wrong."""
    try:
        return bodies.decode(body, type_)
    except bodies.NotJSON as error:
        raise Rejected(400, str(error)) from None
    except bodies.Refused as error:
        raise Rejected(422, str(error)) from None
