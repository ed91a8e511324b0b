"""What an operator does to dead letters, also while a receiver works on the directory: nothing of them is cached."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from otel_voice.store.file import FILE, as_unavailable


def retry(directory: Path, ids: Sequence[int]) -> int:
    """Puts these back among the pending ones; says how many there were. Raises Unavailable."""
    with _writing(directory) as db:
        again = "INSERT INTO outbox (session, body, at) SELECT session, body, ? FROM dead_letters WHERE id = ?"
        db.executemany(again, [(time.time() * 1000, id_) for id_ in dict.fromkeys(ids)])
        return _take_out(db, ids)


def drop(directory: Path, ids: Sequence[int]) -> int:
    """Gives these up for good; says how many there were. Raises Unavailable."""
    with _writing(directory) as db:
        count = _take_out(db, ids)
        db.execute("UPDATE counters SET value = value + ? WHERE name = 'dropped'", (count,))
        return count


def _take_out(db: sqlite3.Connection, ids: Sequence[int]) -> int:
    count = db.executemany("DELETE FROM dead_letters WHERE id = ?", [(id_,) for id_ in ids]).rowcount
    db.execute("UPDATE counters SET value = value - ? WHERE name = 'dead'", (count,))
    return count


@contextlib.contextmanager
def _writing(directory: Path) -> Iterator[sqlite3.Connection]:
    address = f"{(directory / FILE).absolute().as_uri()}?mode=rw"
    with as_unavailable(), contextlib.closing(sqlite3.connect(address, uri=True, isolation_level=None)) as db:
        db.execute("PRAGMA busy_timeout = 10000")
        db.execute("BEGIN IMMEDIATE")
        yield db
        db.execute("COMMIT")
