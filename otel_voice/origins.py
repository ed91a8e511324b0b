"""Where a request may come from: the host it asks for, and the origin of the page that asks."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from otel_voice.edge import JSON, SECURITY_HEADERS, TIME_HEADER, Headers, Refusal, headers_of, time_header
from otel_voice.settings import LOOPBACK, Settings

LOOPBACK_ORIGINS = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
# Longer ones are nobody's, and are not kept.
REMEMBERED = 512
EXPOSED = f"{TIME_HEADER}, retry-after"
# As long as Chromium goes; others stop at their own limit.
PREFLIGHT_S = 7_200
# A page whose origin may read asks by CORS, which this does not touch. It keeps what a loopback server tells out of
# other pages' processes, where it could get as an image or a script; and conversations out of every cache.
_SECURITY = (
    *SECURITY_HEADERS,
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


class Origins:
    """Without a key, only names of this machine may be asked for (a foreign name that resolves here is a rebinding),
    and only by pages of this machine or of an allowed origin."""

    def __init__(self, settings: Settings) -> None:
        self._loopback_only = settings.api_key is None
        self._allowed = settings.allowed_origins
        self._stranger = lru_cache(1024)(self._why_stranger)
        self._cors = lru_cache(1024)(self._cors_headers)
        self._may_read: dict[str, Any] = {
            "allow_origins": settings.allowed_origins,
            "allow_origin_regex": LOOPBACK_ORIGINS if self._loopback_only else None,
        }
        self._is_allowed = CORSMiddleware(_nowhere, **self._may_read).is_allowed_origin

    def stranger(self, headers: Headers) -> str | None:
        """Why nobody from there may ask, in one sentence."""
        if not self._loopback_only:
            return None
        host, origin = headers.get(b"host", b""), headers.get(b"origin")
        if origin is None and headers.get(b"sec-fetch-site") == b"cross-site" and not _navigates(headers):
            return "origin: pages of other sites may not ask"
        why = self._stranger if len(host) + len(origin or b"") <= REMEMBERED else self._why_stranger
        return why(host, origin)

    def _why_stranger(self, host: bytes, origin: bytes | None) -> str | None:
        if not _is_local(host.decode("latin-1")):
            return "host: without an API key this server answers on loopback names only"
        page = None if origin is None else origin.decode("latin-1")
        if page is None or page in self._allowed or _is_local(page.partition("://")[2]):
            return None
        return "origin: pages of this origin may not ask; list it in OTEL_VOICE_ALLOWED_ORIGINS"

    def cors(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """What an answer needs so that a page may read it; `middleware` says the same on every other route."""
        origin = headers.get(b"origin")
        if origin is None:
            return []
        return self._cors(origin) if len(origin) <= REMEMBERED else self._cors_headers(origin)

    def _cors_headers(self, origin: bytes) -> list[tuple[bytes, bytes]]:
        said = [(b"vary", b"Origin"), (b"access-control-expose-headers", EXPOSED.encode())]
        if self._is_allowed(origin.decode("latin-1")):
            said.append((b"access-control-allow-origin", origin))
        return said

    def middleware(self) -> Middleware:
        return Middleware(
            CORSMiddleware,
            **self._may_read,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "content-encoding"],
            expose_headers=EXPOSED.split(", "),
            max_age=PREFLIGHT_S,
        )


class HostCheck:
    """Turns strangers away; every answer gets the server's time, and the security headers that it does not set."""

    def __init__(self, app: ASGIApp, origins: Origins, clock: Callable[[], float]) -> None:
        self.app, self._origins, self._clock = app, origins, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        time = time_header(self._clock())

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                said = message.get("headers", [])
                names = {name for name, _ in said}
                message["headers"] = [*said, time, *(each for each in _SECURITY if each[0] not in names)]
            await send(message)

        if error := self._origins.stranger(headers_of(scope)):
            await JSON(Refusal(error), 403)(scope, receive, timed)
            return
        await self.app(scope, receive, timed)


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    """Nobody calls it."""


def _navigates(headers: Headers) -> bool:
    """Somebody follows a link, which tells the page that it is on nothing."""
    return headers.get(b"sec-fetch-mode") == b"navigate"


def _is_local(host: str) -> bool:
    try:
        return urlsplit(f"//{host}").hostname in LOOPBACK
    except ValueError:
        return False
