"""The columns of a list of sessions, as many as there is room for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

GAP = 2
# An id is told by its beginning, as `show` takes it; less is soon another one's as well.
ID_CHARS = 8
# Less of a name says nothing.
LEAST_CHARS = 12


class Column(NamedTuple):
    """`short` is what stands there where room is little."""

    name: str
    cells: Sequence[str]
    short: Sequence[str] = ()

    @property
    def width(self) -> int:
        return max(map(len, (self.name, *self.cells)))


Columns = list[Column]


def fitted(columns: Columns, width: int) -> Columns:
    """What is left of them; the least needed goes first."""
    for step in (_without_empty, *_STEPS):
        if _total(columns) <= width:
            break
        columns = step(columns, width)
    return columns


def beginnings(ids: Sequence[str]) -> list[str]:
    """Of each as much as tells it from the others."""
    length = ID_CHARS
    while len({id_[:length] for id_ in ids}) < len(set(ids)):
        length += 1
    return [id_[:length] for id_ in ids]


def _total(columns: Columns) -> int:
    return sum(column.width for column in columns) + GAP * (len(columns) - 1)


def _without_empty(columns: Columns, width: int) -> Columns:
    return [column for column in columns if any(column.cells)]


def _shortened(name: str) -> Callable[[Columns, int], Columns]:
    return lambda columns, width: [
        column._replace(cells=column.short) if column.name.startswith(name) else column for column in columns
    ]


def _cut(name: str) -> Callable[[Columns, int], Columns]:
    """To what the others leave it, or not at all."""

    def step(columns: Columns, width: int) -> Columns:
        wide = next((column for column in columns if column.name == name), None)
        if wide is None or (room := width - _total(columns) + wide.width) < LEAST_CHARS:
            return columns
        cells = [cell if len(cell) <= room else f"{cell[: room - 1]}…" for cell in wide.cells]
        return [column._replace(cells=cells) if column is wide else column for column in columns]

    return step


def _without(name: str) -> Callable[[Columns, int], Columns]:
    return lambda columns, width: [column for column in columns if column.name != name]


_STEPS = (
    _shortened("started"),
    _shortened("session"),
    _cut("agent, model"),
    _without("user"),
    _cut("agent, model"),
    *map(_without, ("agent, model", "interr.", "tools", "lost", "p50, p95", "end", "turns", "length")),
)
