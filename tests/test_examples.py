"""The examples, run for real: the backends that mint tokens, and a call to the scripted agent in Chromium."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import threading
import wave
from array import array
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.browsing import Own, final_spans
from tests.components.browser import Part
from tests.conftest import binary_of
from tests.real import Program, Receiver, free_port, wait_for

EXAMPLES = Path(__file__).parents[1] / "examples"
API_KEY = "a-key-of-the-apps-backend"
RATE = 48_000
SPEAKS_AT_S = 2.5


def npm_packages_of(example: str) -> Path:
    """The example's folder, with what its lock names installed in it."""
    folder = EXAMPLES / example

    def found() -> Path | None:
        installed, lock = folder / "node_modules" / ".package-lock.json", folder / "package-lock.json"
        return folder if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime else None

    if shutil.which("npm"):
        with (folder / "package.json").open() as one_at_a_time:
            fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
            if not found():
                subprocess.run(["npm", "ci", "--loglevel=error"], cwd=folder, timeout=100)
    how_to_get = f"no npm packages of examples/{example} here: it needs Node.js 20 or newer, npm and a registry"
    return binary_of(Part(example, found, lambda: False, how_to_get))


MINTED = {"/v1alpha/auth_tokens": {"name": "auth_tokens/t1"}, "/v1/realtime/client_secrets": {"value": "ek_1"}}


class Provider:
    """Both providers' servers, as far as a backend asks them for an ephemeral token."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        provider = self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                provider.asked.append((self.path, headers, json.loads(body)))
                answer = json.dumps(MINTED[self.path]).encode()
                self.send_response_only(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                """What it was asked is in `asked`."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.close()


def command_of(example: str, port: int) -> list[str]:
    if example == "express":
        return ["node", str(npm_packages_of("express") / "app.mjs")]
    if not importlib.util.find_spec(example):
        if os.environ.get("CI") == "true":
            pytest.fail(f"{example} is not installed", pytrace=False)
        pytest.skip(f"{example} is not installed")
    options = ["--app-dir", str(EXAMPLES / example), "--port", str(port)]
    return [sys.executable, "-m", "uvicorn", "app:app", *options]


Started = Callable[..., tuple[Program, str]]


@pytest.fixture
def started(tmp_path: Path, keep: Callable[[Program], Program]) -> Started:
    """`started(name, command, port, **env)`: the program once it answers anything at all, and its address."""

    def start(name: str, command: list[str], port: int, **env: str) -> tuple[Program, str]:
        program = keep(Program(name, command, tmp_path, {"PORT": str(port), **env}))
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: program.ended() or listens(url), 20, f"{name} to listen", program.log)
        assert not program.ended(), program.log()
        return program, url

    return start


def listens(url: str) -> bool:
    try:
        httpx.get(url)
    except httpx.TransportError:
        return False
    return True


PROVIDERS = {
    "gemini-live": ("GEMINI_API_KEY", "/v1alpha/auth_tokens", "x-goog-api-key", "a-key", "auth_tokens/t1"),
    "openai-realtime": ("OPENAI_API_KEY", "/v1/realtime/client_secrets", "authorization", "Bearer a-key", "ek_1"),
}


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("example", ["starlette", "fastapi", "express"])
def test_a_backend_mints_both_tokens_for_its_user_only(
    example: str, name: str, receiver: Callable[..., Receiver], provider: Provider, started: Started
) -> None:
    variable, path, header, key, token = PROVIDERS[name]
    receiving = receiver(OTEL_VOICE_API_KEY=API_KEY)
    port = free_port()
    env = {
        variable: "a-key",
        "GEMINI_BASE_URL": provider.url,
        "OPENAI_BASE_URL": f"{provider.url}/v1",
        "OTEL_VOICE_URL": receiving.url,
        "OTEL_VOICE_API_KEY": API_KEY,
    }
    _, url = started(example, command_of(example, port), port, **env)

    assert httpx.post(f"{url}/api/token").status_code == 401
    assert provider.asked == []
    answer = httpx.post(f"{url}/api/token", headers={"x-user": "u-17"}).raise_for_status()
    assert API_KEY not in answer.text
    assert answer.json()["provider"] == {"name": name, "token": token}
    ((asked, headers, _),) = provider.asked
    assert (asked, headers[header]) == (path, key)

    made = answer.json()["trace"]
    batch = {"source": "page", "token": made["token"], "events": [{"type": "mark", "name": "here"}]}
    assert httpx.post(made["events_url"], json=batch).status_code == 204
    app = {"authorization": f"Bearer {API_KEY}"}
    session = httpx.get(f"{receiving.url}/v1/sessions/{made['session_id']}", headers=app).json()
    assert session["user_id"] == "u-17"

    receiving.kill()
    untraced = httpx.post(f"{url}/api/token", headers={"x-user": "u-17"}).raise_for_status().json()
    assert untraced == {"trace": None, "provider": {"name": name, "token": token}}


def speech(path: Path) -> Path:
    """What the microphone hears: silence, somebody who says something for a second, silence."""
    said = range(int(SPEAKS_AT_S * RATE), int((SPEAKS_AT_S + 1) * RATE))
    samples = array("h", bytes(2 * 60 * RATE))
    for at in said:
        samples[at] = int(12_000 * math.sin(at * 2 * math.pi * 180 / RATE))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    return path


def complaints_of(page: Page) -> list[str]:
    """What the page did not catch, and what its policy did not let it do."""
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    return complaints


def test_a_call_to_the_scripted_agent_is_a_trace(
    receiver: Callable[..., Receiver], own_browser: Callable[..., Own], started: Started, tmp_path: Path
) -> None:
    receiving = receiver()
    command = ["node", str(npm_packages_of("browser") / "server.mjs")]
    example, url = started("example", command, free_port(), OTEL_VOICE_URL=receiving.url)
    own = own_browser(f"--use-file-for-fake-audio-capture={speech(tmp_path / 'speech.wav')}%noloop")
    page = own.context.new_page()
    complaints = complaints_of(page)
    page.goto(url)
    state, said = page.locator("#state"), page.locator("#transcript")

    page.get_by_role("button", name="Start").click()
    expect(state).to_have_text("The agent speaks")
    expect(said.locator(".cut"), "the user's voice interrupts it").to_have_count(1, timeout=10_000)
    expect(said, "so much of it is heard").to_contain_text("degrees", timeout=10_000)
    expect(state).to_have_text("The agent speaks")
    page.get_by_label("Or type").fill("What is the weather in Oslo?")
    page.keyboard.press("Enter")
    expect(said.locator(".cut"), "the user's text interrupts it").to_have_count(2)
    expect(said).to_contain_text("In Oslo")
    expect(state).to_have_text("The agent speaks")
    page.get_by_role("button", name="Hang up").click()
    expect(state).to_have_text("Not connected")
    session_id = page.locator("#session").inner_text()

    spans = final_spans(receiving.url, session_id)
    assert complaints == []
    (root,) = named(spans, "voice_session")
    assert root["attributes"]["voice.session.end_reason"] == "user_hangup"
    turns = named(spans, "invoke_agent weather-example")
    interruptions = [turn["attributes"].get("voice.interruption.source") for turn in turns]
    assert interruptions == ["user_speech", "programmatic", None]
    assert len(named(spans, "generate_content scripted-agent")) == 3
    heard = [span["attributes"]["voice.speech.heard"] for span in named(spans, "agent_speech")]
    assert len(heard) == 3
    assert 0 < heard[0] < 8, "the greeting takes twelve seconds"
    tools = named(spans, "execute_tool get_weather")
    arguments = [json.loads(tool["attributes"]["gen_ai.tool.call.arguments"]) for tool in tools]
    assert arguments == [{"city": "Lisbon"}, {"city": "Oslo"}]
    for tool in tools:
        assert f"traceparent: 00-{tool['trace_id']}-{tool['span_id']}-01" in example.log()


def test_a_call_to_openai_is_a_trace(
    receiver: Callable[..., Receiver], provider: Provider, context: BrowserContext, started: Started
) -> None:
    receiving = receiver()
    env = {"OPENAI_API_KEY": "a-key", "OPENAI_BASE_URL": f"{provider.url}/v1", "OTEL_VOICE_URL": receiving.url}
    _, url = started("example", ["node", str(npm_packages_of("browser") / "server.mjs")], free_port(), **env)
    page = context.new_page()
    complaints = complaints_of(page)
    played = (Path(__file__).parent / "browser" / "example_openai.mjs").read_text()

    def answer(route: Route) -> None:
        assert route.request.headers["authorization"] == "Bearer ek_1"
        sdp = page.evaluate(played.partition("\n")[2].removesuffix(";\n"), route.request.post_data)
        route.fulfill(status=201, body=sdp, headers={"access-control-allow-origin": "*"})

    page.route("https://api.openai.com/v1/realtime/calls", answer)
    page.goto(url)
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#state")).to_have_text("Listening", timeout=10_000)
    page.get_by_label("Or type").fill("What is the weather in Rome?")
    page.keyboard.press("Enter")
    expect(page.locator("#state")).to_have_text("The agent speaks")
    expect(page.locator("#state")).to_have_text("Listening")
    page.get_by_role("button", name="Hang up").click()

    spans = final_spans(receiving.url, page.locator("#session").inner_text())
    assert complaints == []
    (root,) = named(spans, "voice_session")
    assert root["attributes"]["voice.session.end_reason"] == "user_hangup"
    for name in ("invoke_agent weather-example", "execute_tool get_weather", "agent_speech"):
        assert len(named(spans, name)) == 1, name
    assert len(named(spans, "generate_content gpt-realtime")) == 2


def named(spans: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [span for span in spans if span["name"] == name]


def test_without_a_receiver_the_agent_talks_all_the_same_and_the_page_says_that_nothing_is_traced(
    started: Started, context: BrowserContext
) -> None:
    command = ["node", str(npm_packages_of("browser") / "server.mjs")]
    example, url = started("example", command, free_port(), OTEL_VOICE_URL=f"http://127.0.0.1:{free_port()}")
    page = context.new_page()
    page.goto(url)
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#transcript")).to_contain_text("this call is not traced")
    expect(page.locator("#state")).to_have_text("The agent speaks")
    assert "start it with `otel-voice serve`" in example.log()
