"""The README's commands, run as they stand there, but on free ports and in a folder of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.real import Jaeger, LangfuseServer, Receiver, Reply, free_port, wait_for

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
INSTALLED = ROOT / ".venv" / "bin" / "otel-voice"

Demo = Callable[[str], "tuple[str, str]"]


def block(beginning: str) -> str:
    (found,) = [block for block in BLOCKS if block.startswith(beginning)]
    return str(found)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """Runs a `make demo` line; gives what it printed by the time it stays up, and its address."""
    if not INSTALLED.exists() or shutil.which("make") is None:
        sentence = "`make install` has not been run here: the README's commands need it"
        pytest.fail(sentence) if os.environ.get("CI") == "true" else pytest.skip(sentence)
    started: list[subprocess.Popen[bytes]] = []

    def run(line: str) -> tuple[str, str]:
        port = free_port()
        output = tmp_path / "demo.log"
        # Installing is make's business before the tests, not theirs.
        command = line.replace("make demo", "make -o .venv/.installed demo")
        env = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        env |= {"XDG_DATA_HOME": str(tmp_path), "OTEL_VOICE_PORT": str(port)}
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", command], cwd=ROOT, env=env, stdout=file, stderr=file, start_new_session=True
            )
        started.append(process)
        wait_for(lambda: "Ctrl-C" in output.read_text() or process.poll() is not None, 60, "the demo", output.read_text)
        assert process.poll() is None, output.read_text()
        return output.read_text(), f"http://127.0.0.1:{port}"

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def sessions_at(url: str) -> list[dict[str, Any]]:
    return list(httpx.get(f"{url}/v1/sessions").raise_for_status().json()["sessions"])


def test_the_demo_replays_calls_lets_one_run_and_says_where_to_look(demo: Demo, tmp_path: Path) -> None:
    (first, _) = block("make demo").splitlines()
    said, url = demo(first)
    assert f"open {url}" in said
    wait_for(lambda: {each["turn_count"] for each in sessions_at(url)} >= {3, 4}, what="the calls in the list")
    wait_for(lambda: "open" in {each["status"] for each in sessions_at(url)}, what="the one that runs")
    command = block(".venv/bin/otel-voice sessions").replace("~/.local/share", str(tmp_path))
    listed = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert (listed.count("recording_ended"), listed.count("provider_closed")) == (2, 1)


def test_the_api_by_curl_gives_a_trace(receiver: Callable[..., Receiver], tmp_path: Path) -> None:
    running = receiver()
    script = "set -e\n" + block("SESSION=$(curl").replace("http://127.0.0.1:8770", running.url)
    out = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "HTTP/1.1 204" in out
    assert '"name":"execute_tool get_weather"' in out
    assert '"end_reason":"user_hangup"' in out


def test_a_receiver_that_was_stopped_at_once_lists_all_that_came(receiver: Callable[..., Receiver]) -> None:
    running = receiver()
    made = httpx.post(f"{running.url}/v1/sessions", json={}).json()
    lines = [{"type": "turn_complete", "turn_id": "t1"}]
    httpx.post(made["events_url"], json={"token": made["token"], "events": lines}).raise_for_status()
    running.stop()
    command = [sys.executable, "-m", "otel_voice.cli", "sessions", "--json", "--data-dir", str(running.data_dir)]
    (listed,) = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    assert listed["turn_count"] == 1


def test_jaeger_shows_the_demo(demo: Demo, jaeger: Jaeger) -> None:
    line = block("OTEL_EXPORTER_OTLP_ENDPOINT").replace("http://127.0.0.1:4318", jaeger.otlp_http_endpoint)
    _, url = demo(line)
    calls = wait_for(lambda: sessions_at(url), what="the calls")
    for call in calls:
        assert wait_for(partial(jaeger.trace, call["trace_id"]), 30, "the trace in Jaeger")
    services = httpx.get(f"{jaeger.query_url}/api/services").json()["data"]
    assert "otel_voice" in services


def test_langfuse_gets_the_demo(demo: Demo, langfuse_server: LangfuseServer) -> None:
    line = block("LANGFUSE_PUBLIC_KEY")
    for name, value in langfuse_server.env.items():
        line = re.sub(rf"{name}=\S+", f"{name}={value}", line)
    demo(line)
    roots = wait_for(
        lambda: [span for span in langfuse_server.spans if span.name == "voice_session"][1:], 30, "both roots"
    )
    assert roots


def test_the_span_processors_example_delivers_its_span(tmp_path: Path, langfuse_server: LangfuseServer) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    langfuse_server.standing = Reply(200)
    code = example.replace("http://127.0.0.1:4318", langfuse_server.base_url)
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "a table for two\ndelivered\n"), done.stderr
    assert [span.name for span in langfuse_server.spans] == ["reserve a table"]
    assert (tmp_path / "spans").is_dir()


def test_every_file_the_readme_names_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
