"""A terminal in which the documentation's commands are run: `otel-voice` is this checkout's, and what stands for
something (an address, a session, a folder) is put in its place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.documents import ROOT
from tests.real import Program, free_port

ADDRESS = "http://127.0.0.1:8770"
NOTHING: Mapping[str, str] = {}
COMMAND = f"""#!/bin/sh
PYTHONPATH={ROOT} exec {sys.executable} -c "from otel_voice.cli import main; raise SystemExit(main())" "$@"
"""


class Shell:
    def __init__(self, folder: Path, data_dir: Path, url: str = ADDRESS) -> None:
        self.folder, self.url = folder, url
        bin_ = folder / "bin"
        bin_.mkdir(exist_ok=True)
        (bin_ / "otel-voice").write_text(COMMAND)
        (bin_ / "otel-voice").chmod(0o755)
        base = {key: os.environ[key] for key in ("HOME", "LANG") if key in os.environ}
        self.env = base | {"PATH": f"{bin_}:{os.environ['PATH']}", "OTEL_VOICE_DATA_DIR": str(data_dir)}

    def link(self, name: str, to: Path) -> None:
        (self.folder / "bin" / name).symlink_to(to)

    def run(self, script: str, puts: Mapping[str, str] = NOTHING, cwd: Path = ROOT, code: int = 0) -> str:
        """What it printed; it has to end with this code."""
        command = ["bash", "-euc", self._put(script, puts)]
        done = subprocess.run(command, cwd=cwd, env=self.env, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, f"{command[-1]}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, script: str, puts: Mapping[str, str] = NOTHING, cwd: Path = ROOT) -> Program:
        """Its last line stays in the foreground, and is the process."""
        *before, last = self._put(script, puts).splitlines()
        command = ["bash", "-euc", "\n".join([f"cd {cwd}", *before, f"exec env {last}"])]
        return Program("snippet", command, self.folder, self.env)

    def serve(self, script: str, puts: Mapping[str, str] = NOTHING, cwd: Path = ROOT) -> Program:
        """A receiver, ready, at `url` from now on."""
        self.env["OTEL_VOICE_PORT"] = str(port := free_port())
        self.url = f"http://127.0.0.1:{port}"
        program = self.start(script, puts, cwd)
        program.wait_until_answers(f"{self.url}/readyz")
        return program

    def _put(self, script: str, puts: Mapping[str, str]) -> str:
        for placeholder, value in {ADDRESS: self.url, **puts}.items():
            script = script.replace(placeholder, value)
        return script
