"""Logins: the operator's viewer token for a cookie that opens what viewers may read, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from otel_voice import bodies
from otel_voice.edge import COOKIE, Limits, Load, Rejected, body_of, cookie, headers_of, is_same_origin
from otel_voice.settings import LOOPBACK
from otel_voice.tokens import ViewerTokens

# A working day.
COOKIE_S = 12 * 3600
TYPES = (b"application/json",)


class Login(Struct):
    """For whom the pages are."""

    token: Annotated[str, Meta(description="The value of OTEL_VOICE_VIEWER_TOKEN.")]


class Logins:
    """Without `viewers` there is no viewer token, and nobody to log in."""

    def __init__(self, viewers: ViewerTokens | None, load: Load, clock: Callable[[], float]) -> None:
        self._viewers, self._load, self._clock, self._limits = viewers, load, clock, Limits()

    def routes(self) -> list[Route]:
        return [
            Route("/v1/viewer/login", self.login, methods=["POST"]),
            Route("/v1/viewer/logout", self.logout, methods=["POST"]),
        ]

    async def login(self, request: Request) -> Response:
        """Gives a viewer's cookie for the viewer token.

        For twelve hours it opens what viewers may read, to pages of this origin alone."""
        headers = headers_of(request.scope)
        _own_pages_only(request)
        self._limits.login(request.scope.get("client"))
        with self._load.request() as hand:
            said = _token_in(await body_of(headers, request.receive, TYPES, hand))
        if self._viewers is None:
            raise Rejected(404, "token: no viewer may log in here; the operator sets OTEL_VOICE_VIEWER_TOKEN")
        if not self._viewers.is_secret(said):
            raise Rejected(401, "token: it is not the viewer token, OTEL_VOICE_VIEWER_TOKEN")
        return _with_cookie(request, self._viewers.mint(self._clock() + COOKIE_S), COOKIE_S)

    async def logout(self, request: Request) -> Response:
        """Takes the viewer's cookie away."""
        _own_pages_only(request)
        if self._viewers is not None and (said := cookie(headers_of(request.scope))) is not None:
            self._viewers.end(said, self._clock())
        return _with_cookie(request, "", 0)


def _own_pages_only(request: Request) -> None:
    if not is_same_origin(headers_of(request.scope)):
        raise Rejected(403, "origin: pages of another origin may not log anybody in or out")


def _token_in(body: bytes) -> str:
    try:
        return bodies.decode(body, Login).token
    except bodies.NotJSON as error:
        raise Rejected(400, str(error)) from None
    except bodies.Refused as error:
        raise Rejected(422, str(error)) from None


def _with_cookie(request: Request, value: str, seconds: int) -> Response:
    response = Response(status_code=204, headers={"cache-control": "no-store"})
    # A proxy may speak plainly to us and name us as it likes: the page's origin is what the browser goes by. On this
    # machine there is no TLS, and no network that the cookie would cross.
    page = urlsplit(request.headers.get("origin") or str(request.url))
    secure = page.scheme == "https" or page.hostname not in LOOPBACK
    response.set_cookie(COOKIE, value, max_age=seconds, path="/", secure=secure, httponly=True, samesite="strict")
    return response
