"""`python -m benchmarks.bench [--quick] [--only ROW ...]`: every row, and what it was to reach.

Rows are kept in benchmarks/results.json, so that a run with --only replaces those alone; the table is results.md there.
The quick form prints, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import http, states, turns
from otel_voice import __version__

FOLDER = Path(__file__).parent
ROWS, TABLE = FOLDER / "results.json", FOLDER / "results.md"
PACKAGES = ("starlette", "uvicorn", "uvloop", "httptools", "msgspec", "opentelemetry-sdk", "langfuse")
HEAD = """# Speed

What `make bench` measured: every server on a core of its own, load and backend on another, the same bytes for each,
interleaved, medians. Ratios hold; absolute figures belong to the machine and the minute.

`bare` is a Starlette route that reads nothing and answers 204. `sdk` is what an engineer would build: Starlette, a
span of OpenTelemetry's SDK an event, BatchSpanProcessor, OTLP over HTTP; `langfuse` the same with a call of Langfuse's
SDK an event. Neither keeps anything on disk. `otel_voice` is `otel-voice serve` with its token checks, FULL commits
before each answer, mapping (three spans a turn) and export; `otel_voice_normal` with NORMAL commits. CPU is counted
until the last span has arrived, so "a CPU second" counts all of the work.

| work | measured | to reach | |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Goal:
    """A figure, what it was to be, and whether it is."""

    work: str
    figure: str
    value: float
    bound: float
    at_least: bool = True
    unit: str = ""

    @property
    def is_reached(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    @property
    def line(self) -> str:
        bound = f"{'at least' if self.at_least else 'at most'} {self.bound:g}{self.unit}"
        reached = "yes" if self.is_reached else "**no**"
        return f"| {self.work} | {self.figure}: {shown(self.value)}{self.unit} | {bound} | {reached} |"


def shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True)
class Done:
    """A row: its goals, and all that was measured as a printed table."""

    goals: list[Goal]
    table: str


def one_event(quick: bool) -> Done:
    row = http.throughput(1, *(_quickly("throughput1") if quick else ()))
    work = "one event a POST, events a CPU second"

    def times(server: str, other: str, bound: float) -> Goal:
        return Goal(work, f"{server} / {other}", row.ratios[f"{server}/{other} events_per_cpu_s"], bound, unit=" times")

    goals = [times("otel_voice", "bare", 0.75), times("otel_voice_normal", "bare", 0.85)]
    return Done([*goals, times("otel_voice", "sdk", 2.5), times("otel_voice", "langfuse", 5.5)], http.table(row))


def fifty_events(quick: bool) -> Done:
    row = http.throughput(50, *(_quickly("throughput50") if quick else ()))
    work, ratio = "50 events a POST, events a CPU second", "events_per_cpu_s"
    goals = [
        Goal(work, "otel_voice / sdk", row.ratios[f"otel_voice/sdk {ratio}"], 15, unit=" times"),
        Goal(work, "otel_voice / langfuse", row.ratios[f"otel_voice/langfuse {ratio}"], 30, unit=" times"),
        Goal(work, "CPU an event", row.medians["otel_voice"].cpu_us, 7, at_least=False, unit=" µs"),
    ]
    return Done(goals, http.table(row))


def latency(quick: bool) -> Done:
    row = http.latency(5000, *(_quickly("latency") if quick else ()))
    ours, sdk = row.medians["otel_voice"], row.medians["sdk"]
    goals = [
        Goal("5,000 events/s", "p99, sdk / otel_voice", sdk.p99_ms / ours.p99_ms, 12, unit=" times"),
        Goal("5,000 events/s", "p99.9, sdk / otel_voice", sdk.p999_ms / ours.p999_ms, 8, unit=" times"),
    ]
    return Done(goals, http.table(row))


def one_turn(quick: bool) -> Done:
    found = turns.measure(1 if quick else turns.ROUNDS)
    work = "a turn with a tool in the process, stored"
    goals = [
        Goal(work, "OpenTelemetry's SDK / ours", found.ratio("otel"), 6, unit=" times"),
        Goal(work, "Langfuse's SDK / ours", found.ratio("langfuse"), 20, unit=" times"),
    ]
    return Done(goals, turns.table(found))


def memory(quick: bool) -> Done:
    found = states.memory(1 if quick else states.ROUNDS, 5_000 if quick else 20_000)
    goals = [
        Goal("memory", "idle process", found.idle_mib, 50, at_least=False, unit=" MiB"),
        Goal("memory", "a session with an open turn", found.session_bytes, 2_000, at_least=False, unit=" bytes"),
    ]
    return Done(goals, states.memory_table(found))


def start(quick: bool) -> Done:
    found = states.start(1, 10_000, 1_000) if quick else states.start()
    filled = f"{found.spans:,} pending spans, {found.open_sessions:,} open sessions"
    goals = [
        Goal("start", "empty store, more than bare uvicorn", found.empty_s - found.bare_s, 0.5, False, " s"),
        Goal("start", filled, found.filled_s, 5, False, " s"),
        Goal("start", f"{filled}, each with a record that its row does not know", found.behind_s, 5, False, " s"),
    ]
    return Done(goals, states.start_table(found))


def export(quick: bool) -> Done:
    found = states.export(1, 20_000) if quick else states.export()
    goals = [
        Goal("export, 50 ms a request", "spans a second", found.spans_per_s, 20_000),
        Goal("export, 50 ms a request", "spans lost", found.spans - found.distinct, 0, at_least=False),
        Goal(
            "export, 50 ms a request",
            "memory above the idle process",
            found.peak_mib - found.idle_mib,
            32,
            False,
            " MiB",
        ),
    ]
    return Done(goals, states.export_table(found))


def growth(quick: bool) -> Done:
    found = states.growth(1, 10_000, 1_000_000, 20_000) if quick else states.growth()
    work = f"{found.open_sessions:,} open sessions, {found.log_rows:,} rows, against an empty store"
    goals = [
        Goal(work, "CPU an event", found.large.cpu_us / found.empty.cpu_us, 1.2, at_least=False, unit=" times"),
        Goal(work, "p99", found.large.p99_ms / found.empty.p99_ms, 1.2, at_least=False, unit=" times"),
    ]
    return Done(goals, states.growth_table(found))


ROWS_BY_NAME: dict[str, Callable[[bool], Done]] = {
    "one-event": one_event,
    "fifty-events": fifty_events,
    "latency": latency,
    "turn": one_turn,
    "memory": memory,
    "start": start,
    "export": export,
    "growth": growth,
}


def _quickly(name: str) -> tuple[int, int]:
    return 1, http.QUICK[name]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 when a row could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description="Measures, writes a table.")
    parser.add_argument("--quick", action="store_true", help="one small round of each; writes nothing")
    parser.add_argument("--only", nargs="+", choices=ROWS_BY_NAME, metavar="ROW", help=", ".join(ROWS_BY_NAME))
    chosen = parser.parse_args(arguments)
    rows = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    names = chosen.only or list(ROWS_BY_NAME)
    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {name} …", flush=True)
        began = time.monotonic()
        done = ROWS_BY_NAME[name](chosen.quick)
        print(
            done.table, *(goal.line for goal in done.goals), f"({time.monotonic() - began:.0f} s)", sep="\n", flush=True
        )
        if not chosen.quick:
            rows[name] = {"goals": [asdict(goal) for goal in done.goals], "table": done.table, "versions": versions()}
            ROWS.write_text(json.dumps(rows, indent=2, sort_keys=True) + "\n")
            TABLE.write_text(written(rows))
    return 0


def written(rows: dict[str, Any]) -> str:
    known = {name: rows[name] for name in ROWS_BY_NAME if name in rows}
    lines = [Goal(**goal).line for row in known.values() for goal in row["goals"]]
    details = [f"## {name}\n\n```\n{row['table']}\n```\n" for name, row in known.items()]
    measured = sorted({row["versions"] for row in known.values()})
    return "\n".join([HEAD + "\n".join(lines), "", *details, *measured, ""])


def versions() -> str:
    day = datetime.now(UTC).date().isoformat()
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    python, sqlite = platform.python_version(), sqlite3.sqlite_version
    return f"{day}: otel-voice {__version__}, Python {python}, SQLite {sqlite}, {packages}."


if __name__ == "__main__":
    sys.exit(main())
