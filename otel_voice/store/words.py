"""The index of the words said in calls (FTS5): a row a turn. Damaged, it alone is given up and begun anew."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

# A turn's words have the number of its session, shifted, and its own: so a session's lie together.
TURN_BITS = 12
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_HAS_SAID = "SELECT 1 FROM words WHERE rowid BETWEEN ? AND ? LIMIT 1"
INSERT = "INSERT OR REPLACE INTO words (rowid, text) VALUES {}"


def make(db: sqlite3.Connection) -> bool:
    """The table that transcripts are found by; False where this SQLite was built without it (FTS5)."""
    try:
        db.execute("CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(text)")
        # Left to itself it would put its pieces together within commits that somebody waits for; the writer does it
        # when nobody does, unless there are too many.
        db.executemany("INSERT INTO words (words, rank) VALUES (?, ?)", [("automerge", 0), ("crisismerge", 64)])
    except sqlite3.OperationalError as error:
        if "no such module" not in str(error):
            raise
        return False
    return True


def are_there(db: sqlite3.Connection) -> bool:
    try:
        db.execute("SELECT 1 FROM words LIMIT 0")
    except sqlite3.OperationalError as error:
        if "no such" not in str(error):
            raise
        return False
    return True


def is_damage(error: BaseException) -> bool:
    """Of the file, or of what FTS5 keeps in it: by the code alone nobody can tell."""
    return _code(error) in _CORRUPT


def may_be_theirs(error: BaseException) -> bool:
    """Of a transaction about them: what FTS5 has lost from its tables, it would put there twice."""
    return _code(error) in (*_CORRUPT, sqlite3.SQLITE_CONSTRAINT)


def _code(error: BaseException) -> int:
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def give_up(db: sqlite3.Connection) -> None:
    """Takes the index out of the schema without a look at its pages, which may name those of other tables: dropping it
    would free these. Its own are nobody's until a VACUUM."""
    db.execute("PRAGMA writable_schema = ON")
    try:
        db.execute("BEGIN IMMEDIATE")
        try:
            db.execute("DELETE FROM sqlite_master WHERE tbl_name = 'words' OR tbl_name LIKE 'words@_%' ESCAPE '@'")
            (version,) = db.execute("PRAGMA schema_version").fetchone()
            # By this the other connections hear of it.
            db.execute(f"PRAGMA schema_version = {version + 1}")
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
    finally:
        db.execute("PRAGMA writable_schema = RESET")


def rows(said: Sequence[tuple[int, int, str]]) -> list[tuple[int, str]]:
    """Of a call with thousands of turns, the first ones are found."""
    return [(session << TURN_BITS | turn, text) for session, turn, text in said if turn >> TURN_BITS == 0]


def has_said(db: sqlite3.Connection, session: int) -> bool:
    return bool(db.execute(_HAS_SAID, _turns_of(session)).fetchone())


def forget(db: sqlite3.Connection, session: int) -> None:
    db.execute("DELETE FROM words WHERE rowid BETWEEN ? AND ?", _turns_of(session))


def _turns_of(session: int) -> tuple[int, int]:
    return session << TURN_BITS, (session + 1 << TURN_BITS) - 1


def merge(db: sqlite3.Connection, pages: int) -> bool:
    """Puts pieces of the index together, some pages of them, and says whether more is to be done. Where `pages` is
    below 0 it begins with the whole index, which leaves out what was deleted."""
    before = db.total_changes
    db.execute("INSERT INTO words (words, rank) VALUES ('merge', ?)", (pages,))
    return db.total_changes - before > 1


def terms(text: str) -> str:
    """A query as FTS5 takes it: all its words, the last of which may go on."""
    words = ["".join(c for c in word if c.isprintable() and c != '"') for word in text.split()]
    quoted = [f'"{word}"' for word in words if any(c.isalnum() for c in word)]
    # What begins with one letter is half of all.
    return " ".join(quoted) + "*" * (len(quoted[-1]) > 3) if quoted else ""
