"""Store: one thread writes, and whatever asks at the same time shares one commit. What returned without an error is on
disk."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import math
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from otel_voice.store import calls, words
from otel_voice.store.file import begin_words_anew, lock, open_, suspect, unavailable
from otel_voice.store.reader import IS_PAST, Reader
from otel_voice.store.rows import Append, Damaged, Flush, Pending, SessionRow, Unavailable, Unwritable
from otel_voice.store.tidying import QUIET_S, Tidying

log = logging.getLogger(__name__)
T = TypeVar("T")
# A commit takes what came meanwhile.
GROUP = 1_000
# A commit costs as much as thirty records: where several share one, the next waits for some. Who posts alone does not.
PACE_S, SEVERAL = 0.005, 3
# So many at a time; few sizes, for a statement is prepared once.
ROWS = (64, 8, 1)
# To ask how much is in use takes as long as two records.
MEASURED_BYTES = 2**18
# What searches every call is given up after so long.
SEARCH_S = 5.0
# Spans of no session: a process's own, by its span processor.
NO_SESSION = 0


class _Start(NamedTuple):
    """Where an earlier process left off. `heads` are the last rows of the log that sessions' rows do not know of."""

    last_log: int
    last_at: float
    next_session: int
    heads: dict[int, int]
    used_bytes: int
    has_words: bool
    to_wipe: int


# A record to log, or whatever else.
Work = Append | Callable[[sqlite3.Connection], object]


class _Job:
    """`then` runs on the loop after the commit, `otherwise` after a failed one, even when nobody waits any more."""

    __slots__ = ("future", "otherwise", "size", "then", "work")

    def __init__(
        self,
        work: Work,
        future: asyncio.Future[Any],
        then: Callable[[Any], None] | None = None,
        otherwise: Callable[[], None] | None = None,
        size: int = 0,
    ) -> None:
        self.work, self.future, self.then, self.otherwise, self.size = work, future, then, otherwise, size

    def done(self, result: object) -> None:
        try:
            if self.then is not None:
                self.then(result)
        finally:
            if not self.future.done():
                self.future.set_result(result)

    def failed(self, error: Unavailable) -> None:
        try:
            if self.otherwise is not None:
                self.otherwise()
        finally:
            if not self.future.done():
                self.future.set_exception(error)
                self.future.exception()  # nobody has to look at it


class _Put(NamedTuple):
    """What a thread that is not the loop's waits for."""

    work: Work
    done: Callable[[Any], None]
    failed: Callable[[Unavailable], None]
    size: int = 0


Jobs = Sequence[_Job | _Put]


class Store:
    """Opened in an event loop; `close` writes what was asked for and lets go of the directory. New work is refused
    while more than `max_bytes` are in use. `on_damage` hears, on the loop, of a file that is no database any more,
    `on_defect` of an error in what was to follow a commit: what is in memory may not be what is stored."""

    def __init__(
        self,
        directory: Path,
        loop: asyncio.AbstractEventLoop,
        synchronous: str = "FULL",
        max_bytes: float = math.inf,
    ) -> None:
        self._directory, self._loop, self.max_bytes = directory, loop, max_bytes
        self.on_damage: Callable[[Damaged], None] = lambda _: None
        self.on_defect: Callable[[Exception], None] = lambda error: log.critical("after a commit: %s", error)
        with contextlib.ExitStack() as unless_opened:
            self._lock = unless_opened.enter_context(lock(directory))
            self._writer, start = open_(directory, synchronous, _start)
            unless_opened.pop_all()
        self.reader = Reader(directory, self._meet_damage)
        # The loop's own: it waits for nobody's long read.
        self._index = Reader(directory, self._meet_damage)
        # For what reads every call.
        self.calls = Reader(directory, self._meet_damage, self._doubt_words, SEARCH_S)
        # After a crash the log may be ahead of the sessions' rows.
        self._heads = start.heads
        self.behind = list(start.heads)
        # What the commit under way does to them, and how many events it accepts.
        self._moved: dict[int, int] = {}
        self._over: dict[int, int | None] = {}
        self._accepted = 0
        self.has_words = start.has_words
        self.last_log, self.last_at, self.next_session = start.last_log, start.last_at, start.next_session
        self._next_log = self.last_log + 1
        self.used_bytes, self._unmeasured = start.used_bytes, 0
        # What the loop asks for in one of its rounds goes to the thread in one piece.
        self._asked: list[_Job] = []
        self._handed_over_at, self._shared = 0.0, 0
        self._queue: queue.SimpleQueue[Jobs | None] = queue.SimpleQueue()
        self.queued_bytes = 0
        self._tidying = Tidying(
            self._writer, self.has_words, start.to_wipe, lambda: not self._queue.empty(), self._begin_words_anew
        )
        # What somebody met who read them; and whether the transaction under way is about them.
        self._doubt: BaseException | None = None
        self._about_words = False
        self._thread = threading.Thread(target=self._write, name="store", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        self._hand_over()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        # The last to close empties the write-ahead log into the file, which a reader may not.
        self.reader.close()
        self._index.close()
        self.calls.close()
        self._writer.close()
        self._lock.close()

    # The writer's thread

    def _write(self) -> None:
        while (asked := self._next()) is not None:
            jobs = asked
            while asked is not None and len(jobs) < GROUP:
                try:
                    asked = self._queue.get_nowait()
                except queue.Empty:
                    break
                jobs = [*jobs, *(asked or ())]
            if self._doubt is not None:
                self._begin_words_anew(self._doubt)
            self._commit(jobs)
            if asked is None:
                return

    def _next(self) -> Jobs | None:
        while self._tidying.is_needed:
            try:
                return self._queue.get(timeout=QUIET_S)
            except queue.Empty:
                self._tidying.go_on()
        return self._queue.get()

    def _commit(self, jobs: Jobs) -> None:
        try:
            results = self._transact(jobs)
        except Exception as error:
            # Whatever went wrong, nothing of it may be stored, and the thread must live to say so.
            failure = unavailable(error)
            if isinstance(failure, Unwritable):
                if len(jobs) > 1:
                    # The others have no part in it.
                    for job in jobs:
                        self._commit([job])
                    return
                log.exception("the store could not write")
            if isinstance(failure, Damaged):
                self._meet_damage(failure)
            self._loop.call_soon_threadsafe(self._fail, jobs, failure)
            return
        self._heads.update(self._moved)
        for session, head in self._over.items():
            if self._heads.get(session) == head:
                self._heads.pop(session, None)
        # Who waits goes first.
        self._loop.call_soon_threadsafe(self._succeed, jobs, results)
        self._measure(jobs)

    def _transact(self, jobs: Jobs) -> list[object]:
        """In one transaction; where that meets damage and is about words, without those that were there."""
        try:
            return self._transact_once(jobs)
        except sqlite3.Error as error:
            if not (self._about_words and words.may_be_theirs(error)):
                raise
            self._begin_words_anew(error)
        return self._transact_once(jobs)

    def _transact_once(self, jobs: Jobs) -> list[object]:
        self._moved, self._over, self._accepted, self._about_words = {}, {}, 0, False
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            results = self._do(self._writer, [job.work for job in jobs])
            _count(self._writer, "accepted", self._accepted)
            self._writer.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")
            raise
        return results

    def _doubt_words(self, error: BaseException) -> None:
        """Whoever reads them, in any thread."""
        self._doubt = error
        self._queue.put([])

    def _begin_words_anew(self, error: BaseException) -> None:
        self._doubt = None
        try:
            self.has_words = begin_words_anew(self._writer, self._directory, error)
        except sqlite3.Error as failed:
            self.has_words = False
            log.error("without an index of words until the next start: %s", failed)
        self._tidying.has_words = self.has_words

    def _do(self, db: sqlite3.Connection, all_work: Sequence[Work]) -> list[object]:
        """In order; records that follow one another are written together."""
        results, appends = list[object](), list[Append]()
        for work in all_work:
            if isinstance(work, Append):
                appends.append(work)
                continue
            results += self._log(db, appends)
            appends.clear()
            results.append(work(db))
        return [*results, *self._log(db, appends)]

    def _measure(self, jobs: Jobs) -> None:
        """Anew where it may have become less, or enough has come for it to matter."""
        self._unmeasured += sum([job.size for job in jobs])
        if self._unmeasured >= MEASURED_BYTES or not all(isinstance(job.work, Append) for job in jobs):
            # It is stored; what is wrong with the file shows at the next commit.
            with contextlib.suppress(sqlite3.Error):
                self.used_bytes, self._unmeasured = _used(self._writer), 0
            self._tidying.wipe()

    def _meet_damage(self, damaged: Damaged) -> None:
        suspect(self._directory)
        self._loop.call_soon_threadsafe(self.on_damage, damaged)

    # Back on the loop, in the log's order

    def _succeed(self, jobs: Jobs, results: list[object]) -> None:
        self._shared = len(jobs)
        for job, result in zip(jobs, results, strict=True):
            self._answer(job, job.done, result)

    def _fail(self, jobs: Jobs, error: Unavailable) -> None:
        for job in jobs:
            self._answer(job, job.failed, error)

    def _answer(self, job: _Job | _Put, answer: Callable[[Any], None], with_: object) -> None:
        """One whose answer fails must not leave those after it without one."""
        self.queued_bytes -= job.size
        try:
            answer(with_)
        except Exception as error:
            self.on_defect(error)

    def _submit(self, work: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        return self._ask(_Job(work, self._loop.create_future()))

    def _ask(self, job: _Job) -> asyncio.Future[Any]:
        if not self._asked:
            wait = self._handed_over_at + PACE_S - self._loop.time()
            if wait > 0 and self._shared >= SEVERAL:
                self._loop.call_later(wait, self._hand_over)
            else:
                self._loop.call_soon(self._hand_over)
        self.queued_bytes += job.size
        self._asked.append(job)
        return job.future

    def _hand_over(self) -> None:
        if self._asked:
            self._queue.put(self._asked)
            self._asked, self._handed_over_at = [], self._loop.time()

    # What can be written

    @property
    def refuses(self) -> str | None:
        """Why it takes no new work, in a clause; what was accepted is still written."""
        if not self._thread.is_alive():
            return "the store has stopped"
        if self.used_bytes > self.max_bytes:
            return f"the store is full ({self.used_bytes >> 20} MiB) of what goes on, waits, or was refused"
        return None

    def append(self, append: Append, then: Callable[[int], None], otherwise: Callable[[], None]) -> asyncio.Future[int]:
        """Logs a record. `then` gets its number in the log, in the log's order; `otherwise` hears that it failed."""
        return self._ask(_Job(append, self._loop.create_future(), then, otherwise, len(append.body)))

    def _log(self, db: sqlite3.Connection, appends: Sequence[Append]) -> range:
        """Gives their numbers."""
        new = [(append.session, append.session_id, 0, append.at) for append in appends if append.new]
        _rows(db, "INSERT INTO sessions (no, id, due, started_at) VALUES {} ON CONFLICT DO NOTHING", new)
        found = [(append.session, append.session_id, append.at) for append in appends if append.new]
        _rows(db, "INSERT INTO calls (no, id, started_at) VALUES {} ON CONFLICT DO NOTHING", found)
        first, self._next_log = self._next_log, self._next_log + len(appends)
        rows = []
        for id_, (session, _, _, at, body, events) in enumerate(appends, first):
            rows.append((id_, session, self._head(db, session), at, events, body))
            self._moved[session] = id_
            self._accepted += events
        _rows(db, "INSERT INTO log VALUES {}", rows)
        return range(first, self._next_log)

    def _head(self, db: sqlite3.Connection, session: int) -> int | None:
        head = self._moved.get(session) or self._heads.get(session)
        if head is None:
            row = db.execute("SELECT head FROM sessions WHERE no = ?", (session,)).fetchone()
            head = row and row[0]
        return head

    def session(self, id_: str) -> SessionRow | None:
        """Some pages of an index, on the loop: by way of a thread it takes fifteen times as long. Raises
        Unavailable."""
        return self._index.session(id_)

    def head(self, session: int) -> int | None:
        """The number of its last record, where its row does not know of it."""
        return self._heads.get(session)

    def flush(self, flush: Flush) -> asyncio.Future[int]:
        return self._submit(lambda db: self._flush(db, flush))

    def _flush(self, db: sqlite3.Connection, flush: Flush) -> int:
        rows = [
            (no, self._head(db, no), made, due, started_at, status, summary)
            for no, _, made, due, started_at, status, summary, _ in flush.rows
        ]
        _rows(db, _UPDATE, rows)
        _rows(db, calls.INSERT, [(row.no, flush.at, *row.call) for row in flush.rows if row.call is not None])
        if self.has_words and flush.said:
            self._about_words = True
            _rows(db, words.INSERT, words.rows(flush.said))
            self._tidying.words_came()
        _rows(db, _SEND, [(session, body, flush.at) for session, body in flush.spans])
        _count(db, "made", len(flush.spans) + flush.delivered)
        _count(db, "delivered", flush.delivered)
        _at_least(db, "flushed", flush.flushed)
        _at_least(db, "last_at", math.ceil(flush.at))
        _rows(db, _COUNT, [(no, events) for no, events, _ in flush.counted])
        for no in {row.no for row in flush.rows if row.due is None} | {one.no for one in flush.counted if one.over}:
            self._end(db, no)
        return len(flush.spans)

    def _end(self, db: sqlite3.Connection, session: int) -> None:
        """All its spans are made: so are its events mapped."""
        self._over[session] = self._head(db, session)
        for (mapped,) in db.execute("SELECT events - mapped FROM sessions WHERE no = ?", (session,)).fetchall():
            db.execute("UPDATE sessions SET mapped = events WHERE no = ?", (session,))
            _count(db, "mapped", mapped)

    def put(self, spans: Sequence[bytes]) -> concurrent.futures.Future[None]:
        """Spans of no session into the outbox, from any thread. Fails with Unavailable."""
        future: concurrent.futures.Future[None] = concurrent.futures.Future()

        def work(db: sqlite3.Connection) -> None:
            at = time.time() * 1000
            _rows(db, _SEND, [(NO_SESSION, body, at) for body in spans])
            _count(db, "made", len(spans))

        def done(_: None) -> None:
            if not future.done():  # whoever waited may have given up
                future.set_result(None)

        def failed(error: Unavailable) -> None:
            if not future.done():
                future.set_exception(error)

        self._queue.put([_Put(work, done, failed)])
        return future

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
            rows = db.execute("SELECT mapped FROM sessions WHERE no = ?", (session,)).fetchall()
            said = self._has_said(db, session)
            _count(db, "erased", self._forget(db, session) - sum(mapped for (mapped,) in rows))
            self._tidying.erased(said)

        return self._submit(work)

    def retire(self, session: int, delivered: bool) -> asyncio.Future[None]:
        """Forgets a session that `Reader.past` named, unless it has gone on since."""

        def work(db: sqlite3.Connection) -> None:
            if session not in self._heads and session not in self._moved:
                free = db.execute(IS_PAST, (session, not delivered)).fetchone()
                if free:
                    said = self._has_said(db, session)
                    self._forget(db, session)
                    self._tidying.erased(said)

        return self._submit(work)

    def _has_said(self, db: sqlite3.Connection, session: int) -> bool:
        self._about_words = self.has_words
        return self.has_words and words.has_said(db, session)

    def _forget(self, db: sqlite3.Connection, session: int) -> int:
        """Returns how many events were in its log."""
        id_, events = self._head(db, session), 0
        while id_ is not None:
            row = db.execute("DELETE FROM log WHERE id = ? RETURNING prev, events", (id_,)).fetchone()
            id_, events = (row[0], events + row[1]) if row else (None, events)
        dropped = db.execute("DELETE FROM outbox WHERE session = ?", (session,)).rowcount
        dead = db.execute("DELETE FROM dead_letters WHERE session = ?", (session,)).rowcount
        _count(db, "dropped", dropped + dead)
        _count(db, "dead", -dead)
        db.execute("DELETE FROM sessions WHERE no = ?", (session,))
        db.execute("DELETE FROM calls WHERE no = ?", (session,))
        if self.has_words:
            words.forget(db, session)
        _at_least(db, "last_session", session)
        _at_least(db, "last_log", self._next_log - 1)
        self._moved.pop(session, None)
        self._over[session] = self._heads.get(session)
        return events


def check(directory: Path) -> None:
    """What would keep a store from being opened here: raises Locked, OtherSchema, Unavailable or OSError."""
    with lock(directory):
        open_(directory, "FULL", _start)[0].close()


def _start(db: sqlite3.Connection) -> _Start:
    said: dict[str, int] = dict(db.execute("SELECT name, value FROM counters").fetchall())
    last = db.execute("SELECT id, at FROM log ORDER BY id DESC LIMIT 1").fetchone() or (0, 0.0)
    (session,) = db.execute("SELECT coalesce(max(no), 0) FROM sessions").fetchone()
    tail = "SELECT session, max(id) FROM log WHERE id > ? GROUP BY session"
    return _Start(
        last_log=max(last[0], said["last_log"]),
        last_at=max(last[1], said["last_at"]),
        next_session=1 + max(session, said["last_session"]),
        heads=dict(db.execute(tail, (said["flushed"],)).fetchall()),
        used_bytes=_used(db),
        has_words=words.are_there(db),
        to_wipe=said["to_wipe"],
    )


def _used(db: sqlite3.Connection) -> int:
    """Bytes that hold something: what was deleted leaves room in the file."""
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


_SEND = "INSERT INTO outbox (session, body, at) VALUES {}"
_UPDATE = """
UPDATE sessions SET head = column2, made = column3, due = column4, started_at = column5, status = column6,
  summary = column7
FROM (VALUES {}) WHERE no = column1
"""
_COUNT = "UPDATE sessions SET events = column2 FROM (VALUES {}) WHERE no = column1"


def _rows(db: sqlite3.Connection, sql: str, rows: Sequence[Sequence[object]]) -> None:
    """Many rows a statement: each lets go of the interpreter, and has to wait for it again where the loop is busy."""
    done = 0
    for size in ROWS:
        while done + size <= len(rows):
            values = ",".join([f"({','.join('?' * len(rows[done]))})"] * size)
            db.execute(sql.format(values), [value for row in rows[done : done + size] for value in row])
            done += size


def _delete(db: sqlite3.Connection, ids: Sequence[int]) -> int:
    if len(ids) == ids[-1] - ids[0] + 1:
        return db.execute("DELETE FROM outbox WHERE id BETWEEN ? AND ?", (ids[0], ids[-1])).rowcount
    return db.executemany("DELETE FROM outbox WHERE id = ?", [(id_,) for id_ in ids]).rowcount


def _at_least(db: sqlite3.Connection, name: str, value: int) -> None:
    db.execute("UPDATE counters SET value = max(value, ?) WHERE name = ?", (value, name))


def _count(db: sqlite3.Connection, name: str, more: int) -> None:
    if more:
        db.execute("UPDATE counters SET value = value + ? WHERE name = ?", (more, name))
