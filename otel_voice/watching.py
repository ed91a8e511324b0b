"""Watching: a session as it grows and the sessions that change, as server-sent events.

A session is looked at only while somebody listens and something came. Streams end at once when the server does, with
the cookie that opened them, and after an hour: a browser comes back by itself, says what it has seen, and is asked anew
who it is.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from functools import partial
from typing import cast

import msgspec
from msgspec import Raw, Struct
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from otel_voice.changes import Changes
from otel_voice.edge import Gate, Rejected, canonical, headers_of
from otel_voice.mapped import CannotMap, Growing
from otel_voice.reads import Reads, encoded
from otel_voice.sessions import Sessions
from otel_voice.spans import Span
from otel_voice.store import Store, Unavailable
from otel_voice.summary import Summary

# Each is a connection and, of a session, a mapping of its own.
STREAMS = 64
LOOK_S = 0.5
LIST_S = 1.0
# Proxies give up on a connection that is silent for longer.
COMMENT_S = 15.0
# Whoever takes no message for so long does not read any more.
SEND_S = 15.0
STREAM_S = 3600.0
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
_TIME = re.compile(r"[0-9]{1,15}(\.[0-9]{1,17})?")
FIRST = b"retry: 2000\n\n"
COMMENT = b": here\n\n"


class Growth(Struct):
    """What is new of a session: its final spans that were not told yet, and all those that are not final (`open`)."""

    summary: Summary
    spans: list[Span]
    open: list[Span]


class Changed(Struct):
    """The sessions that have changed."""

    sessions: list[Summary]


class Streams:
    """All that are open."""

    def __init__(self) -> None:
        self._count, self._ending = 0, asyncio.Event()
        self.comment_s, self.send_s = COMMENT_S, SEND_S

    @contextmanager
    def one(self) -> Iterator[None]:
        """Raises Rejected: 503."""
        if self._count >= STREAMS or self._ending.is_set():
            raise Rejected(503, f"{STREAMS} streams are open, as many as there may be; try again", retry_after=5)
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    def end(self) -> None:
        """The server is about to stop: nobody is to wait for them."""
        self._ending.set()

    async def pause(self, seconds: float) -> bool:
        """False when they are to end."""
        try:
            await asyncio.wait_for(self._ending.wait(), seconds)
        except TimeoutError:
            return True
        return False


class Stream(StreamingResponse):
    """Given up, and its place with it, where nobody reads it."""

    def __init__(self, messages: AsyncGenerator[bytes, None], send_s: float) -> None:
        super().__init__(messages, headers=HEADERS, media_type="text/event-stream")
        self._messages, self._send_s = messages, send_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_soon(message: Message) -> None:
            async with asyncio.timeout(self._send_s):
                await send(message)

        async with aclosing(self._messages):
            with suppress(TimeoutError):
                await super().__call__(scope, receive, send_soon)


class Watching:
    def __init__(
        self, sessions: Sessions, store: Store, reads: Reads, gate: Gate, streams: Streams, capture: bool
    ) -> None:
        self._sessions, self._store, self._reads, self._gate = sessions, store, reads, gate
        self._streams, self._capture = streams, capture

    def routes(self) -> list[Route]:
        return [
            Route("/v1/sessions/stream", self.sessions, methods=["GET"]),
            Route("/v1/sessions/{id}/stream", self.session, methods=["GET"]),
        ]

    async def session(self, request: Request) -> Response:
        """A session as it grows.

        Messages are `session` (data: `Growth`) and at last `end`. Who comes back says what was seen by Last-Event-ID,
        or `seen`, and gets the spans that are new. A stream ends after an hour, and when the receiver does."""
        self._gate.reader(headers_of(request.scope))
        session_id = canonical(request.path_params["id"])
        row = self._store.session(session_id)
        if row is None:
            raise Rejected(404, f"session {session_id} is not known")
        growing = Growing(row, self._capture, _spans_seen(request, row.no))
        return await self._answer(request, self._grown(growing), LOOK_S)

    async def _grown(self, growing: Growing) -> AsyncGenerator[bytes, None]:
        """A message, or nothing, each time it is asked for."""
        head: int | None = -1
        while not growing.is_over:
            now, before = self._sessions.now, head
            head = self._store.head(growing.no)
            if head == before and growing.rests_until > now:
                yield b""
                continue
            message = await self._reads.looks.run(partial(self._look, growing, head, now))
            if message is None:
                break  # it was erased
            yield message
        yield _message("end", f"{growing.no}-{growing.count}", {})

    def _look(self, growing: Growing, head: int | None, now: float) -> bytes | None:
        if not growing.look(self._store.reader, head, now):
            return None
        spans, open_ = (cast("list[Span]", encoded(each)) for each in (growing.spans, growing.unfinished))
        grown = Growth(cast("Summary", growing.summary), spans, open_)
        return _message("session", f"{growing.no}-{growing.count}", grown)

    async def sessions(self, request: Request) -> Response:
        """The sessions that change.

        Messages are `sessions` (data: `Changed`), at most one a second. With Last-Event-ID it begins with what changed
        meanwhile. A stream ends after an hour, and when the receiver does."""
        self._gate.reader(headers_of(request.scope))
        return await self._answer(request, self._changed(_time_seen(request)), LIST_S)

    async def _changed(self, since: float | None) -> AsyncGenerator[bytes, None]:
        with self._sessions.changes() as changes:
            if since is not None:
                after = since
                changes.add_older(
                    *await self._reads.searches.run(lambda: self._store.calls.changed(after, Changes.MOST))
                )
            while True:
                summaries = [Raw(summary) for summary in changes.take() if len(summary) > len(b"{}")]
                changed = Changed(cast("list[Summary]", summaries))
                yield _message("sessions", repr(changes.at), changed) if summaries else b""

    async def _answer(self, request: Request, messages: AsyncGenerator[bytes, None], every_s: float) -> Response:
        """The first message is made before the answer begins, for its error may be the answer."""
        headers = headers_of(request.scope)
        streaming = self._stream(messages, every_s, lambda: self._gate.reader(headers))
        await anext(streaming)
        if request.method == "HEAD":
            await streaming.aclose()
            return Response(headers=HEADERS, media_type="text/event-stream")
        return Stream(streaming, self._streams.send_s)

    async def _stream(
        self, messages: AsyncGenerator[bytes, None], every_s: float, ask_again: Callable[[], None]
    ) -> AsyncGenerator[bytes, None]:
        look = asyncio.get_running_loop().time
        ends, spoke = look() + STREAM_S, look()
        with self._streams.one():
            async with aclosing(messages):
                first = await anext(messages)
                yield b""
                yield FIRST + first
                while look() < ends and await self._streams.pause(every_s):
                    try:
                        # A viewer may have logged out, or his cookie be over.
                        ask_again()
                        message = await anext(messages, None)
                    except (Unavailable, Rejected, CannotMap):
                        return  # a browser comes back, and is told
                    if message is None:
                        return
                    if message or look() >= spoke + self._streams.comment_s:
                        spoke = look()
                        yield message or COMMENT


def _message(event: str, id_: str, data: object) -> bytes:
    return b"event: %s\nid: %s\ndata: %s\n\n" % (event.encode(), id_.encode(), msgspec.json.encode(data))


def _spans_seen(request: Request, no: int) -> int:
    """How many final spans of this session whoever comes back has; they are always made in the same order. A page that
    opens a stream anew cannot set the header, and asks for `?seen=`."""
    said = request.headers.get("last-event-id") or request.query_params.get("seen", "")
    seen, _, count = said.partition("-")
    return int(count) if seen == str(no) and count.isdecimal() and len(count) < 10 else 0


def _time_seen(request: Request) -> float | None:
    """To the last bit: what was written a moment later is new."""
    seen = request.headers.get("last-event-id", "")
    return float(seen) if _TIME.fullmatch(seen) else None
