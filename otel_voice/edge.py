"""The edge: who may come in, how much of a body is read, and what an error looks like. Status codes as data."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import zlib
from collections.abc import Callable, Iterator
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from otel_voice import spans
from otel_voice.settings import LOOPBACK, Settings
from otel_voice.tokens import Invalid, Tokens

TIME_HEADER = "x-otel-voice-time"
# A page's batch is a few kB; a day's leftovers of one page still fit.
BODY_BYTES = 2**20
INFLATED_BYTES = 2 * 2**20
# A body takes no longer, or its sender is not sending.
BODY_S = 30.0
# Bodies in memory, in all.
IN_HAND_BYTES = 128 * 2**20
# Requests that wait for their commit and answer, and what is in them: whoever came on top of these would wait for some
# half a second, and is told to come again instead.
UNDER_WAY = 256
UNDER_WAY_BYTES = 512 * 2**10


class Rejected(Exception):
    """An answer other than 2xx: a status and one sentence."""

    def __init__(self, status: int, error: str, retry_after: int | None = None) -> None:
        super().__init__(error)
        self.status, self.error, self.retry_after = status, error, retry_after


class JSON(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


def rejection(_: Request, error: Exception) -> Response:
    rejected = cast("Rejected", error)
    headers = {} if rejected.retry_after is None else {"retry-after": str(rejected.retry_after)}
    if rejected.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSON({"error": rejected.error}, rejected.status, headers)


# How much


class Load:
    """What all requests together hold."""

    def __init__(self, body_s: float = BODY_S) -> None:
        self.body_s = body_s
        self.bytes = self.under_way = self.under_way_bytes = 0

    @property
    def is_too_much(self) -> bool:
        return self.under_way >= UNDER_WAY or self.under_way_bytes > UNDER_WAY_BYTES or self.bytes > IN_HAND_BYTES

    @contextlib.contextmanager
    def request(self) -> Iterator[InHand]:
        """One request's part of it, as long as it lasts. Raises Rejected: 503, early, before anything is read."""
        if self.is_too_much:
            raise Rejected(503, "the receiver has too much to do; send it again", retry_after=1)
        part = InHand(self)
        try:
            yield part
        finally:
            part.release()


class InHand:
    def __init__(self, load: Load) -> None:
        self._load, self._bytes, self._read = load, 0, False
        self.body_s = load.body_s

    def take(self, size: int) -> None:
        """So many bytes more. Raises Rejected: 503."""
        self._load.bytes += size
        self._bytes += size
        if self._load.bytes > IN_HAND_BYTES:
            raise Rejected(503, "the receiver has too much to do; send it again", retry_after=1)

    def work(self) -> None:
        """The body is here: from now on it is us the sender waits for."""
        self._load.under_way += 1
        self._load.under_way_bytes += self._bytes
        self._read = True

    def release(self) -> None:
        self._load.bytes -= self._bytes
        if self._read:
            self._load.under_way -= 1
            self._load.under_way_bytes -= self._bytes


# Bodies


async def body_of(request: Request, types: tuple[str, ...], hand: InHand) -> bytes:
    """The body, inflated, read no further than the limits. Raises Rejected: 400, 408, 413, 415, 503."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        raise Rejected(415, "content-encoding: must be gzip or none")
    body = await _read(request, hand)
    type_ = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if body and type_ not in types:
        raise Rejected(415, f"content-type: must be {' or '.join(types)}")
    if encoding == "gzip" and body:
        body = _inflate(body)
        hand.take(len(body))
    hand.work()
    return body


async def _read(request: Request, hand: InHand) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(hand.body_s):
            async for chunk in request.stream():
                hand.take(len(chunk))
                body += chunk
                if len(body) > BODY_BYTES:
                    raise Rejected(413, f"body: at most {BODY_BYTES} bytes")
    except TimeoutError:
        raise Rejected(408, f"body: it was not there within {hand.body_s:g} s") from None
    except ClientDisconnect:
        # Nobody reads this answer; it keeps a page that went away out of the log of errors.
        raise Rejected(400, "body: the connection ended before it did") from None
    return bytes(body)


def _inflate(body: bytes) -> bytes:
    inflater = zlib.decompressobj(31)
    try:
        inflated = inflater.decompress(body, INFLATED_BYTES + 1)
    except zlib.error:
        raise Rejected(400, "body: it is not gzip, as content-encoding says") from None
    if len(inflated) > INFLATED_BYTES:
        raise Rejected(413, f"body: at most {INFLATED_BYTES} bytes when inflated")
    if not inflater.eof:
        raise Rejected(400, "body: the gzip ends too early")
    if inflater.unused_data:
        raise Rejected(400, "body: something follows the gzip")
    return inflated


# Who


def canonical(session_id: str) -> str:
    """A path's session id in its one form. Raises Rejected."""
    try:
        return spans.session_id(session_id)
    except ValueError as error:
        raise Rejected(422, str(error)) from None


def bearer(request: Request) -> str | None:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    return value.strip() or None if scheme.lower() == "bearer" else None


class Gate:
    """Decides by key and token. Without a key the server is bound to loopback, and whoever reaches it is the app."""

    def __init__(self, settings: Settings, tokens: Tokens, clock: Callable[[], float]) -> None:
        self._key, self._tokens, self._clock = settings.api_key, tokens, clock

    def is_app(self, request: Request) -> bool:
        if self._key is None:
            return True
        # A header is read as Latin-1, whatever its bytes meant.
        return hmac.compare_digest((bearer(request) or "").encode("latin-1"), self._key.encode())

    def app_only(self, request: Request) -> None:
        """Raises Rejected: 401; 403 for a page, whose token is good but not for this."""
        if self.is_app(request):
            return
        try:
            self._tokens.session_of(bearer(request) or "", self._clock())
        except Invalid:
            sentence = "authorization: this needs the API key, as `Bearer` followed by OTEL_VOICE_API_KEY"
            raise Rejected(401, sentence) from None
        raise Rejected(403, "authorization: a session's token does not open this; it needs the API key")

    def page(self, token: str | None, session_id: str) -> None:
        """The token must be for this session. Raises Rejected: 401, 403."""
        if not token:
            raise Rejected(401, "token: it is missing; send it as Bearer or as `token` in the body")
        try:
            owner = self._tokens.session_of(token, self._clock())
        except Invalid as invalid:
            raise Rejected(401, str(invalid)) from None
        if owner != session_id:
            raise Rejected(403, "token: it is for another session")

    def fits(self, token: str, session_id: str) -> bool:
        try:
            self.page(token, session_id)
        except Rejected:
            return False
        return True

    def page_or_app(self, request: Request, token: str | None, session_id: str) -> bool:
        """The app by its key (on loopback without one, by not being a page with a token), or the page by its token.

        True when it is the page. Raises Rejected: 401, 403."""
        if token is None and self._key is None:
            return False
        if self._key is not None and self.is_app(request):
            return False
        self.page(token, session_id)
        return True


class HostCheck:
    """Without a key, only names of this machine may be asked for (a foreign name that resolves here is a rebinding),
    and only by pages of this machine or of an allowed origin. Every answer gets the server's time."""

    def __init__(self, app: ASGIApp, settings: Settings, clock: Callable[[], float]) -> None:
        self.app, self._clock = app, clock
        self._check = settings.api_key is None
        self._origins = settings.allowed_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        arrived = self._clock()

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (TIME_HEADER.encode(), b"%.3f" % (arrived * 1000))]
            await send(message)

        if self._check and (error := self._stranger(Headers(scope=scope))):
            await JSON({"error": error}, 403)(scope, receive, timed)
            return
        await self.app(scope, receive, timed)

    def _stranger(self, headers: Headers) -> str | None:
        if not _is_local(headers.get("host", "")):
            return "host: without an API key this server answers on loopback names only"
        origin = headers.get("origin")
        if origin is None or origin in self._origins or _is_local(origin.partition("://")[2]):
            return None
        return "origin: pages of this origin may not ask; list it in OTEL_VOICE_ALLOWED_ORIGINS"


def _is_local(host: str) -> bool:
    try:
        return urlsplit(f"//{host}").hostname in LOOPBACK
    except ValueError:
        return False
