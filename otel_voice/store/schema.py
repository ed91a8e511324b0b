"""The schema, made in steps: a new store takes all of them, an older one those that it does not have yet.

A step that was released is never edited; what changes is a step more. tests/stores/README.md says how one is added.
"""

from __future__ import annotations

import logging
import sqlite3
from importlib.resources import files
from pathlib import Path

from otel_voice.store.rows import OtherSchema

log = logging.getLogger(__name__)

# By the version that a store has after it.
STEPS = {3: "schema.sql", 4: "calls.sql", 5: "outbox.sql"}
FIRST, VERSION = min(STEPS), max(STEPS)


def version_of(db: sqlite3.Connection) -> int:
    """0 where there is nothing yet."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)


def check_version(path: Path, version: int) -> None:
    """Raises OtherSchema where this release can do nothing with it."""
    if version > VERSION:
        raise OtherSchema(
            f"{path} was written by a newer version of otel-voice (schema {version}, this one knows {VERSION}): "
            "install that version again, or choose another --data-dir; nothing was changed"
        )
    if 0 < version < FIRST:
        raise OtherSchema(
            f"{path} was written before the first release (schema {version}; {FIRST} is the oldest that is "
            "carried over): choose another --data-dir; nothing was changed"
        )


def script(version: int, up_to: int = VERSION) -> str:
    """SQL that makes one schema of the other, in one transaction: killed at any moment, the next start begins again."""
    steps = [files("otel_voice").joinpath("store", STEPS[step]) for step in STEPS if version < step <= up_to]
    sql = "".join(step.read_text(encoding="utf-8") for step in steps)
    return f"BEGIN; {sql} PRAGMA user_version = {up_to}; COMMIT;"


def carry_over(db: sqlite3.Connection, path: Path) -> None:
    """Raises sqlite3.Error."""
    version = version_of(db)
    if version == VERSION:
        return
    db.executescript(script(version))
    if version:
        log.info("the store %s was carried over from schema %d to %d", path, version, VERSION)
