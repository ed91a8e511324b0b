"""The edge: who may come in, how much of a body is read, and what an error looks like. Status codes as data."""

from __future__ import annotations

import asyncio
import hmac
import math
import re
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Annotated, Any, cast

import msgspec
from msgspec import Meta, Struct
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request, cookie_parser
from starlette.responses import Response
from starlette.types import Message, Receive, Scope
from throttled import RateLimiterType, Throttled, rate_limiter, store

from otel_voice import spans
from otel_voice.settings import Settings
from otel_voice.tokens import Invalid, Tokens, ViewerTokens

# Names are in lower case.
Headers = Mapping[bytes, bytes]
# Host and port, as the server or the proxy before it names them.
Address = tuple[str, int] | None

# A viewer's.
COOKIE = "otel_voice_viewer"
TIME_HEADER = "x-otel-voice-time"
_TIME_HEADER = TIME_HEADER.encode()
# What a browser must not do with an answer, whoever made it ask.
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
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
UNDER_WAY_BYTES = 4 * 2**20
# Each may hold 64 KiB in the server's buffers.
CONNECTIONS = 5_000
# Requests a minute, and at once after a quiet minute. A page posts once a second at most; a client written by hand, an
# event a request, has some hundred for the longest calls.
SESSION_REQUESTS = 600
# An office's pages share an address.
ADDRESS_REQUESTS = 6_000
# Nobody types a token faster.
LOGINS = 20
# As many sessions as are held in memory, and as many addresses. On top of them the one not seen for the longest starts
# anew.
LIMITED = 20_000
# The longest address; what a proxy takes over from a header may be longer.
_ADDRESS_CHARS = 64


class Rejected(Exception):
    """An answer other than 2xx: a status and one sentence."""

    def __init__(self, status: int, error: str, retry_after: int | None = None, closes: bool = False) -> None:
        super().__init__(error)
        self.status, self.error, self.retry_after, self.closes = status, error, retry_after, closes


class Refusal(Struct):
    """The body of every answer that is none of 2xx."""

    error: Annotated[
        str, Meta(description="One sentence; it begins with the field, the header or the part that is wrong.")
    ]


class JSON(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


def rejection(_: Request, error: Exception) -> Response:
    rejected = cast("Rejected", error)
    headers = {} if rejected.retry_after is None else {"retry-after": str(rejected.retry_after)}
    if rejected.status == 401:
        headers["www-authenticate"] = "Bearer"
    if rejected.closes:
        headers["connection"] = "close"
    return JSON(Refusal(rejected.error), rejected.status, headers)


# How much


class Load:
    """What all requests together hold. `connections` says how many the server has."""

    def __init__(self, body_s: float = BODY_S) -> None:
        self.body_s = body_s
        self.connections: Callable[[], int] = lambda: 0
        self.bytes = self.under_way = self.under_way_bytes = 0
        # Those that wait for their bodies, the longest first, and until when they may.
        self._reading: dict[asyncio.Task[Any], float] = {}
        self._overdue = set[asyncio.Task[Any]]()

    @property
    def is_too_much(self) -> bool:
        return self.under_way >= UNDER_WAY or self.under_way_bytes > UNDER_WAY_BYTES or self.bytes > IN_HAND_BYTES

    def request(self) -> InHand:
        """One request's part of it, as long as it lasts. Raises Rejected: 503, early, before anything is read."""
        if self.connections() > CONNECTIONS:
            said = f"the receiver has more than {CONNECTIONS} connections; send it again"
            raise Rejected(503, said, retry_after=1, closes=True)
        if self.is_too_much:
            raise Rejected(503, "the receiver has too much to do; send it again", retry_after=1)
        return InHand(self)

    def start_reading(self) -> asyncio.Task[Any]:
        """Until `stop_reading`; `watch` cancels what takes too long, for a timer each costs as much as decoding."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._reading[task] = asyncio.get_running_loop().time() + self.body_s
        return task

    def stop_reading(self, task: asyncio.Task[Any]) -> None:
        del self._reading[task]
        self._overdue.discard(task)

    def is_overdue(self, task: asyncio.Task[Any]) -> bool:
        return task in self._overdue

    async def watch(self) -> None:
        """Ends what reads for too long, for ever."""
        while True:
            await asyncio.sleep(min(1.0, self.body_s / 4))
            now = asyncio.get_running_loop().time()
            for task in [task for task, until in self._reading.items() if until <= now]:
                self._overdue.add(task)
                task.cancel()


class InHand:
    def __init__(self, load: Load) -> None:
        self.load, self._bytes, self._read = load, 0, False

    def __enter__(self) -> InHand:
        return self

    def __exit__(self, *raised: object) -> None:
        self.release()

    def take(self, size: int) -> None:
        """So many bytes more. Raises Rejected: 503."""
        self.load.bytes += size
        self._bytes += size
        if self.load.bytes > IN_HAND_BYTES:
            raise Rejected(503, "the receiver has too much to do; send it again", retry_after=1)

    def work(self) -> None:
        """The body is here: from now on it is us the sender waits for."""
        self.load.under_way += 1
        self.load.under_way_bytes += self._bytes
        self._read = True

    def release(self) -> None:
        self.load.bytes -= self._bytes
        if self._read:
            self.load.under_way -= 1
            self.load.under_way_bytes -= self._bytes


class Limits:
    """How often a page may call, by its session and by its address."""

    def __init__(self) -> None:
        self._session, self._address = _limiter(SESSION_REQUESTS), _limiter(ADDRESS_REQUESTS)
        self._login = _limiter(LOGINS)

    def session(self, session_id: str) -> None:
        """Only for whoever has its token, or a stranger would use it up. Raises Rejected: 429."""
        result = self._session.limit(session_id)
        if result.limited:
            said = f"this session has sent more than {SESSION_REQUESTS} requests in a minute; send it again"
            raise Rejected(429, said, _seconds(result))

    def address(self, client: Address) -> None:
        """Raises Rejected: 429, early, before anything is read."""
        if client is None or (key := limited_as(client[0][:_ADDRESS_CHARS])) is None:
            return
        result = self._address.limit(key)
        if result.limited:
            said = f"this address has sent more than {ADDRESS_REQUESTS} requests in a minute; send it again"
            raise Rejected(429, said, _seconds(result))

    def login(self, client: Address) -> None:
        """Of this machine's addresses, too. Raises Rejected: 429."""
        host = client[0][:_ADDRESS_CHARS] if client else ""
        result = self._login.limit(limited_as(host) or "this machine")
        if result.limited:
            raise Rejected(429, f"token: this address has tried {LOGINS} in a minute", _seconds(result))


def _limiter(requests: int) -> rate_limiter.BaseRateLimiter:
    """By GCRA: a number for each key, and no thread."""
    kept = store.MemoryStore(options={"MAX_SIZE": LIMITED})
    quota = rate_limiter.per_min(requests, burst=requests)
    return Throttled(using=RateLimiterType.GCRA.value, quota=quota, store=kept).limiter


def _seconds(result: rate_limiter.RateLimitResult) -> int:
    return max(1, math.ceil(result.state.retry_after))


@lru_cache(4096)
def limited_as(host: str) -> str | None:
    """What an address counts as: one of IPv6 as its network, of which a customer has all. None is not limited: behind
    a proxy on this machine that does not say for whom it asks, loopback is everybody."""
    try:
        address = ip_address(host)
    except ValueError:
        return host or None
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    if address.is_loopback:
        return None
    return address.exploded[:19] if isinstance(address, IPv6Address) else str(address)


# Bodies


def headers_of(scope: Scope) -> Headers:
    return dict(scope["headers"])


def time_header(clock: float) -> tuple[bytes, bytes]:
    return _TIME_HEADER, b"%.3f" % (clock * 1000)


async def body_of(
    headers: Headers,
    receive: Receive,
    types: tuple[bytes, ...],
    hand: InHand,
    most: tuple[int, int] = (BODY_BYTES, INFLATED_BYTES),
    waits: bool = True,
) -> bytes:
    """The body, inflated, read no further than the limits (`most`: as it comes, and inflated); of any type where none
    is named. With `waits` it counts among what is under way, which others are refused for. Raises Rejected: 400, 408,
    413, 415, 503."""
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"identity", b"gzip"):
        raise Rejected(415, "content-encoding: must be gzip or none")
    body = await _read(receive, hand, most[0])
    type_ = headers.get(b"content-type", b"")
    if body and types and type_ not in types and type_.partition(b";")[0].strip().lower() not in types:
        raise Rejected(415, f"content-type: must be {b' or '.join(types).decode()}")
    if encoding == b"gzip" and body:
        body = _inflate(body, most[1])
        hand.take(len(body))
    if waits:
        hand.work()
    return body


async def _read(receive: Receive, hand: InHand, most: int) -> bytes:
    task = hand.load.start_reading()
    try:
        message = await receive()
        body = _chunk(message, hand)
        if message.get("more_body"):
            body = await _rest(bytearray(body), receive, hand, most)
    except asyncio.CancelledError:
        if hand.load.is_overdue(task):
            task.uncancel()
            raise Rejected(408, f"body: it was not there within {hand.load.body_s:g} s") from None
        raise
    finally:
        hand.load.stop_reading(task)
    if len(body) > most:
        raise Rejected(413, f"body: at most {most} bytes")
    return body


async def _rest(body: bytearray, receive: Receive, hand: InHand, most: int) -> bytes:
    more = True
    while more and len(body) <= most:
        message = await receive()
        body += _chunk(message, hand)
        more = message.get("more_body", False)
    return bytes(body)


def _chunk(message: Message, hand: InHand) -> bytes:
    if message["type"] == "http.disconnect":
        # Nobody reads this answer; it keeps a page that went away out of the log of errors.
        raise Rejected(400, "body: the connection ended before it did")
    chunk: bytes = message.get("body", b"")
    hand.take(len(chunk))
    return chunk


def _inflate(body: bytes, most: int = INFLATED_BYTES) -> bytes:
    inflater = zlib.decompressobj(31)
    try:
        inflated = inflater.decompress(body, most + 1)
    except zlib.error:
        raise Rejected(400, "body: it is not gzip, as content-encoding says") from None
    if len(inflated) > most:
        raise Rejected(413, f"body: at most {most} bytes when inflated")
    if not inflater.eof:
        raise Rejected(400, "body: the gzip ends too early")
    if inflater.unused_data:
        raise Rejected(400, "body: something follows the gzip")
    return inflated


# Who


class SessionName(StringConvertor):
    """What may be a session's id where other routes have names."""

    regex = rf"(?!(?:{'|'.join(map(re.escape, spans.ELSE))})$)[^/]+"


register_url_convertor("session", SessionName())


def canonical(session_id: str) -> str:
    """A path's session id in its one form. Raises Rejected."""
    try:
        return spans.session_id(session_id)
    except ValueError as error:
        raise Rejected(422, str(error)) from None


def bearer(headers: Headers) -> str | None:
    # A header is read as Latin-1, whatever its bytes meant.
    if (found := headers.get(b"authorization")) is None:
        return None
    scheme, _, value = found.decode("latin-1").partition(" ")
    return value.strip() or None if scheme.lower() == "bearer" else None


def cookie(headers: Headers) -> str | None:
    return cookie_parser(headers.get(b"cookie", b"").decode("latin-1")).get(COOKIE)


def is_same_origin(headers: Headers) -> bool:
    """By what a browser says of the page that asks, or of who else does: a page of another origin sends it, too, and
    cannot leave it out. An address that was typed is nobody's page."""
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is not None:
        return site in (b"same-origin", b"none")
    return origin is None or origin.partition(b"://")[2] == headers.get(b"host")


class Gate:
    """Decides by key, token and cookie. Without a key the server is bound to loopback, and whoever reaches it is the
    app."""

    def __init__(
        self, settings: Settings, tokens: Tokens, clock: Callable[[], float], viewers: ViewerTokens | None = None
    ) -> None:
        self._key, self._tokens, self._clock, self._viewers = settings.api_key, tokens, clock, viewers

    def has_key(self, headers: Headers) -> bool:
        return self._key is not None and hmac.compare_digest(
            (bearer(headers) or "").encode("latin-1"), self._key.encode()
        )

    def is_app(self, headers: Headers) -> bool:
        return self._key is None or self.has_key(headers)

    def is_viewer(self, headers: Headers) -> bool:
        """By its cookie. Raises Rejected: 403 where a page of another origin makes use of that."""
        said = cookie(headers) if self._viewers is not None and b"authorization" not in headers else None
        if self._viewers is None or said is None or not self._viewers.is_good(said, self._clock()):
            return False
        if not is_same_origin(headers):
            raise Rejected(403, "cookie: pages of another origin may not make use of it")
        return True

    def reader(self, headers: Headers) -> None:
        """Whoever may see calls: the app, or a viewer. Raises Rejected: 401, 403."""
        if not self.is_app(headers) and not self.is_viewer(headers):
            self.app_only(headers)

    def app_only(self, headers: Headers) -> None:
        """Raises Rejected: 401; 403 for a page, whose token is good but not for this."""
        if self.is_app(headers):
            return
        try:
            self._tokens.session_of(bearer(headers) or "", self._clock())
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

    def page_or_app(self, headers: Headers, token: str | None, session_id: str) -> bool:
        """The app by its key (on loopback without one, by not being a page with a token), or the page by its token.

        True when it is the page. Raises Rejected: 401, 403."""
        if token is None and self._key is None:
            return False
        if self._key is not None and self.is_app(headers):
            return False
        self.page(token, session_id)
        return True
