"""HTTP in: authenticate, decode, commit, answer."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import msgspec
from msgspec import Raw, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive

from otel_voice import bodies, spans
from otel_voice import events as e
from otel_voice.adapters import allow
from otel_voice.content import Content
from otel_voice.edge import (
    JSON,
    Address,
    Gate,
    Headers,
    Limits,
    Load,
    Rejected,
    bearer,
    body_of,
    canonical,
    headers_of,
)
from otel_voice.session import MAX_DURATION_MS, PROVISIONAL
from otel_voice.sessions import Sessions
from otel_voice.store import Store
from otel_voice.summary import Summary
from otel_voice.tokens import Tokens

# A page that was closed leaves events behind, which the next visit sends.
TOKEN_OUTLIVES_S = 24 * 3600
# A sender's clock may be wrong, but not by more than this into the future after its own correction.
AHEAD_MS = 24 * 3_600_000
# What one message may tell of: each may become a span, and all at once.
LISTED = 1_000
BATCH_TYPES = (b"application/json", b"text/plain")


class Made(Struct):
    """The answer to a new session; `expires_at` is the token's end in ms since the epoch."""

    session_id: str
    trace_id: str
    token: str
    traceparent: str
    events_url: str
    expires_at: int


class RejectedEvent(Struct):
    """Which event of the batch, from 0, and what is wrong with it."""

    index: int
    error: str


class Verdict(Struct):
    """How many events are committed, and which are not."""

    accepted: int
    rejected: list[RejectedEvent]


class Receiver:
    """`content` says what of an event is stored; without it all is. `public_url` is where pages reach this; without it,
    the address by which the app asks."""

    def __init__(
        self,
        sessions: Sessions,
        store: Store,
        tokens: Tokens,
        gate: Gate,
        load: Load,
        clock: Callable[[], float],
        content: Content | None = None,
        public_url: str | None = None,
    ) -> None:
        self._sessions, self._store, self._tokens = sessions, store, tokens
        self._gate, self._load, self._clock, self._content = gate, load, clock, content
        self._public_url = public_url
        self._limits = Limits()

    def routes(self) -> list[Route]:
        return [
            Route("/v1/sessions", self.create, methods=["POST"]),
            # `front` takes it first, unless this application is mounted in another.
            Route("/v1/sessions/{id}/events", self.events, methods=["POST"]),
            Route("/v1/sessions/{id}/end", self.end, methods=["POST"]),
            Route("/v1/sessions/{id:session}", self.erase, methods=["DELETE"]),
        ]

    async def create(self, request: Request) -> Response:
        """Makes a session, or a fresh token for one that exists.

        The app's backend asks, beside the provider's own token, and hands the whole answer to its page. What is said
        first of a session holds. Without a body all is left to the receiver."""
        headers = headers_of(request.scope)
        self._gate.app_only(headers)
        with self._load.request() as hand:
            return await self._create(request, await body_of(headers, request.receive, BATCH_TYPES[:1], hand))

    async def _create(self, request: Request, body: bytes) -> Response:
        new = _new_session(body)
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
            events_url=self._events_url(request, session_id),
            expires_at=int(expires_at) * 1000,
        )
        return JSON(made, 201, {"cache-control": "no-store"})

    def _events_url(self, request: Request, session_id: str) -> str:
        if self._public_url is None:
            return str(request.url_for("events", id=session_id))
        return f"{self._public_url}{request.app.url_path_for('events', id=session_id)}"

    async def events(self, request: Request) -> Response:
        """Takes a batch of events.

        204: all are committed to the store. 200: some are, and the verdict names the others. 422: none could be taken.
        With any other answer nothing of it was stored; after 429 and 503 send it again, once Retry-After says. Events
        that come twice (the same `source` and `seq`) count once. A page sends it as text/plain with the token in the
        body: that needs no preflight, and a beacon can do it. An empty batch asks only for the receiver's time."""
        scope = request.scope
        verdict = await self.take(request.path_params["id"], headers_of(scope), request.receive, scope.get("client"))
        return answer(verdict) or Response(status_code=204)

    async def take(self, session_id: str, headers: Headers, receive: Receive, client: Address) -> Verdict:
        """A batch of events. Raises Rejected, Unavailable, Busy or UsedUp, and has taken nothing."""
        self._limits.address(client)
        if not self._sessions.is_open(session_id):
            session_id = canonical(session_id)
        with self._load.request() as hand:
            body = await body_of(headers, receive, BATCH_TYPES, hand)
            envelope = self._envelope(headers, body, session_id)
            self._limits.session(session_id)
            self._admit()
            batch, events, rejected = self._sort(envelope, body.isascii())
            self._sessions.refused += len(rejected)
            if batch.events or batch.refused:
                await self._sessions.accept(session_id, batch, events)
            return Verdict(len(batch.events), rejected)

    def _envelope(self, headers: Headers, body: bytes, session_id: str) -> e.Envelope:
        """For whom the session's token says that it may. Raises Rejected: 400, 401, 403, 413."""
        found = bearer(headers)
        envelope = e.plain_envelope(body)
        if envelope is not None:
            self._gate.page(found or envelope.token, session_id)
            return envelope
        # Whoever may not gets no more work out of us than a search for a token.
        tokens = [found] if found else bodies.tokens_in(body)
        if not any(self._gate.fits(token, session_id) for token in tokens):
            if not tokens:
                check_json(body)
            self._gate.page(tokens[0] if tokens else None, session_id)
        return decode_envelope(body)

    def _sort(
        self, envelope: e.Envelope, is_ascii: bool = False
    ) -> tuple[e.Accepted, list[e.WireEvent], list[RejectedEvent]]:
        """What is taken, reduced to what may be kept, and a verdict for each event that is not."""
        batch = e.Accepted([], envelope.source, envelope.clock)
        events: list[e.WireEvent] = []
        rejected: list[RejectedEvent] = []
        offset = envelope.clock.offset if envelope.clock else 0.0
        latest = self._clock() * 1000 + AHEAD_MS
        for index, raw in enumerate(envelope.events):
            try:
                bodies.check(raw, is_ascii)
                kept, event = _taken(raw, offset, latest, self._content)
            except bodies.Refused as refused:
                rejected.append(RejectedEvent(index, str(refused)))
                if (seq := e.seq_of(raw)) is not None:
                    batch.refused.append(seq)
            else:
                batch.events.append(kept)
                events.append(event)
        return batch, events, rejected

    def _admit(self) -> None:
        if (why := self._store.refuses) is not None:
            raise Rejected(503, f"{why}; send it again", retry_after=2)

    async def end(self, request: Request) -> Response:
        """Ends a session.

        By its page, or by the app. Ending it twice does no harm; its last spans are final some four seconds later. A
        session ends by itself, too, when nothing comes for long."""
        session_id = canonical(request.path_params["id"])
        headers = headers_of(request.scope)
        if not self._gate.has_key(headers):
            self._limits.address(request.scope.get("client"))
        with self._load.request() as hand:
            return await self._end(headers, await body_of(headers, request.receive, BATCH_TYPES, hand), session_id)

    async def _end(self, headers: Headers, body: bytes, session_id: str) -> Response:
        ending = decoded(body or b"{}", e.EndRequest)
        by_page = self._gate.page_or_app(headers, bearer(headers) or ending.token, session_id)
        if by_page:
            self._limits.session(session_id)
        summary = await self._sessions.summary(session_id)
        if summary is None and not by_page:
            raise Rejected(404, f"session {session_id} is not known")
        if summary is None or _goes_on(summary, ending.reason):
            self._admit()
            await self._sessions.accept(session_id, e.Ended(ending.reason, ending.last_seq, ending.source))
            summary = await self._sessions.summary(session_id)
        return JSON(summary)

    async def erase(self, request: Request) -> Response:
        """Erases a session: log, spans and summary.

        What was sent on is not erased, and a page that still posts makes the session anew."""
        self._gate.app_only(headers_of(request.scope))
        session_id = canonical(request.path_params["id"])
        if not await self._sessions.erase(session_id):
            raise Rejected(404, f"session {session_id} is not known")
        return Response(status_code=204)


def answer(verdict: Verdict) -> Response | None:
    """None is 204: all was taken."""
    return JSON(verdict, 200 if verdict.accepted else 422) if verdict.rejected else None


def _goes_on(summary: Summary, reason: str) -> bool:
    """Whether an end for this reason is news: a firm one is, where the page has only gone away."""
    return summary.status == "open" or (summary.status == "closing" and reason not in PROVISIONAL)


def _new_session(body: bytes) -> e.NewSession:
    new = decoded(body or b"{}", e.NewSession)
    try:
        e.check_names(new.metadata or {}, "metadata")
    except bodies.Refused as refused:
        raise Rejected(422, str(refused)) from None
    return new


def _taken(raw: Raw, offset: float, latest: float, content: Content | None) -> tuple[Raw, e.WireEvent]:
    """An event as it is logged, and decoded. Raises Refused."""
    event = e.decode_event(raw)
    if event.ts is not None and not e.EARLIEST_MS <= event.ts + offset <= latest:
        late = event.ts + offset > latest
        raise bodies.Refused(
            "ts: it lies more than a day in the future"
            if late
            else "ts: it lies before the year 2000; it is in milliseconds since the epoch"
        )
    if isinstance(event, e.ProviderMessage):
        event.message = allow.reduce(event.provider, event.dir, event.message) or {}
        if len(raw) > LISTED and allow.longest(event.provider, event.dir, event.message) > LISTED:
            raise bodies.Refused(f"message: it has a list of more than {LISTED}")
        raw = Raw(e.encode(event)) if content is None else raw
    elif isinstance(event, e.Mark):
        e.check_names(event.attributes, "attributes")
    if content is not None:
        content.treat(event)
        # Encoded anew, it has no field that nobody knows and nobody has treated.
        raw = Raw(e.encode(event))
    return raw, event


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
