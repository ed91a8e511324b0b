"""The columns of a list of sessions: what is given up where there is little room, and in which order."""

from __future__ import annotations

import pytest

from otel_voice.columns import GAP, Column, beginnings, fitted

ID = "0af76519-16cd-43dd-8448-eb211c80319c"
COLUMNS = [
    Column("started (UTC)", ["2026-11-24 16:10:43"], ["2026-11-24 16:10"]),
    Column("session", [ID], [ID[:8]]),
    Column("user", ["ada@example.com"]),
    Column("agent, model", ["concierge, gemini-2.5-flash-native-audio-preview-09-2025"]),
    Column("length", ["16.2 s"]),
    Column("turns", ["4"]),
    Column("interr.", ["1"]),
    Column("tools", ["3 (1 failed)"]),
    Column("p50, p95", ["610 ms, 3.5 s"]),
    Column("end", ["recording_ended"]),
    Column("lost", [""]),
]


def width(columns: list[Column]) -> int:
    return sum(column.width for column in columns) + GAP * (len(columns) - 1)


def names(columns: list[Column]) -> str:
    return "; ".join(column.name for column in columns)


def test_where_there_is_room_all_is_there() -> None:
    assert fitted(COLUMNS, width(COLUMNS)) == COLUMNS


def test_what_is_empty_goes_first() -> None:
    assert fitted(COLUMNS, width(COLUMNS) - 1) == COLUMNS[:-1]


@pytest.mark.parametrize("columns", range(26, 260))
def test_it_is_never_wider_than_the_terminal(columns: int) -> None:
    assert width(fitted(COLUMNS, columns)) <= columns


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (80, "started (UTC); session; length; turns; p50, p95; end"),
        (100, "started (UTC); session; length; turns; interr.; tools; p50, p95; end"),
        (120, "started (UTC); session; agent, model; length; turns; interr.; tools; p50, p95; end"),
        (140, "started (UTC); session; user; agent, model; length; turns; interr.; tools; p50, p95; end"),
    ],
)
def test_what_is_told_of_a_session_goes_by_the_room(columns: int, shown: str) -> None:
    assert names(fitted(COLUMNS, columns)) == shown


def test_a_name_is_cut_to_what_room_there_is() -> None:
    (agent,) = [column for column in fitted(COLUMNS, 140) if column.name == "agent, model"]
    assert agent.cells[0].startswith("concierge, gem") and agent.cells[0].endswith("…")
    assert width(fitted(COLUMNS, 140)) == 140


def test_ids_are_as_short_as_tells_them_apart() -> None:
    assert beginnings([ID, "1420e15b-8c42", "second-call", "ab"]) == ["0af76519", "1420e15b", "second-c", "ab"]
    assert beginnings(["0af76519-16a", "0af76519-16b"]) == ["0af76519-16a", "0af76519-16b"]
    assert beginnings([ID, ID]) == [ID[:8], ID[:8]]
