"""Store: the log, the sessions' rows and the outbox, in one SQLite file. The only module that knows SQLite.

One thread writes; whatever asks at the same time shares one commit. What returned without an error is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import math
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple, TextIO, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")
VERSION = 2
FILE = "otel-voice.db"
# A commit takes what came meanwhile; past this many bytes in the queue, new work is refused.
GROUP = 1_000
QUEUE_BYTES = 64 * 2**20


class Unavailable(Exception):
    """The store cannot take it now; nothing of it was stored."""


class Locked(Exception):
    """Another process works on this data directory."""


class SessionRow(NamedTuple):
    """What a session's row says of it; times are milliseconds."""

    no: int
    id: str
    made: int
    due: float | None
    started_at: float
    status: str
    summary: bytes


class LogRow(NamedTuple):
    at: float
    body: bytes


class Pending(NamedTuple):
    id: int
    session: int
    body: bytes


class Append(NamedTuple):
    """A record to log. `new` sessions get their row with it."""

    session: int
    session_id: str
    new: bool
    at: float
    body: bytes


class Flush(NamedTuple):
    """Sessions' rows and the spans they made, up to and with the log's row `flushed` and the time `at` (ms)."""

    rows: Sequence[SessionRow]
    spans: Sequence[tuple[int, bytes]]
    flushed: int
    at: float = 0.0


class _Job(NamedTuple):
    work: Callable[[sqlite3.Connection], object]
    done: Callable[[object], None]
    failed: Callable[[Unavailable], None]
    size: int


class Store:
    """Opened in an event loop; `close` writes what was asked for and lets go of the directory."""

    def __init__(self, directory: Path, loop: asyncio.AbstractEventLoop, synchronous: str = "FULL") -> None:
        self._loop = loop
        with contextlib.ExitStack() as unless_opened:
            self._lock = unless_opened.enter_context(lock(directory))
            self._writer = _open(directory / FILE, synchronous)
            unless_opened.pop_all()
        self.reader = Reader(directory)
        self._heads: dict[int, int] = {}
        self._moved: dict[int, int] = {}
        self._over: dict[int, int | None] = {}
        self.last_log: int
        self.last_at: float
        self.last_log, self.last_at = self._writer.execute(
            "SELECT max(coalesce(max(id), 0), (SELECT value FROM counters WHERE name = 'last_log')), "
            "max(coalesce((SELECT at FROM log ORDER BY id DESC LIMIT 1), 0), "
            "(SELECT value FROM counters WHERE name = 'last_at')) FROM log"
        ).fetchone()
        self._next_log = self.last_log + 1
        (self.next_session,) = self._writer.execute(
            "SELECT 1 + max(coalesce(max(no), 0), (SELECT value FROM counters WHERE name = 'last_session')) "
            "FROM sessions"
        ).fetchone()
        self._recover_heads()
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.queued_bytes = 0
        self._thread = threading.Thread(target=self._write, name="store", daemon=True)
        self._thread.start()

    def _recover_heads(self) -> None:
        """After a crash the log may be ahead of the sessions' rows."""
        tail = "SELECT session, max(id) FROM log WHERE id > (SELECT value FROM counters WHERE name = 'flushed')"
        self._heads = dict(self._writer.execute(f"{tail} GROUP BY session"))
        self.behind = list(self._heads)

    async def close(self) -> None:
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self._writer.close()
        self.reader.close()
        self._lock.close()

    # The writer's thread

    def _write(self) -> None:
        while (job := self._queue.get()) is not None:
            jobs: list[_Job | None] = [job]
            while len(jobs) < GROUP and jobs[-1] is not None:
                try:
                    jobs.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            self._commit([job for job in jobs if job is not None])
            if jobs[-1] is None:
                return

    def _commit(self, jobs: list[_Job]) -> None:
        self._moved, self._over = {}, {}
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            results = [job.work(self._writer) for job in jobs]
            self._writer.execute("COMMIT")
        except Exception as error:
            # Whatever went wrong, nothing of it may be stored, and the thread must live to say so.
            if not isinstance(error, sqlite3.Error):
                log.exception("the store could not write")
            with contextlib.suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")
            self._loop.call_soon_threadsafe(self._fail, jobs, Unavailable(str(error)))
            return
        self._heads.update(self._moved)
        for session, head in self._over.items():
            if self._heads.get(session) == head:
                self._heads.pop(session, None)
        self._loop.call_soon_threadsafe(self._succeed, jobs, results)

    # Back on the loop, in the log's order

    def _succeed(self, jobs: list[_Job], results: list[object]) -> None:
        for job, result in zip(jobs, results, strict=True):
            self.queued_bytes -= job.size
            job.done(result)

    def _fail(self, jobs: list[_Job], error: Unavailable) -> None:
        for job in jobs:
            self.queued_bytes -= job.size
            job.failed(error)

    def _submit(
        self,
        work: Callable[[sqlite3.Connection], T],
        then: Callable[[T], None] | None = None,
        otherwise: Callable[[], None] | None = None,
        size: int = 0,
    ) -> asyncio.Future[T]:
        """`then` runs on the loop after the commit, `otherwise` after a failed one, even when nobody waits any more."""
        future: asyncio.Future[T] = self._loop.create_future()
        future.add_done_callback(lambda future: future.cancelled() or future.exception())

        def done(result: T) -> None:
            if then is not None:
                then(result)
            if not future.done():
                future.set_result(result)

        def failed(error: Unavailable) -> None:
            if otherwise is not None:
                otherwise()
            if not future.done():
                future.set_exception(error)

        self.queued_bytes += size
        self._queue.put(_Job(work, done, failed, size))  # type: ignore[arg-type]
        return future

    # What can be written

    @property
    def ready(self) -> bool:
        """It can take more."""
        return self._thread.is_alive() and not self.full

    @property
    def full(self) -> bool:
        """More waits to be written than is good; say so early."""
        return self.queued_bytes > QUEUE_BYTES

    def append(self, append: Append, then: Callable[[int], None], otherwise: Callable[[], None]) -> asyncio.Future[int]:
        """Logs a record. `then` gets its number in the log, in the log's order; `otherwise` hears that it failed."""
        return self._submit(lambda db: self._append(db, append), then, otherwise, len(append.body))

    def _append(self, db: sqlite3.Connection, append: Append) -> int:
        if append.new:
            db.execute(
                "INSERT INTO sessions (no, id, due, started_at) VALUES (?, ?, 0, ?) ON CONFLICT DO NOTHING",
                (append.session, append.session_id, append.at),
            )
        id_, self._next_log = self._next_log, self._next_log + 1
        prev = self._head(db, append.session)
        db.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?)", (id_, append.session, prev, append.at, append.body))
        self._moved[append.session] = id_
        return id_

    def _head(self, db: sqlite3.Connection, session: int) -> int | None:
        head = self._moved.get(session) or self._heads.get(session)
        if head is None:
            row = db.execute("SELECT head FROM sessions WHERE no = ?", (session,)).fetchone()
            head = row and row[0]
        return head

    def flush(self, flush: Flush) -> asyncio.Future[int]:
        return self._submit(lambda db: self._flush(db, flush))

    def _flush(self, db: sqlite3.Connection, flush: Flush) -> int:
        db.executemany(
            "UPDATE sessions SET head = ?, made = ?, due = ?, started_at = ?, status = ?, summary = ? WHERE no = ?",
            [
                (self._head(db, row.no), row.made, row.due, row.started_at, row.status, row.summary, row.no)
                for row in flush.rows
            ],
        )
        db.executemany("INSERT INTO outbox (session, body) VALUES (?, ?)", flush.spans)
        _count(db, "made", len(flush.spans))
        _at_least(db, "flushed", flush.flushed)
        _at_least(db, "last_at", math.ceil(flush.at))
        for row in flush.rows:
            if row.due is None:
                self._over[row.no] = self._head(db, row.no)
        return len(flush.spans)

    def delivered(self, ids: Sequence[int]) -> asyncio.Future[None]:
        """The next hop took them."""

        def work(db: sqlite3.Connection) -> None:
            _count(db, "delivered", _delete(db, ids))

        return self._submit(work)

    def set_aside(self, row: Pending, reason: str) -> asyncio.Future[None]:
        """The next hop will never take it: among the dead letters it harms no neighbour."""

        def work(db: sqlite3.Connection) -> None:
            if _delete(db, [row.id]):
                dead = (row.session, row.body, reason)
                db.execute("INSERT INTO dead_letters (session, body, reason) VALUES (?, ?, ?)", dead)
                _count(db, "dead", 1)

        return self._submit(work)

    def erase(self, session: int) -> asyncio.Future[None]:
        """Forgets a session: log, spans, summary."""

        def work(db: sqlite3.Connection) -> None:
            id_ = self._head(db, session)
            while id_ is not None:
                row = db.execute("DELETE FROM log WHERE id = ? RETURNING prev", (id_,)).fetchone()
                id_ = row and row[0]
            dropped = db.execute("DELETE FROM outbox WHERE session = ?", (session,)).rowcount
            dead = db.execute("DELETE FROM dead_letters WHERE session = ?", (session,)).rowcount
            _count(db, "dropped", dropped + dead)
            _count(db, "dead", -dead)
            db.execute("DELETE FROM sessions WHERE no = ?", (session,))
            _at_least(db, "last_session", session)
            _at_least(db, "last_log", self._next_log - 1)
            self._moved.pop(session, None)
            self._over[session] = self._heads.get(session)

        return self._submit(work)


class Reader:
    """Reads a data directory, beside the process that writes it or without one. Safe to call from any thread."""

    def __init__(self, directory: Path) -> None:
        path = directory / FILE
        if not path.exists():
            raise FileNotFoundError(f"there is no store in {directory}")
        address = f"{path.absolute().as_uri()}?mode=ro"
        self._db = sqlite3.connect(address, uri=True, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA busy_timeout = 5000")
        self._lock = threading.Lock()

    def close(self) -> None:
        self._db.close()

    def _all(self, sql: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        with self._lock, _as_unavailable():
            return self._db.execute(sql, values).fetchall()

    def session(self, id_: str) -> SessionRow | None:
        rows = self._sessions(f"{_SESSION} WHERE id = ?", (id_,))
        return rows[0] if rows else None

    def by_number(self, numbers: Iterable[int]) -> list[SessionRow]:
        return [row for no in numbers for row in self._sessions(f"{_SESSION} WHERE no = ?", (no,))]

    def open_sessions(self) -> list[SessionRow]:
        """Those to which time will do something."""
        return self._sessions(f"{_SESSION} WHERE due IS NOT NULL")

    def sessions(self, limit: int, before: int | None = None) -> list[SessionRow]:
        """The latest made first, for a start may still move; `before` is the last `no` of the page before."""
        page = f"{_SESSION} WHERE no < ? ORDER BY no DESC LIMIT ?"
        return self._sessions(page, (2**62 if before is None else before, min(limit, 2**31)))

    def _sessions(self, sql: str, values: Sequence[object] = ()) -> list[SessionRow]:
        return [SessionRow(*row) for row in self._all(sql, values)]  # type: ignore[arg-type]

    def log(self, session: int) -> list[LogRow]:
        """A session's records in the log's order."""
        return [LogRow(*row) for row in self._all(_LOG_OF_SESSION, (session, session))]  # type: ignore[arg-type]

    def pending(self, spans: int, size: int) -> list[Pending]:
        """The first rows of the outbox: as many as `spans` and, past the first one, `size` bytes allow."""
        rows: list[Pending] = []
        with self._lock, _as_unavailable():
            found = self._db.execute("SELECT id, session, body FROM outbox ORDER BY id LIMIT ?", (spans,))
            for row in map(Pending._make, found):
                size -= len(row.body)
                if rows and size < 0:
                    break
                rows.append(row)
            found.close()
        return rows

    def counters(self) -> dict[str, int]:
        """made = delivered + pending + dead + dropped."""
        counted: dict[str, int] = dict(self._all("SELECT name, value FROM counters"))  # type: ignore[arg-type]
        counted["pending"] = counted["made"] - counted["delivered"] - counted["dead"] - counted["dropped"]
        return counted


@contextlib.contextmanager
def _as_unavailable() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise Unavailable(str(error)) from error


_SESSION = "SELECT no, id, made, due, started_at, status, coalesce(summary, x'') FROM sessions"

# The session's last row is among those that its own row does not know of yet, or it is the one that this names.
_LOG_OF_SESSION = """
WITH RECURSIVE
  tail(id) AS (SELECT max(id) FROM log
               WHERE id > (SELECT value FROM counters WHERE name = 'flushed') AND session = ?),
  chain(id, prev, at, body) AS (
    SELECT id, prev, at, body FROM log
    WHERE id = (SELECT coalesce((SELECT id FROM tail), (SELECT head FROM sessions WHERE no = ?)))
    UNION ALL
    SELECT log.id, log.prev, log.at, log.body FROM chain JOIN log ON log.id = chain.prev)
SELECT at, body FROM chain ORDER BY id
"""


def lock(directory: Path) -> TextIO:
    """Claims a data directory, made if need be, for as long as the file is open. Raises Locked, or OSError."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = (directory / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise Locked(f"another otel-voice works on {directory}; stop it or choose another --data-dir") from None
    return file


def check(directory: Path) -> None:
    """What would keep a store from being opened here: raises Locked, Unavailable or OSError."""
    with lock(directory):
        _open(directory / FILE, "FULL").close()


def _open(path: Path, synchronous: str) -> sqlite3.Connection:
    # Before SQLite makes it: the files beside it get the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    with contextlib.ExitStack() as unless_prepared:
        unless_prepared.callback(db.close)
        try:
            _prepare(db, path, synchronous)
        except sqlite3.Error as error:
            raise Unavailable(f"{path} cannot be opened: {error}") from error
        unless_prepared.pop_all()
    return db


def _prepare(db: sqlite3.Connection, path: Path, synchronous: str) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {synchronous}")
    db.execute("PRAGMA busy_timeout = 5000")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == 0:
        schema = files("otel_voice").joinpath("schema.sql").read_text()
        db.executescript(f"BEGIN; {schema} PRAGMA user_version = {VERSION}; COMMIT;")
    elif version != VERSION:
        raise Locked(f"{path} was written by another version of otel-voice (schema {version}, this one has {VERSION})")


def _delete(db: sqlite3.Connection, ids: Sequence[int]) -> int:
    return db.executemany("DELETE FROM outbox WHERE id = ?", [(id_,) for id_ in ids]).rowcount


def _at_least(db: sqlite3.Connection, name: str, value: int) -> None:
    db.execute("UPDATE counters SET value = max(value, ?) WHERE name = ?", (value, name))


def _count(db: sqlite3.Connection, name: str, more: int) -> None:
    if more:
        db.execute("UPDATE counters SET value = value + ? WHERE name = ?", (more, name))
