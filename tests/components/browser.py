"""Installs what the browser tests need: Chromium by the distribution's package, npm packages beside the pages.

`python -m tests.components.browser` prints where they are. With --if-possible a machine that cannot have them is no
error.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PAGES = Path(__file__).parents[1] / "browser"
BUNDLES = PAGES / "node_modules" / ".bundled"
VARIABLE = "OTEL_VOICE_TEST_CHROMIUM"
ON_PATH = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


@dataclass(frozen=True)
class Part:
    """What the tests find, and how it comes to this machine; `install` returns False where it cannot."""

    name: str
    find: Callable[[], Path | None]
    install: Callable[[], bool]
    how_to_get: str


def find_chromium() -> Path | None:
    if named := os.environ.get(VARIABLE):
        return Path(named)
    return next((Path(path) for path in map(shutil.which, ON_PATH) if path), None)


def install_chromium() -> bool:
    if os.geteuid() or not shutil.which("apt-get"):
        return False
    install = ("apt-get", "install", "-qq", "-y", "--no-install-recommends", "chromium")
    if _run(*install):
        return True
    _run("apt-get", "update", "-qq")  # which may fail in part, and do
    return _run(*install)


def find_packages() -> Path | None:
    """The folder of bundles, if they were made of the packages that the lock names."""
    stamp = BUNDLES / "made-of"
    made = stamp.exists() and stamp.read_text() == _made_of() and shutil.which("node")
    return BUNDLES if made else None


def install_packages() -> bool:
    if not shutil.which("npm") or not shutil.which("node"):
        return False
    installed = _run("npm", "ci", "--ignore-scripts", "--loglevel=error") and _run("node", "bundle.mjs", str(BUNDLES))
    if installed:
        (BUNDLES / "made-of").write_text(_made_of())
    return installed


def _made_of() -> str:
    files = (PAGES / name for name in ("package-lock.json", "bundle.mjs"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _run(*command: str) -> bool:
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, cwd=PAGES, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(f"{' '.join(command)} failed:\n" + "\n".join(done.stdout.splitlines()[-20:]))
    return done.returncode == 0


CHROMIUM = Part(
    "chromium",
    find_chromium,
    install_chromium,
    f"no Chromium here: install the package `chromium`, or set {VARIABLE}",
)
PACKAGES = Part(
    "npm packages",
    find_packages,
    install_packages,
    "no npm packages here: install Node.js 20 or newer with npm, and run `make components`",
)


def get(parts: Sequence[Part], arguments: list[str]) -> int:
    for part in parts:
        if not part.find() and not part.install():
            print(part.how_to_get)
            if "--if-possible" not in arguments:
                return 1
            continue
        print(f"{part.name}: {part.find()}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(get([CHROMIUM, PACKAGES], sys.argv[1:]))
