"""The real app in this process: its own lifespan, a real store in a folder, a clock that a test moves."""

from __future__ import annotations

import asyncio
import gzip
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import anyio
import httpx
from starlette.datastructures import State
from starlette.routing import BaseRoute
from starlette.types import Message

from otel_voice.app import create_app
from otel_voice.openapi import document
from otel_voice.settings import Settings
from otel_voice.store import FILE
from otel_voice.tokens import Tokens
from tests.contract import Contract

Found = TypeVar("Found")
Line = dict[str, Any]
# Its name, its id, its data.
Event = tuple[str, str, Line]

START_S = 1_790_000_000.0
SESSION = "6f1c2b3a-0000-4000-8000-0000000000aa"
TOKEN_KEY = "a-signing-key-that-only-tests-know"
API_KEY = "a-key-of-the-apps-backend"

# Made by the first test that asks; the routes are always the same.
_contract: Contract | None = None


class Clock:
    """Seconds since the epoch, standing still until a test moves it."""

    def __init__(self, now: float = START_S) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class App:
    """What a test says to the app, and what it looks at beside it."""

    def __init__(
        self, client: httpx.AsyncClient, clock: Clock, data_dir: Path, state: State, routes: list[BaseRoute]
    ) -> None:
        self.client, self.clock, self.data_dir, self.state = client, clock, data_dir, state
        self.routes = routes

    def token(self, session_id: str = SESSION, expires_in_s: float = 3600) -> str:
        return Tokens(TOKEN_KEY.encode()).mint(session_id, self.clock.now + expires_in_s)

    async def post(self, *events: Any, session_id: str = SESSION, **envelope: Any) -> httpx.Response:
        """A batch, as a page sends it: text/plain, its token in the body."""
        batch = {"source": "page", "token": self.token(session_id), "events": list(events), **envelope}
        return await self.raw(json.dumps(batch).encode(), session_id)

    async def raw(
        self, body: bytes, session_id: str = SESSION, type_: str = "text/plain", **headers: str
    ) -> httpx.Response:
        named = {"content-type": type_} | {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(f"/v1/sessions/{session_id}/events", content=body, headers=named)

    async def summary(self, session_id: str = SESSION) -> Line:
        answer = await self.client.get(f"/v1/sessions/{session_id}")
        assert answer.status_code == 200, answer.text
        return cast("Line", answer.json())

    async def spans(self, session_id: str = SESSION) -> list[Line]:
        answer = await self.client.get(f"/v1/sessions/{session_id}/spans")
        assert answer.status_code == 200, answer.text
        return cast("list[Line]", answer.json()["spans"])

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What lies in the store's file."""
        with closing(sqlite3.connect(self.data_dir / FILE)) as db:
            return db.execute(sql).fetchall()


@asynccontextmanager
async def running(data_dir: Path, **settings: Any) -> AsyncIterator[App]:
    """By these settings; the clock stands at `now`."""
    clock = Clock(settings.pop("now", START_S))
    chosen = Settings(data_dir=data_dir, **{"token_key": TOKEN_KEY, **settings})
    app = create_app(chosen, clock)
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1:8770", event_hooks={"response": [keeps_to(app.routes)]}
        ) as client,
    ):
        yield App(client, clock, data_dir, app.state, app.routes)


def keeps_to(routes: list[BaseRoute]) -> Callable[[httpx.Response], Awaitable[None]]:
    """Every answer that any test gets is one that the API's document allows."""
    global _contract
    contract = _contract = _contract or Contract(document(routes))

    async def check(response: httpx.Response) -> None:
        if response.headers.get("content-type") == "application/json":
            await response.aread()
        contract.check(response)

    return check


async def until(condition: Callable[[], Found | None], deadline_s: float = 10) -> Found:
    """The condition's first true value, while the app goes on working."""
    ends = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < ends, f"waited {deadline_s:g} s in vain"
        await anyio.sleep(0.01)
    return found


class Listener:
    """One stream, as a browser hears it; httpx's transport to an app would wait for its end."""

    def __init__(self) -> None:
        self.status, self.headers, self.text, self.ended = 0, dict[str, str](), "", False
        self.sizes = list[int]()
        # A slow one takes its first piece, and more only once this is set.
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.text += message.get("body", b"").decode()
            self.sizes.append(len(message.get("body", b"")))
            await self.go_on.wait()
            self.ended = not message.get("more_body", False)

    @property
    def events(self) -> list[Event]:
        found = []
        for part in self.text.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in part.split("\n") if ": " in line and line[0] != ":")
            if "event" in fields:
                found.append((fields["event"], fields["id"], json.loads(fields["data"])))
        return found


@asynccontextmanager
async def listening(app: App, path: str, slow: bool = False, **headers: str) -> AsyncIterator[Listener]:
    listener, asgi = Listener(), app.client._transport.app  # type: ignore[attr-defined]
    if slow:
        listener.go_on.clear()
    path, _, query = path.partition("?")
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {
        **{"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1"},
        **{"method": "GET", "path": path, "raw_path": path.encode(), "query_string": query.encode(), "scheme": "http"},
        **{"headers": [(b"host", b"127.0.0.1"), *named], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8770)},
    }

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    task = asyncio.create_task(asgi(scope, receive, listener.send))
    try:
        await until(lambda: listener.text or listener.ended or task.done())
        yield listener
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def mark(name: str = "here", **fields: Any) -> Line:
    return {"type": "mark", "name": name, **fields}


def zipped(batch: Line) -> bytes:
    return gzip.compress(json.dumps(batch).encode())


@contextmanager
def without(directory: Path, table: str) -> Iterator[None]:
    """The disk as it were: writes to this table fail."""
    db = sqlite3.connect(directory / FILE, isolation_level=None)
    db.execute(f"ALTER TABLE {table} RENAME TO away")
    yield
    db.execute(f"ALTER TABLE away RENAME TO {table}")
    db.close()


def damage(directory: Path, table: str) -> None:
    """Overwrites the page that a table begins on."""
    with closing(sqlite3.connect(directory / FILE)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    with (directory / FILE).open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * size)
