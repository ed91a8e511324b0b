"""The packages that are published: what is in them, and that what is installed from them works."""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from markdown_it import MarkdownIt
from trove_classifiers import classifiers

from otel_voice import __version__
from tests.facts import RECORDINGS
from tests.real import Program, free_port, wait_for

ROOT = Path(__file__).parent.parent
NAME = f"otel_voice-{__version__}"
DIST_INFO = f"{NAME}.dist-info"
METADATA = {f"{DIST_INFO}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")}
CALL, SESSION = RECORDINGS / "gemini_barge_in.jsonl", "0af76519-16cd-43dd-8448-eb211c80319c"
# What a machine on which somebody works has lying about.
STRAYS = (
    "otel_voice/__pycache__/cli.cpython-311.pyc",
    "otel_voice/browser/node_modules/react/index.js",
    "otel_voice/.mypy_cache/x.json",
    "tests/browser/node_modules/react/index.js",
    "examples/express/node_modules/express/index.js",
    ".pytest_cache/README.md",
    ".venv/lib/x.py",
    "dist/otel_voice-0.0.1.tar.gz",
)


def tracked() -> list[str]:
    """Files as git has them, in the state that they are in."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode or not listed.stdout:
        sentence = "this is no git checkout: what is to be in a package is told from git"
        pytest.fail(sentence) if os.environ.get("CI") == "true" else pytest.skip(sentence)
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def build(tree: Path, into: Path, *kinds: str) -> dict[str, Path]:
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(into), *(f"-t{kind}" for kind in kinds)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {"sdist" if file.suffix == ".gz" else "wheel": file for file in into.iterdir()}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    for name in tracked():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    for name in STRAYS:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("stray")
    return tree


@pytest.fixture(scope="module")
def built(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    built = build(tree, tmp_path_factory.mktemp("built"), "wheel", "sdist")
    assert {kind: file.name for kind, file in built.items()} == {
        "wheel": f"{NAME}-py3-none-any.whl",
        "sdist": f"{NAME}.tar.gz",
    }
    return built


@pytest.fixture(scope="module")
def installed(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment with the wheel and, of this one, its dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", "-q", built["wheel"])
    # A folder in a .pth has its own .pth files left out: this checkout is not seen.
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


def run(*command: str | Path, cwd: Path | None = None) -> str:
    env = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


def metadata(wheel: Path) -> Any:
    return email.message_from_bytes(content(wheel)[f"{DIST_INFO}/METADATA"])


def description(built: dict[str, Path]) -> str:
    return str(metadata(built["wheel"]).get_payload())


# What is in them


def test_the_wheel_has_every_file_of_the_package_and_no_other(built: dict[str, Path]) -> None:
    package = {name for name in tracked() if name.startswith("otel_voice/")}
    assert {"otel_voice/py.typed", "otel_voice/store/schema.sql", "otel_voice/pages/index.html"} < package
    assert set(content(built["wheel"])) == package | METADATA


def test_the_sdist_has_all_that_git_has_but_what_runs_here(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as file:
        names = {name.removeprefix(f"{NAME}/") for name in file.getnames()}
    assert names == {name for name in tracked() if not name.startswith(".ci/")} | {"PKG-INFO"}


def test_the_sdist_makes_the_same_wheel(built: dict[str, Path], tmp_path: Path) -> None:
    with tarfile.open(built["sdist"]) as file:
        file.extractall(tmp_path, filter="data")
    again = build(tmp_path / NAME, tmp_path / "again", "wheel")
    assert content(again["wheel"]) == content(built["wheel"])


def test_the_version_stands_in_one_place(built: dict[str, Path]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project and "version" in project["dynamic"]
    holding = [name for name in tracked() if name.startswith("otel_voice/") and name.endswith(".py")]
    assert [name for name in holding if f'"{__version__}"' in (ROOT / name).read_text()] == ["otel_voice/__init__.py"]
    assert metadata(built["wheel"])["Version"] == __version__


def test_what_an_index_shows_of_it_holds(built: dict[str, Path]) -> None:
    said = metadata(built["wheel"])
    assert set(said.get_all("Classifier")) <= classifiers
    assert (said["License-Expression"], said["License-File"]) == ("Apache-2.0", "LICENSE")
    assert said["Description-Content-Type"] == "text/markdown"
    assert said["Requires-Python"] == ">=3.11"
    oldest = min(re.findall(r"Python :: 3\.(\d+)", "\n".join(said.get_all("Classifier"))), key=int)
    assert f">=3.{oldest}" == said["Requires-Python"]


def test_the_description_needs_no_file_beside_it(built: dict[str, Path]) -> None:
    """A package index renders it alone."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(description(built))
    inline = [child for token in tokens for child in token.children or ()]
    addresses = [
        child.attrGet("href") or child.attrGet("src") for child in inline if child.type in ("link_open", "image")
    ]
    assert all(str(address).startswith("https://") for address in addresses)
    assert [token.content for token in tokens if token.type == "html_block"] == []
    assert {token.type for token in tokens} >= {"heading_open", "table_open", "fence"}


def test_the_descriptions_commands_are_there(built: dict[str, Path], installed: Path) -> None:
    named = set(re.findall(r"(?:`|^)otel-voice ([a-z-]+)(?: [A-Z]+)?(?:`|$)", description(built), re.MULTILINE))
    assert {"demo", "serve", "show", "doctor"} < named
    for command in named:
        run(installed / "otel-voice", command, "--help")


# What is installed


def test_the_wheel_is_what_runs_and_says_its_version(installed: Path, tmp_path: Path) -> None:
    where = (
        "import importlib.metadata, otel_voice; print(otel_voice.__file__, importlib.metadata.version('otel-voice'))"
    )
    file, version = run(installed / "python", "-c", where, cwd=tmp_path).split()
    assert Path(file).is_relative_to(installed.parent)
    assert version == __version__
    assert run(installed / "otel-voice", "--version", cwd=tmp_path) == f"otel-voice {__version__}\n"


@pytest.fixture
def serving(installed: Path, tmp_path: Path, keep: Callable[[Program], Program]) -> Callable[..., tuple[Program, str]]:
    """`serving("serve")` in a folder that has nothing."""

    def start(command: str) -> tuple[Program, str]:
        port, folder = free_port(), tmp_path / "empty"
        folder.mkdir()
        options = ["--port", str(port), "--data-dir", str(tmp_path / "data")]
        program = keep(Program("installed", [str(installed / "otel-voice"), command, *options], folder, {}))
        url = f"http://127.0.0.1:{port}"
        program.wait_until_answers(f"{url}/readyz")
        return program, url

    return start


def test_it_serves_its_pages_and_the_browser_client(serving: Callable[..., tuple[Program, str]]) -> None:
    _, url = serving("serve")
    page = httpx.get(url).raise_for_status()
    assert page.headers["content-type"].startswith("text/html")
    linked = re.findall(r'(?:src|href)="(/?[\w./-]+\.(?:js|css))"', page.text)
    assert linked
    for name in (*linked, "/sessions/" + SESSION):
        assert httpx.get(httpx.URL(url).join(name)).is_success, name
    for file in (ROOT / "otel_voice" / "browser").glob("*.js"):
        assert httpx.get(f"{url}/client/{file.name}").raise_for_status().content == file.read_bytes()


def test_it_takes_a_session_and_shows_it(
    serving: Callable[..., tuple[Program, str]], installed: Path, tmp_path: Path
) -> None:
    program, url = serving("serve")
    options = ("--endpoint", url, "--session-id", SESSION, "--instant")
    run(installed / "otel-voice", "replay", CALL, *options, cwd=tmp_path)

    def final() -> Any:
        said = httpx.get(f"{url}/v1/sessions/{SESSION}/spans").json()
        return said if not any(span["open"] for span in said["spans"]) else None

    said = wait_for(final, 20, "the spans")
    assert said["summary"]["turn_count"] == 2
    otlp = httpx.get(f"{url}/v1/sessions/{SESSION}/otlp").json()
    assert otlp["resourceSpans"][0]["scopeSpans"][0]["scope"] == {"name": "otel_voice", "version": __version__}
    program.stop()
    shown = run(installed / "otel-voice", "show", SESSION, "--json", "--data-dir", tmp_path / "data", cwd=tmp_path)
    assert len(json.loads(shown)["spans"]) == len(said["spans"])


def test_its_demo_has_its_calls_with_it(serving: Callable[..., tuple[Program, str]]) -> None:
    program, url = serving("demo")
    wait_for(lambda: "Ctrl-C" in program.log(), 30, "the demo", program.log)

    def over() -> bool:
        sessions = httpx.get(f"{url}/v1/sessions").json()["sessions"]
        return len([each for each in sessions if each["status"] != "open"]) == 3

    wait_for(over, 20, "three calls that are over", program.log)
    program.stop()


def test_a_type_checker_sees_its_types(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "from otel_voice.processor import DurableSpanProcessor\n"
        "from otel_voice.semconv import SESSION\n"
        "name: str = SESSION\n"
        "DurableSpanProcessor('spans', endpoint=4318)\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(installed / "python"), "app.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    (error, count) = done.stdout.splitlines()
    assert error.startswith('app.py:4: error: Argument "endpoint"') and "arg-type" in error, done.stdout
    assert count.startswith("Found 1 error in 1 file"), done.stdout
