"""`python -m benchmarks.faults [--only NAME ...] [--short]`: every fault in its long form, and a table of what it did.

Rows are kept in benchmarks/faults.json, so that a run with --only replaces those alone; the table is faults.md there.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from otel_voice import __version__
from tests.components.build import COLLECTOR
from tests.faults import FAULTS, Absent, Fault, Row, Stage

FOLDER = Path(__file__).parent
ROWS, TABLE, FUZZ = FOLDER / "faults.json", FOLDER / "faults.md", FOLDER / "fuzz.json"
COLUMNS = ("fault", "what was done", "issued", "accepted", "missing", "wrong", "duplicates", "measured", "holds")
HEAD = """# Faults

What `python -m benchmarks.faults` did to real processes, and what the oracle (tests/oracle.py) then found at the
backend. Issued, accepted, missing and wrong count events; every event that got a 2xx has to be there. Duplicates count
spans that came once more, the same to the byte.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 when a fault that was run does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description="Runs the faults, writes a table.")
    parser.add_argument("--only", nargs="+", choices=[fault.name for fault in FAULTS], metavar="NAME")
    parser.add_argument("--short", action="store_true", help="as the tests run them")
    chosen = parser.parse_args(arguments)
    rows = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    run = [fault for fault in FAULTS if not chosen.only or fault.name in chosen.only]
    for number, fault in enumerate(run, 1):
        print(f"[{number}/{len(run)}] {fault.name} …", flush=True)
        began = time.monotonic()
        rows[fault.name] = asdict(outcome(fault, chosen.short)) | {"versions": versions(), "short": chosen.short}
        print(f"    {sentence(rows[fault.name])} ({time.monotonic() - began:.0f} s)", flush=True)
        ROWS.write_text(json.dumps(rows, indent=2, sort_keys=True) + "\n")
        TABLE.write_text(table(rows))
    return 0 if all(rows[fault.name]["holds"] for fault in run) else 1


def outcome(fault: Fault, short: bool) -> Row:
    """The fault's row; when it cannot be run or breaks off, the row says so and the others go on."""
    folder = Path(tempfile.mkdtemp(prefix="otel-voice-faults-"))
    try:
        with Stage(folder) as stage:
            return fault.run(stage, **(fault.short if short else fault.full))
    except Absent as absent:
        return broken_off(fault, f"not run: {absent}")
    except Exception as error:
        told = str(error).replace(str(folder), "…")
        print(told, file=sys.stderr)
        return broken_off(fault, f"broke off: {type(error).__name__}: {told.splitlines()[0] if told else ''}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def broken_off(fault: Fault, reason: str) -> Row:
    return Row(fault.name, "", 0, 0, 0, 0, 0, reason, False)


def sentence(row: dict[str, Any]) -> str:
    counted = ", ".join(f"{name} {row[name]}" for name in ("issued", "accepted", "missing", "wrong", "duplicates"))
    faults = "".join(f"\n    {fault}" for fault in row["first_faults"])
    return f"{'holds' if row['holds'] else 'DOES NOT HOLD'}: {counted}; {row['measured']}{faults}"


def table(rows: dict[str, dict[str, Any]]) -> str:
    shown = [rows[fault.name] for fault in FAULTS if fault.name in rows]
    lines = [HEAD, f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(map(cell, cells(row)))} |" for row in shown]
    if FUZZ.exists():
        fuzz = json.loads(FUZZ.read_text())
        total, how = (
            fuzz["hypothesis"] + fuzz["atheris"],
            f"{fuzz['hypothesis']:,} by Hypothesis, {fuzz['atheris']:,} by Atheris",
        )
        lines += ["", f"Fuzzed inputs: {total:,} ({how}), {fuzz['failures']} failures."]
    lines += ["", *sorted({f"{row['versions']}." for row in shown}), ""]
    return "\n".join(lines)


def cells(row: dict[str, Any]) -> list[str]:
    done = f"{row['done']} (short form)" if row["short"] else row["done"]
    counted = [f"{row[name]:,}" for name in COLUMNS[2:7]]
    return [row["fault"], done, *counted, row["measured"], "yes" if row["holds"] else "**no**"]


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def versions() -> str:
    binary = COLLECTOR.find()
    said = subprocess.run([binary, "--version"], capture_output=True, text=True).stdout.split() if binary else ["none"]
    day = datetime.now(UTC).date().isoformat()
    python, sqlite = platform.python_version(), sqlite3.sqlite_version
    return f"{day}: otel-voice {__version__}, Python {python}, SQLite {sqlite}, collector {said[-1]}"


if __name__ == "__main__":
    sys.exit(main())
