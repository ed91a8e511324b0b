"""A data directory that an earlier release left behind: tests/stores has one of each schema since the first release."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_voice.settings import Export, export
from otel_voice.store import FILE, Reader, check, retry
from otel_voice.store.schema import FIRST, STEPS, VERSION, script
from tests.faults import FAILING_DISK
from tests.real import COLLECTOR_CONFIG, LangfuseServer, spans_in
from tests.running import App, running, until
from tests.stores.record import DEAD, DELIVERED, OPEN, PENDING, SOURCE

pytestmark = pytest.mark.anyio

STORES = Path(__file__).parent / "stores"
VERSIONS = sorted(int(path.stem) for path in STORES.glob("*.sql"))
OLDER = [version for version in VERSIONS if version < VERSION]
# What each schema is, as SQLite has it. A schema that was released never changes: make a step more, and note it here.
SCHEMAS = {
    3: "7f0a1d9827098d94f4f3249e24f7073a8cf279913f1e1f435180459fab5d36ef",
    4: "6d4cf618c8bd0ae265537eba4e397256b5475bdb5837a5ba2e179609f454492b",
    5: "19a774c8f6cea4afda5237bb77acf26239a60addb4137e3695c061450be600c0",
}
NO_SPACE = 28  # ENOSPC


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def load(version: int, directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(directory / FILE)) as db:
        db.executescript((STORES / f"{version}.sql").read_text())
    return directory


def rows(directory: Path, sql: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(directory / FILE)) as db:
        return db.execute(sql).fetchall()


def version_in(directory: Path) -> int:
    return int(rows(directory, "PRAGMA user_version")[0][0])


def schema_of(db: sqlite3.Connection) -> list[tuple[str, ...]]:
    """What was made in it, without comments and spaces, and the counters."""
    made = db.execute("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_master ORDER BY 1, 2").fetchall()
    counters = db.execute("SELECT 'counter', name FROM counters ORDER BY name").fetchall()
    return [*((*names, " ".join(re.sub(r"--[^\n]*", "", sql).split())) for *names, sql in made), *counters]


def schema_in(directory: Path) -> list[tuple[str, ...]]:
    with contextlib.closing(sqlite3.connect(directory / FILE)) as db:
        return schema_of(db)


def said_of(version: int) -> dict[str, list[list[str]]]:
    """Name and id of each span of each session, as the release told them."""
    said: dict[str, list[list[str]]] = json.loads((STORES / f"{version}.json").read_text())
    return said


def ids_in(bodies: list[bytes]) -> list[str]:
    exports = [ExportTraceServiceRequest.FromString(body) for body in bodies]
    return sorted(span.span_id.hex() for export in exports for span in spans_in(export))


def hop(server: LangfuseServer) -> Export:
    chosen = export(server.env)
    assert chosen is not None
    return chosen


@contextlib.asynccontextmanager
async def opened(version: int, directory: Path, **settings: Any) -> AsyncIterator[App]:
    """The receiver on such a store, just after it was left."""
    load(version, directory)
    ((last,),) = rows(directory, "SELECT value FROM counters WHERE name = 'last_at'")
    async with running(directory, now=last / 1000 + 1, **settings) as app:
        yield app


def test_there_is_a_store_of_each_schema_since_the_first_release() -> None:
    assert VERSIONS == list(STEPS) == list(range(FIRST, VERSION + 1))


@pytest.mark.parametrize("version", STEPS)
def test_a_schema_that_was_released_is_never_another(version: int) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.executescript(script(0, version))
        found = hashlib.sha256(json.dumps(schema_of(db)).encode()).hexdigest()
    assert SCHEMAS.get(version) == found, "make a step more: tests/stores/README.md says how"


@pytest.mark.parametrize("version", VERSIONS)
def test_an_older_store_becomes_what_a_new_one_is(version: int, tmp_path: Path) -> None:
    for directory in (load(version, tmp_path / "older"), tmp_path / "new"):
        check(directory)
    assert schema_in(tmp_path / "older") == schema_in(tmp_path / "new")
    assert version_in(tmp_path / "older") == VERSION


@pytest.mark.parametrize("version", VERSIONS)
async def test_its_calls_are_listed_shown_and_downloaded(version: int, tmp_path: Path) -> None:
    said = said_of(version)
    async with opened(version, tmp_path) as app:
        listed = (await app.client.get("/v1/sessions")).json()["sessions"]
        assert [each["session_id"] for each in listed] == [OPEN, PENDING, DEAD, DELIVERED]
        assert [each["turn_count"] for each in listed[1:]] == [2, 2, 2]
        found = (await app.client.get("/v1/sessions?agent=concierge&status=ended")).json()["sessions"]
        assert [each["session_id"] for each in found] == [PENDING, DEAD]
        for id_ in (DELIVERED, DEAD, PENDING):
            assert sorted([span["name"], span["span_id"]] for span in await app.spans(id_)) == said[id_]
        lines = (await app.client.get(f"/v1/sessions/{DELIVERED}/events")).text.splitlines()
        assert len([line for line in lines if '"provider_message"' in line]) == 15
        otlp = (await app.client.get(f"/v1/sessions/{DELIVERED}/otlp")).json()
        spans = [span for of in otlp["resourceSpans"] for scope in of["scopeSpans"] for span in scope["spans"]]
        assert sorted(span["spanId"] for span in spans) == sorted(id_ for _, id_ in said[DELIVERED])


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_was_pending_goes_out_once_and_as_it_was(
    version: int, tmp_path: Path, langfuse_server: LangfuseServer
) -> None:
    async with opened(version, tmp_path, export=hop(langfuse_server)) as app:
        waiting = [body for (body,) in rows(load(version, tmp_path / "again"), "SELECT body FROM outbox")]
        await until(lambda: not app.state.store.reader.ledger().pending)
    async with running(tmp_path, export=hop(langfuse_server)) as app:
        assert app.state.store.reader.counted_ledger().adds_up
        # What was refused once is still there, and may be sent again.
        assert retry(tmp_path, app.state.store.reader.dead_numbers()) == 4
        await until(lambda: not app.state.store.reader.counted_ledger().pending and app.state.store.reader.ledger())
    arrived = [span.span_id.hex() for span in langfuse_server.spans]
    assert sorted(arrived) == sorted([*ids_in(waiting), *(id_ for _, id_ in said_of(version)[DEAD])])


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_call_that_was_open_goes_on(version: int, tmp_path: Path, langfuse_server: LangfuseServer) -> None:
    async with opened(version, tmp_path, export=hop(langfuse_server)) as app:
        now = app.clock.now * 1000
        answer = await app.post(
            {"type": "turn_complete", "turn_id": "t2", "agent_text": "And now?", "seq": 5, "ts": now},
            {"type": "session_end", "reason": "user_hangup", "last_seq": 6, "seq": 6, "ts": now + 1},
            session_id=OPEN,
            source=SOURCE,
        )
        assert answer.status_code == 204, answer.text
        app.clock.now += 60

        def whole() -> bool:
            ledger = app.state.store.reader.ledger()
            return not ledger.pending and not ledger.open

        await until(whole)
        summary, spans = await app.summary(OPEN), await app.spans(OPEN)
    assert (summary["turn_count"], summary["events_lost"], summary["end_reason"]) == (2, 0, "user_hangup")
    arrived = [span.span_id.hex() for span in langfuse_server.spans if span.trace_id.hex() == summary["trace_id"]]
    assert sorted(arrived) == sorted(span["span_id"] for span in spans)
    assert {id_ for name, id_ in said_of(version)[OPEN]} <= set(arrived)


@pytest.mark.parametrize("version", OLDER)
def test_what_only_reads_reads_an_older_store_as_it_is(version: int, tmp_path: Path) -> None:
    load(version, tmp_path)
    for command in (("sessions",), ("show", DELIVERED), ("dead-letters",)):
        done = otel_voice(*command, "--data-dir", tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    assert version_in(tmp_path) == version


# What cannot be carried over


def otel_voice(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "otel_voice.cli", *map(str, arguments)]
    given = {"PYTHONPATH": str(COLLECTOR_CONFIG.parent), "HOME": os.environ["HOME"], **env}
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize("command", ["serve", "demo", "sessions"])
@pytest.mark.parametrize(
    ("version", "says"), [(VERSION + 1, "by a newer version of otel-voice"), (FIRST - 1, "before the first release")]
)
def test_a_store_of_a_version_that_is_not_known_stops_the_start_and_is_left_as_it_is(
    version: int, says: str, command: str, tmp_path: Path
) -> None:
    load(VERSION, tmp_path)
    # The version is in the write-ahead log only, as a process leaves it that was killed.
    with contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA user_version = {version}")
        files = {file.name: file.read_bytes() for file in tmp_path.glob(f"{FILE}*") if not file.name.endswith("-shm")}
        shutil.copytree(tmp_path, tmp_path / "killed")
    done = otel_voice(command, "--data-dir", tmp_path / "killed")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert says in done.stderr and f"(schema {version}" in done.stderr and "Locked" not in done.stderr
    assert {name: (tmp_path / "killed" / name).read_bytes() for name in files} == files


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_start_that_was_killed_before_it_made_anything_is_begun_again(mode: str, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute(f"PRAGMA journal_mode = {mode}")
    (tmp_path / FILE).touch()
    for command, code in (("sessions", 1), ("doctor", 0)):
        done = otel_voice(command, "--data-dir", tmp_path)
        assert (done.returncode, "there is no store in" in done.stdout + done.stderr) == (code, True), done
    check(tmp_path)
    assert version_in(tmp_path) == VERSION


def many(directory: Path, count: int) -> None:
    """So many calls in it as take a while to carry over."""
    more = f"WITH RECURSIVE n(n) AS (SELECT 5 UNION ALL SELECT n + 1 FROM n WHERE n < {count}) "
    columns = "head, made, due, started_at, status, summary, events, mapped"
    with contextlib.closing(sqlite3.connect(directory / FILE)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(
            f"INSERT INTO sessions (no, id, {columns}) "
            f"{more} SELECT n, 'call-' || n, NULL, made, due, started_at, status, summary, 0, 0 "
            "FROM n JOIN sessions ON no = 1"
        )
        db.commit()


CHECK = "import pathlib, sys; from otel_voice.store import check; print(flush=True); check(pathlib.Path(sys.argv[1]))"


@contextlib.contextmanager
def carrying_over(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has just begun with it."""
    command, env = [sys.executable, "-c", CHECK, str(directory)], {"PYTHONPATH": str(COLLECTOR_CONFIG.parent)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process


def test_a_start_that_is_killed_while_it_carries_over_leaves_it_to_the_next(tmp_path: Path) -> None:
    count, killed = 100_000, 0
    load(3, tmp_path / "data")
    many(tmp_path / "data", count)
    shutil.copytree(tmp_path / "data", tmp_path / "timed")
    began = time.monotonic()
    with carrying_over(tmp_path / "timed") as process:
        assert process.wait() == 0
    took = time.monotonic() - began
    for _ in range(10):
        with carrying_over(tmp_path / "data") as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(random.uniform(0, 0.8 * took))
            killed += process.poll() is None
            process.kill()
        ((done,),) = rows(tmp_path / "data", "SELECT count(*) FROM sqlite_master WHERE name = 'calls'")
        assert done == (version_in(tmp_path / "data") == VERSION)
        if done:
            shutil.rmtree(tmp_path / "data")
            load(3, tmp_path / "data")
            many(tmp_path / "data", count)
    assert killed
    check(tmp_path / "data")
    assert version_in(tmp_path / "data") == VERSION
    assert rows(tmp_path / "data", "SELECT count(*) FROM calls") == [(count,)]
    assert rows(tmp_path / "data", "PRAGMA integrity_check") == [("ok",)]


@pytest.fixture
def full_disk(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that finds no room for the store."""
    if shutil.which("gcc") is None:
        sentence = "gcc is not installed: it builds the disk that is full"
        pytest.fail(sentence) if os.environ.get("CI") == "true" else pytest.skip(sentence)
    control, library = tmp_path / "failing", tmp_path / "failing_disk.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, FAILING_DISK, "-ldl"], check=True)
    control.write_text(str(NO_SPACE))
    return {"LD_PRELOAD": str(library), "FAILING_DISK": str(control)}


@pytest.mark.parametrize("is_read", [True, False], ids=["while somebody reads it", "alone"])
@pytest.mark.parametrize("version", OLDER)
def test_a_disk_too_full_to_carry_it_over_is_one_sentence_and_nothing_is_lost(
    version: int, is_read: bool, tmp_path: Path, full_disk: dict[str, str]
) -> None:
    """Alone, there is no room even for what SQLite reads it with."""
    data = load(version, tmp_path / "data")
    many(data, 1_000)
    before = list(iterated(data))
    with contextlib.ExitStack() as reading:
        if is_read:
            reading.callback(Reader(data).close)
        done = otel_voice("serve", "--data-dir", data, **full_disk)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    what = f"carried over from schema {version} to {VERSION} (database or disk is full)" if is_read else "opened"
    assert f"{data / FILE} cannot be {what}" in done.stderr
    assert (version_in(data), list(iterated(data))) == (version, before)
    check(data)
    assert version_in(data) == VERSION


def iterated(directory: Path) -> Iterator[str]:
    with contextlib.closing(sqlite3.connect(directory / FILE)) as db:
        yield from db.iterdump()
