"""The documentation's commands and Python, run as they stand there, but on free ports and in folders of their own."""

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
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from tests import test_production, test_snippets_browser
from tests.components.build import COLLECTOR
from tests.conftest import binary_of
from tests.documents import ROOT, RUNNABLE, snippet, snippets, taken
from tests.real import Collector, Jaeger, LangfuseServer, Program, Receiver, Reply, free_port, wait_for
from tests.shell import Shell

INSTALLED = ROOT / ".venv" / "bin" / "otel-voice"
Keep = Callable[[Program], Program]
Demo = Callable[[str], "tuple[str, str]"]

DEMO = snippet("README.md", "make demo")
SESSIONS = snippet("README.md", ".venv/bin/otel-voice sessions")
SERVE = snippet("docs/gemini-live.md", "make install")
TRACED = snippet("docs/gemini-live.md", "async def traced")
CURL = snippet("docs/api.md", "SESSION=$(curl")
REPLAY = snippet("docs/api.md", "otel-voice replay")
OWN_SPANS = snippet("docs/own-spans.md", "from opentelemetry")
JAEGER_DEMO = snippet("docs/jaeger.md", "OTEL_EXPORTER_OTLP_ENDPOINT")
JAEGER_DOCTOR = snippet("docs/jaeger.md", "export OTEL_EXPORTER")
LANGFUSE_DEMO = snippet("docs/langfuse.md", "LANGFUSE_PUBLIC_KEY")
LANGFUSE_DOCTOR = snippet("docs/langfuse.md", "otel-voice doctor")
COLLECTOR_RUN = snippet("docs/langfuse.md", "export LANGFUSE_PUBLIC_KEY")
COLLECTOR_SERVE = snippet("docs/langfuse.md", "OTEL_EXPORTER_OTLP_ENDPOINT")
RESEND = snippet("docs/langfuse.md", "otel-voice resend")
RESEND_TOO = snippet("docs/troubleshooting.md", "otel-voice resend")
MASKED = snippet("docs/stored.md", "OTEL_VOICE_CAPTURE_CONTENT")
MASKED_CURL = snippet("docs/stored.md", "SESSION=$(curl")
SEARCH = snippet("docs/stored.md", "curl -s 'http")
ERASE = snippet("docs/stored.md", "curl -i -X DELETE")
LIST = snippet("docs/troubleshooting.md", "curl -s http://127.0.0.1:8770/v1/sessions?limit")
END = snippet("docs/troubleshooting.md", "curl -s -X POST")
LETTERS = snippet("docs/troubleshooting.md", "otel-voice dead-letters\n")
RETRY = snippet("docs/troubleshooting.md", "otel-voice dead-letters retry")
DROP = snippet("docs/troubleshooting.md", "otel-voice dead-letters drop")

# Why no test runs them.
CANNOT = {
    snippet("docs/jaeger.md", "docker run"): "a container engine and its registry; what it starts is the tests' Jaeger",
    snippet("examples/browser/README.md", "make example"): "it ends by Ctrl-C only; tests/test_examples.py starts both",
    snippet("otel_voice/browser/README.md", "import { useGeminiLiveTrace"): "a sketch of tests/browser/react_page.jsx",
}
AWAY = "http://127.0.0.1:4318"


def test_every_snippet_is_run_by_a_test() -> None:
    assert test_production and test_snippets_browser  # theirs are among `taken`
    assert [str(each) for each in snippets() if each.language in RUNNABLE and each not in taken] == []


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path, tmp_path / "data")


def posted(url: str, **fields: object) -> str:
    """A session with one turn."""
    made = httpx.post(f"{url}/v1/sessions", json=fields).json()
    lines = [{"type": "turn_complete", "turn_id": "t1", "user_text": "How is Rome?"}]
    httpx.post(made["events_url"], json={"token": made["token"], "events": lines}).raise_for_status()
    return str(made["session_id"])


# README


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """Runs a `make demo` line; gives what it printed by the time it stays up, and its address."""
    needs_installed()
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


def needs_installed() -> None:
    if not INSTALLED.exists() or shutil.which("make") is None:
        sentence = "`make install` has not been run here: the README's commands need it"
        pytest.fail(sentence) if os.environ.get("CI") == "true" else pytest.skip(sentence)


def sessions_at(url: str) -> list[dict[str, Any]]:
    return list(httpx.get(f"{url}/v1/sessions").raise_for_status().json()["sessions"])


def test_the_demo_replays_calls_lets_one_run_and_says_where_to_look(demo: Demo, tmp_path: Path) -> None:
    (first, _) = DEMO.splitlines()
    said, url = demo(first)
    assert f"open {url}" in said
    wait_for(lambda: {each["turn_count"] for each in sessions_at(url)} >= {3, 4}, what="the calls in the list")
    wait_for(lambda: "open" in {each["status"] for each in sessions_at(url)}, what="the one that runs")
    command = SESSIONS.replace("~/.local/share", str(tmp_path))
    # As the demo names it, too.
    (named,) = re.findall(r"\(or: (.*)\)", said)
    for each in (command, named):
        listed = subprocess.run(["bash", "-c", each], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert (listed.count("recording_ended"), listed.count("provider_closed")) == (2, 1)


def test_a_receiver_that_was_stopped_at_once_lists_all_that_came(receiver: Callable[..., Receiver]) -> None:
    running = receiver()
    posted(running.url)
    running.stop()
    command = [sys.executable, "-m", "otel_voice.cli", "sessions", "--json", "--data-dir", str(running.data_dir)]
    (listed,) = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    assert listed["turn_count"] == 1


# Tasks


def test_a_receiver_is_started(shell: Shell, keep: Keep) -> None:
    needs_installed()
    program = keep(shell.serve(SERVE, {"make install": "make -o .venv/.installed install"}))
    assert "spans stay in the store" in program.log()


def test_the_backends_lines_are_those_of_the_example() -> None:
    assert TRACED in (ROOT / "examples" / "starlette" / "app.py").read_text()


def test_the_api_by_curl_gives_a_trace(receiver: Callable[..., Receiver], tmp_path: Path) -> None:
    running = receiver()
    out = Shell(tmp_path, running.data_dir, running.url).run(CURL)
    assert "HTTP/1.1 204" in out
    assert '"name":"execute_tool get_weather"' in out
    assert '"end_reason":"user_hangup"' in out


def test_a_recording_is_shown_and_posted(receiver: Callable[..., Receiver], tmp_path: Path) -> None:
    running = receiver()
    out = Shell(tmp_path, running.data_dir, running.url).run(REPLAY)
    assert "execute_tool find_stock" in out and "4 turns, 3 tool calls, 1 interruption in" in out.splitlines()[-1]
    wait_for(
        lambda: [each["turn_count"] for each in sessions_at(running.url)] == [4], what="the list to know its turns"
    )


def test_the_span_processors_example_delivers_its_span(tmp_path: Path, langfuse_server: LangfuseServer) -> None:
    langfuse_server.standing = Reply(200)
    code = OWN_SPANS.replace(AWAY, langfuse_server.base_url)
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "a table for two\ndelivered\n"), done.stderr
    assert [span.name for span in langfuse_server.spans] == ["reserve a table"]
    assert (tmp_path / "spans").is_dir()


# Jaeger, Langfuse, the collector


def test_jaeger_shows_the_demo(demo: Demo, jaeger: Jaeger) -> None:
    _, url = demo(JAEGER_DEMO.replace(AWAY, jaeger.otlp_http_endpoint))
    calls = wait_for(lambda: sessions_at(url), what="the calls")
    for call in calls:
        assert wait_for(partial(jaeger.trace, call["trace_id"]), 30, "the trace in Jaeger")
    services = httpx.get(f"{jaeger.query_url}/api/services").json()["data"]
    assert "otel_voice" in services


def test_doctor_reads_its_span_back_from_jaeger(shell: Shell, jaeger: Jaeger) -> None:
    out = shell.run(JAEGER_DOCTOR, {AWAY: jaeger.otlp_http_endpoint, "http://127.0.0.1:16686": jaeger.query_url})
    assert "took a probe span" in out and "is in Jaeger" in out


def with_keys(script: str, server: LangfuseServer) -> str:
    for name, value in server.env.items():
        script = re.sub(rf"{name}=\S+", f"{name}={value}", script)
    return script


def test_langfuse_gets_the_demo(demo: Demo, langfuse_server: LangfuseServer) -> None:
    demo(with_keys(LANGFUSE_DEMO, langfuse_server))
    roots = wait_for(
        lambda: [span for span in langfuse_server.spans if span.name == "voice_session"][1:], 30, "both roots"
    )
    assert roots


def test_doctor_reads_its_span_back_from_langfuse(shell: Shell, langfuse_server: LangfuseServer) -> None:
    shell.env |= langfuse_server.env
    out = shell.run(LANGFUSE_DOCTOR)
    assert "takes the keys, which are of the project voice" in out
    assert "took a probe span" in out and "is in Langfuse" in out


def test_through_the_collector_a_call_comes_to_both_and_can_be_sent_again(
    shell: Shell, keep: Keep, jaeger: Jaeger, langfuse_server: LangfuseServer
) -> None:
    shell.link("otelcol-contrib", binary_of(COLLECTOR))
    health, http = free_port(), free_port()
    shell.env |= {
        "OTEL_VOICE_COLLECTOR_HTTP": f"127.0.0.1:{http}",
        "OTEL_VOICE_COLLECTOR_GRPC": f"127.0.0.1:{free_port()}",
        "OTEL_VOICE_COLLECTOR_HEALTH": f"127.0.0.1:{health}",
        "OTEL_VOICE_COLLECTOR_METRICS_PORT": str(free_port()),
        "OTEL_VOICE_COLLECTOR_STORAGE": str(shell.folder / "storage"),
        "OTEL_VOICE_JAEGER_ENDPOINT": jaeger.otlp_grpc_endpoint,
    }
    keep(shell.start(with_keys(COLLECTOR_RUN, langfuse_server))).wait_until_answers(f"http://127.0.0.1:{health}/")
    here = f"http://127.0.0.1:{http}"
    keep(shell.serve(COLLECTOR_SERVE, {AWAY: here}))
    session = posted(shell.url)
    shell.run(END, {"SESSION": session})
    wait_for(lambda: jaeger.trace(session.replace("-", "")), 30, "the trace in Jaeger")
    wait_for(lambda: langfuse_server.spans, 30, "its spans at Langfuse")
    assert RESEND == RESEND_TOO
    shell.env["OTEL_EXPORTER_OTLP_ENDPOINT"] = here
    wait_for(lambda: "sent 2 spans of 1 session" in shell.run(RESEND), 30, "a resend of what is final")
    wait_for(lambda: len(langfuse_server.spans) > 2, 30, "the spans once more")
    assert len({span.span_id for span in langfuse_server.spans}) == 2


def test_a_collector_that_drops_a_batch_says_so_as_the_pages_tell(
    collector: Callable[..., Collector], langfuse_server: LangfuseServer
) -> None:
    langfuse_server.standing = Reply(500)
    metrics, only = str(free_port()), "[otlp_http/langfuse]"
    env = {"OTEL_VOICE_COLLECTOR_EXPORTERS": only, "OTEL_VOICE_COLLECTOR_METRICS_PORT": metrics, **langfuse_server.env}
    started = collector(**env)
    spans = ResourceSpans(scope_spans=[ScopeSpans(spans=[Span(name="a")])])
    request = ExportTraceServiceRequest(resource_spans=[spans])
    headers = {"content-type": "application/x-protobuf"}
    httpx.post(f"{started.otlp_http_endpoint}/v1/traces", content=request.SerializeToString(), headers=headers)
    text = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    (said,) = set(re.findall(r"`(Exporting failed[^`]+)`", text))
    wait_for(lambda: said in started.log(), 20, "the collector's complaint", started.log)
    told = httpx.get(f"http://127.0.0.1:{metrics}/metrics").text
    assert {each for each in re.findall(r"otelcol_[a-z_]+[a-z]", text) if f"\n{each}{{" not in told} == set()


# What is stored


def test_what_is_masked_is_not_stored_and_what_is_erased_is_gone(shell: Shell, keep: Keep) -> None:
    keep(shell.serve(MASKED))
    (said,) = re.findall(r'"user_text":"[^"]*"', shell.run(MASKED_CURL))
    assert said == '"user_text":"I am [email], call [phone]."'
    session = posted(shell.url, user_id="u-17")
    (found,) = wait_for(lambda: json.loads(shell.run(SEARCH))["sessions"], what="the call to be found")
    assert found["session_id"] == session
    assert "HTTP/1.1 204" in shell.run(ERASE, {"SESSION": session})
    assert json.loads(shell.run(SEARCH))["sessions"] == []


# Troubles


def test_a_call_is_ended_from_outside(receiver: Callable[..., Receiver], tmp_path: Path) -> None:
    running = receiver()
    shell = Shell(tmp_path, running.data_dir, running.url)
    assert json.loads(shell.run(LIST))["sessions"] == []
    assert json.loads(shell.run(END, {"SESSION": posted(running.url)}))["end_reason"] == "user_hangup"


def test_dead_letters_are_looked_at_dropped_and_sent_again(
    receiver: Callable[..., Receiver], tmp_path: Path, langfuse_server: LangfuseServer
) -> None:
    langfuse_server.refuses = lambda span: True
    running = receiver(**langfuse_server.env)
    shell = Shell(tmp_path, running.data_dir, running.url)
    shell.run(END, {"SESSION": posted(running.url)})
    wait_for(lambda: "otel_voice_spans_dead_letter 2.0" in httpx.get(f"{running.url}/metrics").text, 30, "the refusals")
    listed = shell.run(LETTERS)
    assert "invoke_agent" in listed and '"otlp"' in listed
    assert "1 dead letter dropped" in shell.run(DROP)
    langfuse_server.refuses = lambda span: False
    assert "1 dead letter will be sent again" in shell.run(RETRY)
    wait_for(lambda: langfuse_server.spans, 30, "the other one")
