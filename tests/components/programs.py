"""Fetches the programs that docs/production.md puts before a receiver: the reverse proxies.

They are the distribution's packages, unpacked into the cache folder and not installed: no service starts.
`python -m tests.components.programs` prints where they are. With --if-possible a machine that cannot have them is no
error.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from tests.components.browser import Part, get


def folder(name: str) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "otel-voice" / "programs" / name


def find(name: str, variable: str) -> Path | None:
    """What the environment names, else what is on PATH, or where servers lie, else what was unpacked."""
    if named := os.environ.get(variable):
        return Path(named)
    on_path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    unpacked = (folder(name) / "usr" / each / name for each in ("sbin", "bin"))
    return Path(on_path) if on_path else next((path for path in unpacked if path.exists()), None)


def unpack(name: str) -> bool:
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        return False
    with tempfile.TemporaryDirectory() as work:
        fetched = _run(["apt-get", "download", name], work)
        if not fetched and not os.geteuid():
            _run(["apt-get", "update", "-qq"], work)  # which may fail in part, and do
            fetched = _run(["apt-get", "download", name], work)
        packages = [str(path) for path in Path(work).glob("*.deb")]
        return bool(fetched and packages) and _run(["dpkg", "-x", packages[0], str(folder(name))], work)


def _run(command: list[str], work: str) -> bool:
    folder("").mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(f"{' '.join(command)} failed:\n{done.stdout}")
    return done.returncode == 0


def _part(name: str, variable: str) -> Part:
    how_to_get = f"no {name} here: install the package `{name}`, or set {variable}"
    return Part(name, partial(find, name, variable), partial(unpack, name), how_to_get)


NGINX = _part("nginx", "OTEL_VOICE_TEST_NGINX")
CADDY = _part("caddy", "OTEL_VOICE_TEST_CADDY")


if __name__ == "__main__":
    sys.exit(get([NGINX, CADDY], sys.argv[1:]))
