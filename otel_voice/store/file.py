"""The database file: claimed by one process, opened, prepared, and set aside where it is damaged."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import re
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO, TypeVar

from otel_voice.store import words
from otel_voice.store.rows import Damaged, Locked, TooLong, Unavailable, Unwritable
from otel_voice.store.schema import VERSION, carry_over, check_version, version_of

log = logging.getLogger(__name__)
T = TypeVar("T")

FILE = "otel-voice.db"
# Left by a process that met damage in the middle of its work: the next one reads the whole file before it trusts it.
SUSPECT = FILE + ".suspect"
# What is left of an index of words that was given up.
_UNUSED = re.compile(r"Page \d+(:| is) never used")
# Readers hold the write-ahead log open; once they are gone it gives the disk back down to this.
_WAL_BYTES = 64 * 2**20


def unavailable(error: Exception) -> Unavailable:
    """What went wrong in SQLite, as this package's own error."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_INTERRUPT:
        return TooLong(str(error))
    if words.is_damage(error):
        return Damaged(str(error))
    # What the machine refuses is an OperationalError; anything else is about the values.
    return (Unavailable if isinstance(error, sqlite3.OperationalError) else Unwritable)(str(error))


@contextlib.contextmanager
def as_unavailable() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise unavailable(error) from error


def lock(directory: Path) -> TextIO:
    """Claims a data directory, made if need be, for as long as the file is open. Raises Locked, or OSError."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = (directory / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise Locked(f"another otel-voice works on {directory}; stop it or choose another --data-dir") from None
    _locks.add(file)
    return file


def _let_go() -> None:
    """A forked child would hold the directory as long as it lives."""
    for file in _locks:
        file.close()


_locks: weakref.WeakSet[TextIO] = weakref.WeakSet()
os.register_at_fork(after_in_child=_let_go)


def suspect(directory: Path) -> None:
    """The next start is to read the whole file."""
    with contextlib.suppress(
        OSError
    ):  # where even this cannot be written, the next start meets the damage as this one did
        (directory / SUSPECT).touch()


def open_(directory: Path, synchronous: str, look: Callable[[sqlite3.Connection], T]) -> tuple[sqlite3.Connection, T]:
    """The file, ready to be written, and what `look` finds in it at the start. A damaged one is set aside and a new one
    begun. Raises OtherSchema, Unavailable."""
    path = directory / FILE
    try:
        return _open(path, synchronous, look)
    except Damaged as damaged:
        aside = _set_aside(path)
        db, _ = _open(path, synchronous, look)
        log.critical(
            "the store %s is damaged (%s): it was set aside as %s, and a new one is begun; %d of its pending spans "
            "could be read and go out. What else is left in its tables can be read with sqlite3",
            *(path, " ".join(str(damaged).split()), aside.name, _carry_over(aside, db)),
        )
        return db, look(db)


def _carry_over(aside: Path, db: sqlite3.Connection) -> int:
    """Pending spans that can still be read, as spans of no session; says how many."""
    count = 0
    db.execute("BEGIN IMMEDIATE")
    with contextlib.suppress(sqlite3.Error), contextlib.closing(read_only(aside)) as damaged:
        for row in damaged.execute("SELECT body FROM outbox WHERE typeof(body) = 'blob' ORDER BY id"):
            db.execute("INSERT INTO outbox (session, body, at) VALUES (0, ?, ?)", (*row, time.time() * 1000))
            count += 1
    db.execute("UPDATE counters SET value = value + ? WHERE name = 'made'", (count,))
    db.execute("COMMIT")
    return count


def _set_aside(path: Path) -> Path:
    """With what SQLite keeps beside it, under a name that is free."""
    names = (path.with_name(f"{FILE}.damaged-{number}") for number in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    path.with_name(SUSPECT).unlink(missing_ok=True)
    return aside


def _open(path: Path, synchronous: str, look: Callable[[sqlite3.Connection], T]) -> tuple[sqlite3.Connection, T]:
    # Before SQLite makes it: the files beside it get the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    version = _version(path)
    path.chmod(0o600)
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    with contextlib.ExitStack() as unless_prepared:
        unless_prepared.callback(db.close)
        try:
            _prepare(db, synchronous)
            _read_suspect(db, path)
            carry_over(db, path)
            _make_words(db, path)
            # Where their index was damaged, more may be.
            _read_suspect(db, path)
            found = look(db)
        except sqlite3.Error as error:
            raise type(unavailable(error))(_why(path, version, error)) from error
        unless_prepared.pop_all()
    return db, found


def _version(path: Path) -> int:
    """Read before anything may be written: what a newer version wrote is left as it is. Raises OtherSchema,
    Unavailable."""
    try:
        with contextlib.closing(read_only(path)) as db:
            version = version_of(db)
    except sqlite3.Error as error:
        raise type(unavailable(error))(f"{path} cannot be opened: {error}") from error
    check_version(path, version)
    return version


def read_only(path: Path) -> sqlite3.Connection:
    address = f"{path.absolute().as_uri()}?mode=ro"
    db = sqlite3.connect(address, uri=True, check_same_thread=False, isolation_level=None)
    db.execute("PRAGMA busy_timeout = 5000")
    return db


def _why(path: Path, version: int, error: sqlite3.Error) -> str:
    if 0 < version < VERSION:
        over = f"be carried over from schema {version} to {VERSION}"
        return f"{path} cannot {over} ({error}): see to the disk and start again; nothing of it is lost"
    return f"{path} cannot be opened: {error}"


def _prepare(db: sqlite3.Connection, synchronous: str) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {synchronous}")
    db.execute("PRAGMA busy_timeout = 5000")
    db.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
    # What is erased is overwritten, whatever SQLite was built with.
    db.execute("PRAGMA secure_delete = ON")


def _make_words(db: sqlite3.Connection, path: Path) -> None:
    try:
        made = words.make(db)
    except sqlite3.DatabaseError as error:
        if not words.is_damage(error):
            raise
        made = begin_words_anew(db, path.parent, error)
    if not made:
        log.warning("SQLite %s was built without FTS5: transcripts cannot be searched", sqlite3.sqlite_version)


def begin_words_anew(db: sqlite3.Connection, directory: Path, error: BaseException) -> bool:
    """Their index is damaged, and nothing else, as far as one knows. Says whether there is one now."""
    log.error(
        "the index of words in %s is damaged (%s) and begun anew: what was said before is not found by its words any "
        "more; all else is kept, and its pages are given back by the next start at the latest",
        *(directory / FILE, error),
    )
    # Out of the schema first: whatever reads the file after this has no damaged index in it.
    words.give_up(db)
    suspect(directory)
    return words.make(db)


def _read_suspect(db: sqlite3.Connection, path: Path) -> None:
    """The whole file, where there is reason to. Raises Damaged."""
    marker = path.with_name(SUSPECT)
    if not marker.exists():
        return
    found = complaints(db)
    if found:
        # The damage may lie in the index of words alone.
        begin_words_anew(db, path.parent, Damaged(found[0]))
        found = complaints(db)
    if found:
        raise Damaged(f"{path} cannot be used: {found[0]}")
    if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        # Pages that nobody uses go, and with them the words that may be on them.
        try:
            db.execute("VACUUM")
        except sqlite3.OperationalError as error:
            log.warning("%s has pages that nobody uses, and they stay until the next start: %s", path, error)
            return
    for check in ("PRAGMA quick_check(1)", "PRAGMA integrity_check(1)"):
        (wrong,) = db.execute(check).fetchone()
        if wrong != "ok":
            raise Damaged(f"{path} cannot be used: {wrong}")
        # An index is made again from its table, and the second check compares them.
        with contextlib.suppress(sqlite3.IntegrityError):
            db.execute("REINDEX")
    marker.unlink()


def complaints(db: sqlite3.Connection) -> list[str]:
    """What is wrong with the file, without the pages that nobody uses."""
    try:
        found = db.execute("PRAGMA quick_check(1000000)").fetchall()
    except sqlite3.DatabaseError as error:
        if not words.is_damage(error):
            raise
        return [str(error)]
    lines = [line for (text,) in found for line in str(text).splitlines()]
    return [line for line in lines if line != "ok" and not line.startswith("***") and not _UNUSED.fullmatch(line)]
