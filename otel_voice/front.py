"""The one route that every event takes, as plain ASGI: Starlette's layers are a third of what a bare route costs.

It does what they do on the other routes: the host and the origin are looked at, an answer says the server's time and
which pages may read it and what a browser must not do with it, and exceptions become answers by the same table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from otel_voice.edge import JSON, SECURITY_HEADERS, Refusal, headers_of, time_header
from otel_voice.origins import Origins
from otel_voice.receiver import Receiver, answer

BEFORE, AFTER = "/v1/sessions/", "/events"
# A beacon may be sent from anywhere, and asks for nobody's leave: `same-origin` would only fill its page's console.
_SECURITY = (*SECURITY_HEADERS, (b"cross-origin-resource-policy", b"cross-origin"))

Table = Mapping[Any, Callable[[Request, Exception], Response]]


def session_in(scope: Scope) -> str | None:
    """The session that a POST of events names, None for any other request."""
    path: str = scope["path"]
    if scope["type"] != "http" or scope["method"] != "POST" or not path.endswith(AFTER) or not path.startswith(BEFORE):
        return None
    session_id = path[len(BEFORE) : -len(AFTER)]
    return None if "/" in session_id else session_id or None


def response_to(error: Exception, request: Request, exceptions: Table) -> Response:
    """By the table's entry for its kind or the nearest above it."""
    kind = next(kind for kind in type(error).__mro__ if kind in exceptions)
    return exceptions[kind](request, error)


class Front:
    def __init__(self, receiver: Receiver, origins: Origins, clock: Callable[[], float], exceptions: Table) -> None:
        self._receiver, self._origins, self._clock, self._exceptions = receiver, origins, clock, exceptions
        self._expected = tuple(exceptions)

    async def __call__(self, session_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        added = [time_header(self._clock()), *_SECURITY, *self._origins.cors(headers)]
        try:
            if error := self._origins.stranger(headers):
                response: Response | None = JSON(Refusal(error), 403)
            else:
                response = answer(await self._receiver.take(session_id, headers, receive, scope.get("client")))
        except self._expected as raised:
            response = response_to(raised, Request(scope), self._exceptions)
        if response is None:
            await send({"type": "http.response.start", "status": 204, "headers": added})
            await send({"type": "http.response.body", "body": b""})
        else:
            response.raw_headers += added
            await response(scope, receive, send)
