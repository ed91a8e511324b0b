"""Backup: whole or not at all, of one moment, and never over something else. Under load: tests/test_production.py."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from otel_voice.backup import back_up
from otel_voice.store import FILE, Unavailable, check
from otel_voice.tokens import load_key
from tests.real import COLLECTOR_CONFIG, Receiver
from tests.running import damage
from tests.test_doctor import execute


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A store of a few MiB, with a token key."""
    directory = tmp_path / "data"
    check(directory)
    execute(directory, "INSERT INTO log VALUES (1, 1, NULL, 0, 0, randomblob(4 << 20))")
    load_key(directory)
    return directory


def backup(data_dir: Path, folder: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    """By the command line, in a shell that has done something `before`."""
    command = f'{before} exec {sys.executable} -m otel_voice.cli backup --data-dir "$1" "$2"'
    path = {"PYTHONPATH": str(COLLECTOR_CONFIG.parent)}
    return subprocess.run(
        ["bash", "-c", command, "backup", data_dir, folder], env=path, capture_output=True, text=True, timeout=60
    )


def rows_of_the_log(directory: Path) -> int:
    with closing(sqlite3.connect(directory / FILE)) as db:
        (count,) = db.execute("SELECT count(*) FROM log").fetchone()
    return int(count)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_backup_is_the_store_and_its_key_for_its_owner_only(data_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    done = backup(data_dir, folder, "umask 0;")
    assert (done.returncode, done.stderr) == (0, "")
    said = f"{folder} holds otel-voice.db and token.key of {data_dir}; events: 0 accepted = 0 mapped + 0 open; spans: "
    assert done.stdout.startswith(said)
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {FILE: 0o600, "token.key": 0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert load_key(folder) == load_key(data_dir)
    assert names(tmp_path) == {"data", "backup"}


def test_without_a_key_of_its_own_the_store_is_all_there_is(data_dir: Path, tmp_path: Path) -> None:
    (data_dir / "token.key").unlink()
    assert backup(data_dir, tmp_path / "backup").returncode == 0
    assert names(tmp_path / "backup") == {FILE}


def test_looking_into_a_backup_leaves_it_as_it_is(receiver: Callable[..., Receiver], tmp_path: Path) -> None:
    works = receiver()
    made = httpx.post(f"{works.url}/v1/sessions", json={"user_id": "u-17"}).json()
    assert backup(works.data_dir, tmp_path / "backup").returncode == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "backup").iterdir()}
    command = [sys.executable, "-m", "otel_voice.cli", "sessions", "--json", "--data-dir", str(tmp_path / "backup")]
    done = subprocess.run(command, cwd=COLLECTOR_CONFIG.parent, capture_output=True, text=True, timeout=60)
    assert made["session_id"] in done.stdout
    assert {path.name: path.read_bytes() for path in (tmp_path / "backup").iterdir()} == before


@pytest.mark.parametrize("kind", ["a file", "a folder", "an empty folder", "a link to nothing"])
def test_what_is_there_already_is_not_replaced(data_dir: Path, tmp_path: Path, kind: str) -> None:
    there = tmp_path / "there"
    if kind == "a file":
        there.write_text("mine")
    elif kind == "a link to nothing":
        there.symlink_to("nowhere")
    else:
        there.mkdir()
        if kind == "a folder":
            (there / "mine").touch()
    before = names(there) if there.is_dir() else None
    done = backup(data_dir, there)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"otel-voice: {there} exists already, and a backup replaces nothing: choose another name\n"
    assert (names(there) if there.is_dir() else None) == before
    assert names(tmp_path) == {"data", "there"}


def test_a_folder_that_comes_meanwhile_is_not_replaced(data_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backup"

    def advance(_: int) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "mine").touch()

    with pytest.raises(OSError, match="not empty"):
        back_up(data_dir, folder, advance)
    assert (names(folder), names(tmp_path)) == ({"mine"}, {"data", "backup"})


def test_a_disk_that_takes_no_more_leaves_nothing_behind(data_dir: Path, tmp_path: Path) -> None:
    done = backup(data_dir, tmp_path / "backup", "ulimit -f 1024;")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"otel-voice: the store in {data_dir} could not be copied (")
    assert done.stderr.endswith("; no backup was made\n")
    assert names(tmp_path) == {"data"}


def test_ctrl_c_in_the_middle_leaves_nothing_behind(data_dir: Path, tmp_path: Path) -> None:
    def advance(_: int) -> None:
        (unfinished,) = names(tmp_path) - {"data"}
        assert unfinished.startswith("backup.partial-")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        back_up(data_dir, tmp_path / "backup", advance)
    assert names(tmp_path) == {"data"}


def test_progress_is_said_for_each_MiB_and_commits_meanwhile_do_not_begin_it_again(
    data_dir: Path, tmp_path: Path
) -> None:
    said = []

    def advance(mib: int) -> None:
        said.append(mib)
        assert len(said) < 20, "it begins again and again"
        execute(data_dir, f"INSERT INTO log VALUES ({len(said) + 1}, 1, NULL, 0, 0, randomblob(100000))")

    size = (data_dir / FILE).stat().st_size
    back_up(data_dir, tmp_path / "backup", advance)
    assert abs(sum(said) - size / 2**20) <= 1
    # None of them is in it: it is of the moment at which it was begun.
    assert rows_of_the_log(data_dir) == 1 + len(said)
    assert rows_of_the_log(tmp_path / "backup") == 1


def test_a_damaged_store_is_not_taken_for_a_backup(data_dir: Path, tmp_path: Path) -> None:
    execute(data_dir, "INSERT INTO sessions (no, id, started_at) VALUES (1, 'a', 0)")
    damage(data_dir, "sessions")
    with pytest.raises(Unavailable, match="could not be copied"):
        back_up(data_dir, tmp_path / "backup", lambda _: None)
    assert names(tmp_path) == {"data"}


def test_a_store_whose_index_of_words_alone_is_damaged_is_backed_up(data_dir: Path, tmp_path: Path) -> None:
    damage(data_dir, "words_data")
    back_up(data_dir, tmp_path / "backup", lambda _: None)
    assert names(tmp_path / "backup") == {FILE, "token.key"}


def test_a_store_of_a_newer_version_is_left_alone(data_dir: Path, tmp_path: Path) -> None:
    execute(data_dir, "PRAGMA user_version = 99")
    done = backup(data_dir, tmp_path / "backup")
    assert (done.returncode, "newer version" in done.stderr) == (1, True)
    assert names(tmp_path) == {"data"}
