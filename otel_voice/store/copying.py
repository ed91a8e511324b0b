"""A copy of the file, of one moment, also while a receiver works on it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from otel_voice.store.file import FILE, as_unavailable, read_only

# A MiB: as often it is said how far it is.
_PAGES = 256


def copy(directory: Path, to: Path, advance: Callable[[int], None]) -> None:
    """Into a directory that has none yet; `advance` hears of each MiB. Raises Unavailable."""
    os.close(os.open(to / FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with (
        as_unavailable(),
        contextlib.closing(read_only(directory / FILE)) as db,
        contextlib.closing(sqlite3.connect(to / FILE, isolation_level=None)) as copied,
    ):
        # Held until the end: else it would begin again at each of the receiver's commits.
        db.execute("BEGIN")
        db.execute("SELECT 1 FROM sqlite_master").fetchone()
        db.backup(copied, pages=_PAGES, progress=lambda *_: advance(1))
        # No write-ahead log: whoever looks into a backup leaves nothing beside it.
        copied.execute("PRAGMA journal_mode = DELETE")
