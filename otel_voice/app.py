"""create_app(settings): routes, lifespan, the exception table."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from otel_voice import __version__
from otel_voice.content import content
from otel_voice.edge import JSON, Gate, Load, Refusal, Rejected, rejection
from otel_voice.exporter import Exporter, client
from otel_voice.front import Front, Table, session_in
from otel_voice.links import Links
from otel_voice.logins import Logins
from otel_voice.mapped import CannotMap
from otel_voice.metrics import Metrics
from otel_voice.openapi import OpenAPI
from otel_voice.origins import HostCheck, Origins
from otel_voice.otlp import Encoder
from otel_voice.reads import Reads
from otel_voice.receiver import Receiver
from otel_voice.retention import Retention
from otel_voice.sessions import Busy, Sessions, UsedUp
from otel_voice.settings import Settings
from otel_voice.static_files import ClientFiles, PageFiles
from otel_voice.store import SEARCH_S, Damaged, Store, TooLong, Unavailable
from otel_voice.tokens import Tokens, ViewerTokens, load_key
from otel_voice.viewer import Viewer
from otel_voice.watching import Streams, Watching

log = logging.getLogger(__name__)
# With the last requests' time before it, well under the 10 s that Docker grants.
DRAIN_S = 5.0


class App(Starlette):
    front: Front | None = None

    def __init__(self, origins: Origins, clock: Callable[[], float], **starlette: Any) -> None:
        super().__init__(**starlette)
        self._origins, self._clock = origins, clock

    def build_middleware_stack(self) -> ASGIApp:
        """Around all of Starlette: its answer to a defect of ours is an answer too."""
        return HostCheck(super().build_middleware_stack(), self._origins, self._clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.front is not None and (session_id := session_in(scope)) is not None:
            await self.front(session_id, scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def encoder(settings: Settings) -> Encoder:
    return Encoder(settings.resource, __version__)


def create_app(settings: Settings, clock: Callable[[], float] = time.time) -> App:
    """The receiver, the exporter and the read API in one ASGI application. `clock` gives seconds since the epoch.

    `state.failed` says after the end whether a background task was the reason of it. Whoever stops the server calls
    `state.streams.end` first, or waits for open streams."""

    origins = Origins(settings)

    @contextlib.asynccontextmanager
    async def lifespan(starlette: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            app.state.store = store = _opened(app, settings, stack)
            app.state.reads = reads = Reads()
            stack.push_async_callback(reads.close)
            sessions = Sessions(store, encoder(settings), clock, settings.capture_content)
            await sessions.start()
            exporter = await _exporting(app, settings, sessions, stack)
            stack.push_async_callback(sessions.stop)
            stack.push_async_callback(_stop, _background(app, sessions.run()))
            delivered = not settings.export_nothing
            retention = Retention(store, sessions, clock, settings.retention_days, delivered)
            stack.push_async_callback(_stop, _background(app, retention.run()))
            keys = [key.encode() for key in settings.token_keys] or [load_key(settings.data_dir)]
            tokens = Tokens(*keys)
            viewers = ViewerTokens(settings.viewer_token, *keys) if settings.viewer_token else None
            gate = Gate(settings, tokens, clock, viewers)
            treated = content(settings.capture)
            receiver = Receiver(sessions, store, tokens, gate, app.state.load, clock, treated, settings.public_url)
            app.front = Front(receiver, origins, clock, EXCEPTIONS)
            stack.push_async_callback(_stop, _background(app, app.state.load.watch()))
            app.router.routes += receiver.routes()
            capture, links = settings.capture_content, Links(settings.jaeger_url, settings.langfuse_url)
            watching = Watching(sessions, store, reads, gate, app.state.streams, capture)
            app.router.routes += watching.routes()
            app.router.routes += Logins(viewers, app.state.load, clock).routes()
            viewer = Viewer(sessions, store, reads, gate, app.state.load, links, encoder(settings), capture)
            app.router.routes += viewer.routes()
            app.router.routes += Metrics(sessions, store, exporter).routes()
            yield

    app = App(
        origins,
        clock,
        routes=[
            Route("/healthz", _ok),
            Route("/readyz", _ready),
            *ClientFiles().routes(),
            *PageFiles().routes(),
            *OpenAPI().routes(),
        ],
        lifespan=lifespan,
        middleware=[origins.middleware()],
        exception_handlers=dict(EXCEPTIONS),
    )
    app.state.failed, app.state.load, app.state.streams = False, Load(), Streams()
    return app


def _opened(app: Starlette, settings: Settings, stack: contextlib.AsyncExitStack) -> Store:
    """The store, which says what it holds and closes when all else has ended."""
    max_bytes = settings.max_store_mib * 2**20
    store = Store(settings.data_dir, asyncio.get_running_loop(), settings.synchronous, max_bytes)
    store.on_damage = lambda damaged: _give_up(app, _next_start(settings, damaged))
    store.on_defect = lambda error: _give_up(app, error)
    stack.push_async_callback(store.close)
    stack.push_async_callback(_say_ledger, store)
    return store


async def _exporting(
    app: Starlette, settings: Settings, sessions: Sessions, stack: contextlib.AsyncExitStack
) -> Exporter | None:
    """What sends spans on, where they are to go anywhere."""
    if settings.export is None:
        return None
    http = await stack.enter_async_context(client(settings.export))
    exporter = Exporter(app.state.store, settings.export, http, time.monotonic)
    sessions.on_made, sessions.hop = exporter.wake, exporter
    stack.push_async_callback(_drain, exporter, _background(app, exporter.run()))
    return exporter


async def _ok(request: Request) -> Response:
    """The process answers."""
    return PlainTextResponse("ok\n")


async def _ready(request: Request) -> Response:
    """It takes work; or why it does not, in the answer's text."""
    load: Load = request.app.state.load
    why = request.app.state.store.refuses or ("there is too much to do" if load.is_too_much else None)
    return PlainTextResponse("ok\n") if why is None else PlainTextResponse(f"{why}\n", 503)


def _unavailable(request: Request, error: Exception) -> Response:
    return rejection(request, Rejected(503, f"the store cannot take it now ({error}); send it again", retry_after=2))


def _too_long(request: Request, error: Exception) -> Response:
    return rejection(request, Rejected(503, f"the search took longer than {SEARCH_S:g} s: narrow it", retry_after=5))


def _busy(request: Request, error: Exception) -> Response:
    return rejection(
        request, Rejected(429, "this session has too many requests under way; send it again", retry_after=1)
    )


def _used_up(request: Request, error: Exception) -> Response:
    return rejection(request, Rejected(403, str(error)))


def _cannot_map(request: Request, error: Exception) -> Response:
    if error.__cause__ is not None:
        log.error("%s", error, exc_info=error.__cause__)
    return rejection(request, Rejected(500, str(error)))


def _http(request: Request, error: Exception) -> Response:
    http = cast("HTTPException", error)
    headers = {"allow": _allowed(request)} if http.status_code == 405 else dict(http.headers or {})
    return JSON(Refusal(http.detail.lower()), http.status_code, headers)


def _allowed(request: Request) -> str:
    """The methods of all routes of this path: each route knows only its own."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in routes for method in route.methods}))


EXCEPTIONS: Table = {
    Rejected: rejection,
    TooLong: _too_long,
    Unavailable: _unavailable,
    Busy: _busy,
    UsedUp: _used_up,
    CannotMap: _cannot_map,
    HTTPException: _http,
}


def _background(app: Starlette, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Nothing here ends by itself: an export or a clock that has stopped must not go on looking well."""

    def loud(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _give_up(app, error)

    task = asyncio.create_task(work)
    task.add_done_callback(loud)
    return task


def _next_start(settings: Settings, damaged: Damaged) -> Damaged:
    return Damaged(f"the store in {settings.data_dir} is damaged ({damaged}); the next start sets it aside")


def _give_up(app: Starlette, error: BaseException) -> None:
    if not app.state.failed:
        log.critical("cannot go on, stopping: %s", error, exc_info=error)
        app.state.failed = True
        os.kill(os.getpid(), signal.SIGTERM)


async def _drain(exporter: Exporter, task: asyncio.Task[None]) -> None:
    """What is pending still goes out if the next hop takes it; what does not waits for the next start."""
    exporter.stop()
    await asyncio.wait({task}, timeout=DRAIN_S)
    await _stop(task)


async def _say_ledger(store: Store) -> None:
    try:
        log.info("stopped; %s", store.reader.ledger())
    except Unavailable as error:
        log.warning("stopped; the store cannot be read: %s", error)


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
