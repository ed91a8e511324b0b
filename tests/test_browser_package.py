"""The npm package: what is in it, what it weighs, and that it installs, bundles and type-checks."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import msgspec
import pytest

from otel_voice import __version__, events
from tests.browsing import CLIENT
from tests.components.browser import PACKAGES, PAGES
from tests.conftest import binary_of

MANIFEST = json.loads((CLIENT / "package.json").read_text())
ENTRIES = ["otel-voice.js", "gemini-live.js", "openai-realtime.js", "react.js"]
PARTS = ["clock.js", "kept.js", "rows.js", "sending.js"]
CORE_BYTES = 5_000
IMPORT = re.compile(r"""^(?:import|export)\b[^;]*?\bfrom\s+"\./([\w.-]+)";""", re.MULTILINE)
LATER = re.compile(r"""\bimport\("\./([\w.-]+)"\)""")
PAGE = "".join(
    f'export * as {name} from "otel-voice{path}";\n'
    for name, path in [("core", ""), ("gemini", "/gemini-live"), ("openai", "/openai-realtime"), ("react", "/react")]
)


def reached(names: list[str], *patterns: re.Pattern[str]) -> set[str]:
    """These modules and all that they import."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            text = (CLIENT / name).read_text()
            waiting += [other for pattern in patterns for other in pattern.findall(text)]
    return found


def run(folder: Path, *command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    binary_of(PACKAGES)
    folder = tmp_path_factory.mktemp("packed")
    run(CLIENT, "npm", "pack", "--silent", "--pack-destination", folder)
    (tarball,) = folder.iterdir()
    return tarball


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, tarball: Path) -> Path:
    """A folder that had nothing, with the package."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    run(folder, "npm", "install", "--offline", "--ignore-scripts", "--no-audit", "--no-fund", tarball)
    assert [path.name for path in (folder / "node_modules").iterdir() if path.is_dir()] == ["otel-voice"]
    return folder


def test_both_packages_have_one_version_and_one_licence() -> None:
    assert MANIFEST["version"] == __version__
    assert (CLIENT / "LICENSE").read_text() == (CLIENT.parents[1] / "LICENSE").read_text()


def test_it_depends_on_nothing_and_runs_nothing() -> None:
    assert not {"dependencies", "devDependencies", "scripts", "bin"} & MANIFEST.keys()
    assert MANIFEST["peerDependencies"].keys() == MANIFEST["peerDependenciesMeta"].keys() == {"react"}


def test_the_core_is_under_five_kilobytes_gzipped() -> None:
    """As a bundler gives it to a page, with what the providers' modules share; what watches the sound comes later."""
    assert reached(["otel-voice.js"], IMPORT) == {"otel-voice.js", *PARTS}
    assert reached(["gemini-live.js", "openai-realtime.js"], IMPORT) - set(ENTRIES) == {"allow.js"}
    core = ["export * from './otel-voice.js'", "export * from './allow.js'"]
    size = len(gzip.compress(minified(";".join(core), "--external:./audible.js").encode(), 9))
    assert size < CORE_BYTES, f"{size} bytes"


def minified(module: str, *options: str) -> str:
    esbuild = PAGES / "node_modules/.bin/esbuild"
    command = [str(esbuild), "--bundle", "--minify", "--format=esm", *options]
    done = subprocess.run(command, cwd=CLIENT, input=module, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tarball_has_the_modules_their_types_and_what_a_package_needs(tarball: Path) -> None:
    modules = reached(ENTRIES, IMPORT, LATER)
    types = {path.name for path in CLIENT.glob("*.d.ts")}
    assert {name.replace(".js", ".d.ts") for name in ENTRIES} <= types
    assert {name.replace(".d.ts", ".js") for name in types} <= modules
    with tarfile.open(tarball) as packed:
        names = {name.removeprefix("package/") for name in packed.getnames()}
    assert names == modules | types | {"package.json", "README.md", "LICENSE"}


def test_importing_it_touches_no_browser(installed: Path) -> None:
    script = """
      const paths = ["", "/gemini-live", "/openai-realtime"];
      const all = await Promise.all(paths.map((path) => import("otel-voice" + path)));
      console.log(all.flatMap(Object.keys).join());
    """
    names = run(installed, "node", "--input-type=module", "-e", script).strip().split(",")
    assert {"VoiceTrace", "traceGeminiLive", "instrument", "traceOpenAIRealtime"} <= set(names)


def test_the_types_have_the_methods_of_the_code(installed: Path) -> None:
    script = """
      import { VoiceTrace } from "otel-voice";
      console.log(Object.getOwnPropertyNames(VoiceTrace.prototype).join());
    """
    methods = run(installed, "node", "--input-type=module", "-e", script).strip().split(",")
    declared = (CLIENT / "otel-voice.d.ts").read_text().partition("export class VoiceTrace")[2]
    assert set(re.findall(r"^  (\w+)(?:<\w>)?\(", declared, re.M)) == set(methods)


def test_a_bundler_finds_all_four_entries(installed: Path) -> None:
    (installed / "page.js").write_text(PAGE)
    esbuild = PAGES / "node_modules/.bin/esbuild"
    bundled = run(installed, esbuild, "page.js", "--bundle", "--format=esm", "--external:react", "--log-level=warning")
    assert "useGeminiLiveTrace" in bundled


@pytest.mark.parametrize("resolution", ["bundler", "nodenext"])
def test_the_types_hold_in_strict_mode(installed: Path, resolution: str) -> None:
    shutil.copy(PAGES / "types.test-d.ts", installed / "types.test-d.ts")
    module = {"bundler": "esnext"}.get(resolution, resolution)
    options = ["--noEmit", "--strict", "--target", "es2022", "--lib", "es2022,dom,dom.iterable", "--types", ""]
    tsc = PAGES / "node_modules/.bin/tsc"
    run(installed, tsc, *options, "--module", module, "--moduleResolution", resolution, "types.test-d.ts")


POSITIONAL = {
    "TurnComplete": {"turn_id"},
    "ToolCall": {"call_id", "name", "arguments"},
    "ToolResult": {"call_id", "result", "error", "cancelled"},
    "Transcript": {"role", "text"},
    "Error": {"message"},
}
WITH_FIELDS = [
    "TurnComplete", "ToolCall", "ToolResult", "Transcript", "UserSpeechStart", "UserSpeechEnd", "AgentSpeechStart",
    "AgentSpeechEnd", "ResponseStart", "ResponseEnd", "Interrupted", "Error",
]  # fmt: skip


@pytest.mark.parametrize("name", ["Usage", *WITH_FIELDS])
def test_the_types_have_the_fields_of_the_wire(name: str) -> None:
    interface = name if name == "Usage" else f"{name}Fields"
    declared = re.search(rf"export interface {interface} {{\n(.*?)\n}}", (CLIENT / "otel-voice.d.ts").read_text(), re.S)
    assert declared
    fields = {field.name for field in msgspec.structs.fields(getattr(events, name))} - {"seq", "ts"}
    assert set(re.findall(r"^  (\w+)\?:", declared[1], re.M)) == fields - POSITIONAL.get(name, set())
