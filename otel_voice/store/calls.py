"""The table of calls: filters to SQL, and plots."""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from typing import Any

from otel_voice.store.rows import Call, Filter, Plots
from otel_voice.store.words import TURN_BITS, terms

# Bins that a plot has at most.
TIME_BINS, LATENCY_BINS = 60, 50
_S, _M, _H, _D = 1_000.0, 60_000.0, 3_600_000.0, 86_400_000.0
_TIME_WIDTHS = (
    *(n * _S for n in (1, 2, 5, 10, 15, 30)),
    *(n * _M for n in (1, 2, 5, 10, 15, 30)),
    *(n * _H for n in (1, 2, 3, 6, 12)),
    *(n * _D for n in (1, 2, 7, 14, 28, 91, 182, 364)),
)
_LATENCY_WIDTHS = (10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0)
END_REASONS = 20
_COLUMNS = {name: name for name in Call._fields}
_TEXT_COLUMNS = ("user_id", "agent_name", "model")

# Nothing of a session that was erased.
INSERT = "INSERT OR REPLACE INTO calls SELECT * FROM (VALUES {}) WHERE column1 IN (SELECT no FROM sessions)"


def where(chosen: Filter, words: bool) -> tuple[str, list[Any]]:
    """The filter as a condition in SQL on the table `calls`, with its values."""
    parts, values = ["1"], list[Any]()
    for column, is_, value in chosen.conditions:
        parts.append(f"calls.{_COLUMNS[column]} {is_} ?")
        values.append(value)
    if chosen.text:
        said, more = _anywhere(chosen.text, words)
        parts.append(said)
        values += more
    return " AND ".join(parts), values


def _anywhere(text: str, words: bool) -> tuple[str, list[Any]]:
    escaped = "".join(f"\\{c}" if c in "\\%_" else c for c in text)
    parts = [rf"calls.{column} LIKE ? ESCAPE '\'" for column in _TEXT_COLUMNS] + [r"calls.id LIKE ? ESCAPE '\'"]
    values: list[Any] = [f"%{escaped}%"] * len(_TEXT_COLUMNS) + [f"{escaped}%"]
    if words and (found := terms(text)):
        parts.append("calls.no IN (SELECT rowid >> ? FROM words WHERE words MATCH ?)")
        values += [TURN_BITS, found]
    return f"({' OR '.join(parts)})", values


def plots(db: sqlite3.Connection, chosen: Filter, words: bool) -> Plots:
    condition, values = where(chosen, words)
    db.execute("BEGIN")
    try:
        # Found once, for five looks at it.
        db.execute(_FOUND.format(condition), values)
        return _plots(db)
    finally:
        # What took too long was rolled back already.
        if db.in_transaction:
            db.execute("ROLLBACK")


def _plots(db: sqlite3.Connection) -> Plots:
    bounds = "SELECT count(*), min(started_at), max(started_at), max(p50_ms), max(p95_ms) FROM temp.found"
    count, first, last, p50, p95 = db.execute(bounds).fetchone()
    bin_ms = _width(_TIME_WIDTHS, (last or 0) - (first or 0), TIME_BINS - 1)
    latency_ms = _width(_LATENCY_WIDTHS, max(p50 or 0, p95 or 0), LATENCY_BINS - 1)
    first = (first or 0) // bin_ms * bin_ms
    return Plots(
        calls=count,
        first=first,
        bin_ms=bin_ms,
        starts=_bins(db, "(started_at - ?) / ?", first, bin_ms),
        latency_bin_ms=latency_ms,
        p50=_bins(db, "p50_ms / ?", latency_ms),
        p95=_bins(db, "p95_ms / ?", latency_ms),
        end_reasons=db.execute(_END_REASONS, (END_REASONS,)).fetchall(),
    )


def _bins(db: sqlite3.Connection, place: str, *values: float) -> list[int]:
    found = db.execute(_BINNED.format(place), values).fetchall()
    counts = [0] * (1 + max((bin_ for bin_, _ in found), default=-1))
    for bin_, count in found:
        counts[bin_] = count
    return counts


def _width(widths: tuple[float, ...], span: float, bins: int) -> float:
    """The narrowest of these, or the fewest of the last one, so that no more than so many bins span it."""
    at = bisect_left(widths, span / bins)
    return widths[at] if at < len(widths) else widths[-1] * (1 + span // bins // widths[-1])


_FOUND = "CREATE TEMP TABLE found AS SELECT started_at, p50_ms, p95_ms, end_reason FROM calls WHERE {}"
_BINNED = "SELECT CAST({} AS INTEGER) AS bin, count(*) FROM temp.found WHERE bin >= 0 GROUP BY bin"
_END_REASONS = """
SELECT end_reason, count(*) AS n FROM temp.found WHERE end_reason IS NOT NULL
GROUP BY end_reason ORDER BY n DESC, end_reason LIMIT ?
"""
