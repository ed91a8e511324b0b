"""Builds the real collector, Jaeger and Docker Compose for the tests, once, into a cache folder outside the tree.

`python -m tests.components.build` prints where they are. With --if-possible a machine without Go is no error.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MANIFEST = Path(__file__).with_name("collector-manifest.yaml")
# One release, two numbers: the newest tag that the Go module proxy serves.
JAEGER, JAEGER_RELEASE = "github.com/jaegertracing/jaeger@v1.76.0", "2.13.0"
COMPOSE = "github.com/docker/compose/v5@v5.5.1"


@dataclass(frozen=True)
class Component:
    """One real program: its binary's name, the variable that names another copy, its names on PATH, its build, and the
    versions that it is built of."""

    name: str
    variable: str
    on_path: tuple[str, ...]
    build: Callable[[Path], Path]
    made_of: bytes

    def find(self) -> Path | None:
        """The binary that the environment names, else one on PATH, else the one built here, else None."""
        if named := os.environ.get(self.variable):
            return Path(named)
        on_path = (shutil.which(name) for name in self.on_path)
        built = self.cache_folder / self.name
        return next((Path(path) for path in on_path if path), built if built.exists() else None)

    @property
    def cache_folder(self) -> Path:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return base / "otel-voice" / "components" / hashlib.sha256(self.made_of).hexdigest()[:16]

    @property
    def how_to_get(self) -> str:
        return f"no {self.name} here: put it on PATH, set {self.variable}, or install Go and run `make components`"


def build_collector(folder: Path) -> Path:
    text = MANIFEST.read_text()
    version = re.search(r"^  version: (\S+)$", text, re.MULTILINE)
    assert version, f"{MANIFEST.name} names no version"
    builder = f"go.opentelemetry.io/collector/cmd/builder@v{version[1]}"
    _run(["go", "run", builder, "--config", str(MANIFEST)], folder, "the collector")
    return folder / "collector" / "otelcol"


def build_jaeger(folder: Path) -> Path:
    return _build_module(JAEGER, "./cmd/jaeger", folder / "jaeger", "Jaeger")


def build_compose(folder: Path) -> Path:
    return _build_module(COMPOSE, "./cmd", folder / "docker-compose", "Docker Compose")


def _build_module(module: str, package: str, binary: Path, what: str) -> Path:
    download = ["go", "mod", "download", "-json", module]
    done = subprocess.run(download, cwd=binary.parent, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{what}'s module could not be had: {done.stdout}{done.stderr}")
    # Inside the module's own folder, so that its go.sum, checked with the module, vouches for everything it needs
    # (`go install` refuses a module that has a replace line).
    source = Path(json.loads(done.stdout)["Dir"])
    _run(["go", "build", "-trimpath", "-o", str(binary), package], source, what)
    return binary


COLLECTOR_AND_JAEGER = MANIFEST.read_bytes() + JAEGER.encode()
COLLECTOR = Component(
    "otelcol", "OTEL_VOICE_TEST_COLLECTOR", ("otelcol-contrib", "otelcol"), build_collector, COLLECTOR_AND_JAEGER
)
JAEGER_BINARY = Component("jaeger", "OTEL_VOICE_TEST_JAEGER", ("jaeger",), build_jaeger, COLLECTOR_AND_JAEGER)
COMPOSE_BINARY = Component(
    "docker-compose", "OTEL_VOICE_TEST_COMPOSE", ("docker-compose",), build_compose, COMPOSE.encode()
)


def build(component: Component) -> Path:
    """Builds in a folder of its own and moves the binary into place whole: a killed build leaves nothing half made."""
    folder = component.cache_folder
    folder.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(folder), tempfile.TemporaryDirectory(dir=folder, prefix="building-") as work:
        if found := component.find():
            return found
        return component.build(Path(work)).rename(folder / component.name)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: list[str], folder: Path, what: str) -> None:
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=_environment())
        while _running(process):
            print(f"building {what}: {time.monotonic() - started:.0f} s (some minutes, once)", flush=True)
        log.seek(0)
        if process.returncode:
            raise SystemExit(f"building {what} failed:\n" + "".join(log.readlines()[-20:]))


def _running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        return True
    return False


def _environment() -> dict[str, str]:
    # Neither a workspace around this tree nor a C compiler has a say in what is built.
    return os.environ | {"GOWORK": "off", "CGO_ENABLED": "0"}


def main(arguments: list[str]) -> int:
    for component in (COLLECTOR, JAEGER_BINARY, COMPOSE_BINARY):
        found = component.find()
        if not found and not shutil.which("go"):
            print(component.how_to_get)
            if "--if-possible" not in arguments:
                return 1
            continue
        print(f"{component.name}: {found or build(component)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
