"""Reader: what the store holds, read beside the process that writes it or without one."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from otel_voice.store import words
from otel_voice.store.calls import plots, where
from otel_voice.store.file import FILE, as_unavailable, complaints, read_only
from otel_voice.store.rows import (
    Damaged,
    DeadLetter,
    Filter,
    Ledger,
    LogRow,
    OtherSchema,
    Pending,
    Plots,
    SessionRow,
    Unavailable,
)
from otel_voice.store.schema import VERSION, check_version, version_of

# How often it is seen whether a read takes too long, in steps of SQLite's machine: some milliseconds.
STEPS = 100_000

T = TypeVar("T")


class Reader:
    """Reads a data directory, from any thread; none waits for another. `on_damage` hears of a file that is no database
    any more, `on_damaged_words` of an index of words that is none; what takes longer than `limit_s` is given up.

    Raises FileNotFoundError, OtherSchema, Unavailable."""

    def __init__(
        self,
        directory: Path,
        on_damage: Callable[[Damaged], None] = lambda _: None,
        on_damaged_words: Callable[[BaseException], None] = lambda _: None,
        limit_s: float = math.inf,
    ) -> None:
        path = directory / FILE
        if not path.exists():
            raise FileNotFoundError(f"there is no store in {directory}")
        self._path = path
        self._on_damage, self._on_damaged_words, self.limit_s = on_damage, on_damaged_words, limit_s
        # Connections, as many as were ever needed at once. A list's ends are for one thread at a time.
        self._free = [self._connect()]
        self._closed = False
        try:
            version = version_of(self._free[0])
            check_version(path, version)
            if version == 0:
                raise FileNotFoundError(f"there is no store in {directory} yet")
        except (OtherSchema, FileNotFoundError):
            self.close()
            raise
        except sqlite3.Error:  # what is no database says so when it is read
            pass

    def _connect(self) -> sqlite3.Connection:
        with as_unavailable():
            return read_only(self._path)

    def close(self) -> None:
        self._closed = True
        while self._free:
            self._free.pop().close()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        db = self._taken()
        if self.limit_s < math.inf:
            ends = time.monotonic() + self.limit_s
            db.set_progress_handler(lambda: time.monotonic() > ends, STEPS)
        try:
            with as_unavailable():
                yield db
        except Damaged as damaged:
            self._on_damage(damaged)
            raise
        finally:
            self._free.append(db)
            if self._closed:
                self.close()

    def _taken(self) -> sqlite3.Connection:
        with contextlib.suppress(IndexError):
            return self._free.pop()
        if self._closed:
            raise Unavailable("the store is closed")
        return self._connect()

    def _all(self, sql: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        with self._reading() as db:
            return db.execute(sql, values).fetchall()

    @property
    def is_older(self) -> bool:
        """Whether the next start carries it over to another schema."""
        with self._reading() as db:
            return version_of(db) < VERSION

    def check(self) -> tuple[str, bool] | None:
        """What is wrong with the file, and whether that is the index of words alone; None where nothing is. Reads all
        of it. Raises Unavailable."""
        with self._reading() as db:
            found = complaints(db)
            return (found[0], _is_sound_but_for_words(db)) if found else None

    # Sessions and their log

    def session(self, id_: str) -> SessionRow | None:
        rows = self._sessions(f"{_SESSION} WHERE id = ?", (id_,))
        return rows[0] if rows else None

    def ids_beginning(self, beginning: str, limit: int) -> list[str]:
        """The ids of so many sessions at most, in their order."""
        found = self._all(_IDS, (beginning, beginning, min(limit, 2**31)))
        return [str(id_) for (id_,) in found]

    def by_number(self, numbers: Iterable[int]) -> list[SessionRow]:
        return [row for no in numbers for row in self._sessions(f"{_SESSION} WHERE no = ?", (no,))]

    def open_sessions(self) -> list[SessionRow]:
        """Those to which time will do something."""
        return self._sessions(f"{_SESSION} WHERE due IS NOT NULL")

    def sessions(self, limit: int, before: int | None = None) -> list[SessionRow]:
        """The latest made first, for a start may still move; `before` is the last `no` of the page before."""
        page = f"{_SESSION} WHERE no < ? ORDER BY no DESC LIMIT ?"
        return self._sessions(page, (2**62 if before is None else before, min(limit, 2**31)))

    def found(self, chosen: Filter, limit: int, before: int | None = None) -> list[SessionRow]:
        """Of the calls that the filter lets through, the latest made first."""
        page = (2**62 if before is None else before, min(limit, 2**31))

        def read(db: sqlite3.Connection, by_words: bool) -> list[SessionRow]:
            condition, values = where(chosen, by_words)
            return [SessionRow(*row) for row in db.execute(_CALLS.format(condition), (*values, *page))]

        return self._search(chosen, read)

    def changed(self, since: float, limit: int) -> tuple[list[SessionRow], float]:
        """Of those whose rows were written after the time `since` (ms), the latest made; and when the last was."""
        with self._reading() as db:
            db.execute("BEGIN")
            try:
                found = db.execute(_CALLS.format("calls.changed_at > ?"), (since, 2**62, limit)).fetchall()
                ((last,),) = db.execute("SELECT max(changed_at) FROM calls").fetchall()
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
        return [SessionRow(*row) for row in found], max(since, last or 0.0)

    def plots(self, chosen: Filter) -> Plots:
        return self._search(chosen, lambda db, by_words: plots(db, chosen, by_words))

    def _search(self, chosen: Filter, read: Callable[[sqlite3.Connection, bool], T]) -> T:
        """By words, too, where there are any. What fails by them and not without them is damage to their index."""
        with self._reading() as db:
            try:
                return read(db, bool(chosen.text) and words.are_there(db))
            except sqlite3.DatabaseError as error:
                if not chosen.text or not words.is_damage(error):
                    raise
                found = read(db, False)
                self._on_damaged_words(error)
                return found

    @property
    def has_words(self) -> bool:
        """Whether transcripts can be found by their words."""
        with self._reading() as db:
            return words.are_there(db)

    def _sessions(self, sql: str, values: Sequence[object] = ()) -> list[SessionRow]:
        return [SessionRow(*row) for row in self._all(sql, values)]  # type: ignore[arg-type]

    def log(self, session: int, head: int | None = None) -> list[LogRow]:
        """A session's records in the log's order; whoever knows the last one's number spares the search for it."""
        return self.log_after(session, head, 0)[0]

    def log_after(self, session: int, head: int | None, after: int) -> tuple[list[LogRow], int]:
        """Those that follow the log's row `after`, and the number of the last."""
        values = {"session": session, "head": head, "after": after}
        with self._reading() as db:
            rows = db.execute(_LOG_UP_TO if head is not None else _LOG_OF_SESSION, values).fetchall()
        return [LogRow(at, body, events) for _, at, body, events in rows], rows[-1][0] if rows else after

    def log_pages(self, session: int, size: int) -> list[list[int]]:
        """The numbers of a session's records in the log's order, by pages of as many as have `size` bytes together, or
        of one that has more."""
        pages, left = list[list[int]](), 0
        with self._reading() as db:
            for id_, length in db.execute(_LENGTHS, {"session": session}):
                if not pages or length > left:
                    pages.append([])
                    left = size
                pages[-1].append(id_)
                left -= length
        return pages

    def log_page(self, numbers: list[int]) -> list[LogRow]:
        """Records by their numbers, in the log's order; none that was erased."""
        chosen = "SELECT at, body, events FROM log WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"
        return [LogRow(*row) for row in self._all(chosen, (str(numbers),))]  # type: ignore[arg-type]

    def past(self, after: int, before: float, delivered: bool) -> tuple[list[tuple[int, str]], int | None]:
        """Sessions (number, id) that may be let go of: over, begun before the time `before` (ms), none of their spans a
        dead letter or, with `delivered`, pending. Looks at the 1,000 after the number `after`, and says which was the
        last; None when there are no more."""
        with self._reading() as db:
            seen = db.execute("SELECT no, id, started_at FROM sessions WHERE no > ? ORDER BY no LIMIT 1000", (after,))
            rows: list[tuple[int, str, float]] = seen.fetchall()
            old = [(no, id_) for no, id_, started_at in rows if started_at < before]
            past = [(no, id_) for no, id_ in old if db.execute(IS_PAST, (no, not delivered)).fetchone()]
        return past, rows[-1][0] if rows else None

    # Spans on their way

    def pending(self, spans: int, size: int, without: Collection[int] = ()) -> list[Pending]:
        """The first rows of the outbox but some: as many as `spans` and, past the first one, `size` bytes allow."""
        rows: list[Pending] = []
        with self._reading() as db:
            found = db.execute("SELECT id, session, body FROM outbox ORDER BY id LIMIT ?", (spans + len(without),))
            for row in map(Pending._make, found):
                if row.id in without:
                    continue
                size -= len(row.body)
                if rows and (size < 0 or len(rows) == spans):
                    break
                rows.append(row)
            found.close()
        return rows

    def pending_row(self, id_: int) -> Pending | None:
        rows = self._all("SELECT id, session, body FROM outbox WHERE id = ?", (id_,))
        return Pending(*rows[0]) if rows else None  # type: ignore[arg-type]

    def last_pending(self) -> int:
        """The number of the outbox's last row; 0 where it has none."""
        ((last,),) = self._all("SELECT coalesce(max(id), 0) FROM outbox")
        return int(last)  # type: ignore[call-overload,no-any-return]

    def pending_since(self) -> float | None:
        """When the first row of the outbox was put there (ms); None where it has none, or nobody knows."""
        rows = self._all("SELECT at FROM outbox ORDER BY id LIMIT 1")
        return float(rows[0][0]) if rows and rows[0][0] is not None else None  # type: ignore[arg-type]

    def is_pending(self, up_to: int) -> bool:
        """Whether a row of the outbox up to this one still waits."""
        return bool(self._all("SELECT 1 FROM outbox WHERE id <= ? LIMIT 1", (up_to,)))

    def dead_letters(self, limit: int) -> list[DeadLetter]:
        """The first ones, in the order in which they were refused."""
        rows = self._all(f"{_DEAD_LETTER} ORDER BY dead_letters.id LIMIT ?", (limit,))
        return [DeadLetter(*row) for row in rows]  # type: ignore[arg-type]

    def dead_numbers(self) -> list[int]:
        """Of all dead letters."""
        return [int(id_) for (id_,) in self._all("SELECT id FROM dead_letters ORDER BY id")]  # type: ignore[call-overload]

    def dead_letter(self, id_: int) -> DeadLetter | None:
        rows = self._all(f"{_DEAD_LETTER} WHERE dead_letters.id = ?", (id_,))
        return DeadLetter(*rows[0]) if rows else None  # type: ignore[arg-type]

    # The ledger

    def ledger(self) -> Ledger:
        """By the counters: what they leave over is open or pending."""
        counted: dict[str, int] = dict(self._all("SELECT name, value FROM counters"))  # type: ignore[arg-type]
        open_ = counted["accepted"] - counted["mapped"] - counted["erased"]
        pending = counted["made"] - counted["delivered"] - counted["dead"] - counted["dropped"]
        return _ledger(counted, open_, pending, counted["dead"])

    def counted_ledger(self) -> Ledger:
        """The same with all that is here counted row by row, at one moment: it adds up, or something was lost."""
        with self._reading() as db:
            db.execute("BEGIN")
            try:
                counted: dict[str, int] = dict(db.execute("SELECT name, value FROM counters").fetchall())
                ((open_, pending, dead),) = db.execute(_COUNTED).fetchall()
            finally:
                db.execute("ROLLBACK")
        return _ledger(counted, open_, pending, dead)


def _is_sound_but_for_words(db: sqlite3.Connection) -> bool:
    tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'words%'").fetchall()
    return all(db.execute(f"PRAGMA quick_check('{name}')").fetchone() == ("ok",) for (name,) in tables)


def _ledger(counted: dict[str, int], open_: int, pending: int, dead: int) -> Ledger:
    said = {name: counted[name] for name in ("accepted", "mapped", "erased", "made", "delivered", "dropped")}
    return Ledger(**said, open=open_, pending=pending, dead=dead)


_SESSION = "SELECT no, id, made, due, started_at, status, coalesce(summary, x'') FROM sessions"

# No id has a character as high.
_IDS = "SELECT id FROM sessions WHERE id >= ? AND id < ? || char(0x10ffff) ORDER BY id LIMIT ?"

_CALLS = """
SELECT no, sessions.id, made, due, sessions.started_at, sessions.status, coalesce(summary, x'')
FROM calls CROSS JOIN sessions USING (no) WHERE {} AND calls.no < ? ORDER BY calls.no DESC LIMIT ?
"""

# The session's last row is among those that its own row does not know of yet, or it is the one that this names.
_LOG_UP_TO = """
WITH RECURSIVE
  chain(id, prev, at, body, events) AS (
    SELECT id, prev, at, body, events FROM log WHERE id = :head AND id > :after
    UNION ALL
    SELECT log.id, log.prev, log.at, log.body, log.events FROM chain JOIN log ON log.id = chain.prev
    WHERE log.id > :after)
SELECT id, at, body, events FROM chain ORDER BY id
"""

_LAST = """
(SELECT coalesce(
  (SELECT max(id) FROM log WHERE id > (SELECT value FROM counters WHERE name = 'flushed') AND session = :session),
  (SELECT head FROM sessions WHERE no = :session)))
"""

_LOG_OF_SESSION = _LOG_UP_TO.replace(":head", _LAST)

# A body's length is known without it.
_LENGTHS = """
WITH RECURSIVE
  chain(id, prev, length) AS (
    SELECT id, prev, length(body) FROM log WHERE id = :last
    UNION ALL
    SELECT log.id, log.prev, length(log.body) FROM chain JOIN log ON log.id = chain.prev)
SELECT id, length FROM chain ORDER BY id
""".replace(":last", _LAST)

IS_PAST = """
SELECT 1 FROM sessions WHERE no = ? AND due IS NULL
  AND (? OR NOT EXISTS (SELECT 1 FROM outbox WHERE session = no))
  AND NOT EXISTS (SELECT 1 FROM dead_letters WHERE session = no)
"""

_DEAD_LETTER = """
SELECT dead_letters.id, sessions.id, at, reason, body FROM dead_letters LEFT JOIN sessions ON sessions.no = session
"""

_COUNTED = """
SELECT (SELECT coalesce(sum(events - mapped), 0) FROM sessions WHERE due IS NOT NULL)
     + (SELECT coalesce(sum(events), 0) FROM log WHERE id > (SELECT value FROM counters WHERE name = 'flushed')),
       (SELECT count(*) FROM outbox),
       (SELECT count(*) FROM dead_letters)
"""
