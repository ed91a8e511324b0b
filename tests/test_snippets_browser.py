"""The documentation's JavaScript, run in Chromium as it stands there, and what a page's policy has to allow."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, Route, WebSocketRoute

from tests.browsing import Site, final_spans, until
from tests.components.browser import PAGES
from tests.documents import ROOT, snippet
from tests.real import Receiver, wait_for

README = snippet("README.md", "import { VoiceTrace }")
CLIENT = snippet("otel_voice/browser/README.md", "import { VoiceTrace }")
CLIENT_CHANNEL = snippet("otel_voice/browser/README.md", "const channel")
GEMINI = snippet("docs/gemini-live.md", "import { GoogleGenAI")
GEMINI_SOUND = snippet("docs/gemini-live.md", "trace.audioOutput")
GEMINI_TOOL = snippet("docs/gemini-live.md", "// call is one")
GEMINI_END = snippet("docs/gemini-live.md", "trace.end")
OPENAI = snippet("docs/openai-realtime.md", "import { VoiceTrace }")
OPENAI_WORDS = snippet("docs/openai-realtime.md", "channel.onopen")
OPENAI_TOOL = snippet("docs/openai-realtime.md", "// call is a message")
OPENAI_END = snippet("docs/openai-realtime.md", "trace.end")

# What a page has beside our lines.
GEMINI_PAGE = """
const heard = [];
const hear = (message) => heard.push(message);
const context = new AudioContext();
const player = new GainNode(context);
const microphone = await navigator.mediaDevices.getUserMedia({ audio: true });
const call = { id: "c1" };
"""
# Its tool is asked for when the model asks for it, and the call goes on until the model has answered.
ASKED = """
const later = () => new Promise((resolve) => setTimeout(resolve, 20));
while (!heard.some((message) => message.toolCall)) await later();
"""
ANSWERED = """
session.sendToolResponse({ functionResponses: [{ id: "c1", name: "get_weather", response: { sky: "sunny" } }] });
while (!heard.some(({ serverContent }) => serverContent?.turnComplete)) await later();
"""
OPENAI_ASKED = """
const call = { call_id: "c1" };
const told = [];
channel.addEventListener("message", ({ data }) => told.push(JSON.parse(data).type));
const after = async (type) => {
  while (!told.includes(type)) await new Promise((resolve) => setTimeout(resolve, 20));
};
if (channel.readyState !== "open") await new Promise((opened) => channel.addEventListener("open", opened));
const say = (item) => channel.send(JSON.stringify({ type: "conversation.item.create", item }));
say({ type: "message", role: "user", content: [{ type: "input_text", text: "Rome?" }] });
await after("response.function_call_arguments.done");
"""
OPENAI_ANSWERED = """
say({ type: "function_call_output", call_id: "c1", output: '{"sky":"sunny"}' });
await after("output_audio_buffer.stopped");
"""
SHORT_PAGE = """
import { GoogleGenAI } from "@google/genai";
const ai = new GoogleGenAI({ apiKey: "t" });
const [model, config, callbacks] = ["gemini-3.8-live", {}, { onmessage() {} }];
"""
GEMINI_SAYS = [
    {"setupComplete": {}},
    {"serverContent": {"inputTranscription": {"text": "How is Rome?"}}},
    {"toolCall": {"functionCalls": [{"id": "c1", "name": "get_weather", "args": {"city": "Rome"}}]}},
    {"serverContent": {"outputTranscription": {"text": "Rome is sunny."}}},
    {"serverContent": {"turnComplete": True}, "usageMetadata": {"promptTokenCount": 3, "responseTokenCount": 2}},
]


class AppSite(Site):
    """Its backend answers as the examples' do."""

    def mint(self, body: bytes) -> tuple[int, Any]:
        status, made = super().mint(body)
        return status, {"trace": made, "provider": {"name": "gemini-live", "token": "ephemeral"}}


def page_of(script: str, receiving: Receiver, policy: str = "") -> str:
    """The packages' names lead to their files, and the receiver's public name to the receiver."""
    imports = {
        "@google/genai": "/packages/google-genai.js",
        "otel-voice": "/client/otel-voice.js",
        "otel-voice/gemini-live": "/client/gemini-live.js",
        "otel-voice/openai-realtime": "/client/openai-realtime.js",
        "https://voice.example.com/client/": f"{receiving.url}/client/",
    }
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">' if policy else ""
    maps = f'<script type="importmap">{json.dumps({"imports": imports})}</script>'
    return (
        f'<!doctype html><meta charset="utf-8">{meta}{maps}<script type="module">{script}\nwindow.done = true;</script>'
    )


@pytest.fixture
def opened(context: BrowserContext, errors: list[str]) -> Callable[..., Page]:
    """`opened(site)` shows its page, with Gemini and OpenAI answered here."""

    def opened(site: Site) -> Page:
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(f"{error.name}: {error.message}"))
        page.route_web_socket(re.compile("generativelanguage"), gemini)
        page.route("https://api.openai.com/v1/realtime/calls", lambda route: openai(page, route))
        page.goto(f"{site.url}/")
        page.wait_for_function("window.done", timeout=15_000)
        return page

    return opened


def gemini(socket: WebSocketRoute) -> None:
    def hear(frame: str | bytes) -> None:
        if "setup" in json.loads(frame):
            for message in GEMINI_SAYS:
                socket.send(json.dumps(message))

    socket.on_message(hear)


def openai(page: Page, route: Route) -> None:
    assert route.request.headers["authorization"] == "Bearer ephemeral"
    played = (PAGES / "example_openai.mjs").read_text().partition("\n")[2].removesuffix(";\n")
    sdp = page.evaluate(played, route.request.post_data)
    route.fulfill(status=201, body=sdp, headers={"access-control-allow-origin": "*"})


def named(spans: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (found,) = [span for span in spans if span["name"] == name]
    return found


def test_the_page_on_gemini_gives_a_trace(
    receiver: Callable[..., Receiver], packages: Path, opened: Callable[..., Page]
) -> None:
    receiving = receiver()
    site = AppSite(receiving.url)
    parts = [GEMINI_PAGE, GEMINI, GEMINI_SOUND, ASKED, GEMINI_TOOL, ANSWERED, GEMINI_END]
    site.pages["/"] = page_of("\n".join(parts), receiving)
    site.pages["/api/weather"] = "sunny"
    try:
        opened(site)
        (made,) = site.made
        spans = final_spans(receiving.url, made["session_id"])
    finally:
        site.close()
    (weather,) = site.asked("/api/weather")
    tool = named(spans, "execute_tool get_weather")
    assert weather.headers["traceparent"] == f"00-{tool['trace_id']}-{tool['span_id']}-01"
    turn = named(spans, "invoke_agent")["attributes"]
    assert "How is Rome?" in turn["gen_ai.input.messages"] and "Rome is sunny." in turn["gen_ai.output.messages"]
    assert named(spans, "voice_session")["attributes"]["voice.session.end_reason"] == "user_hangup"


def test_the_page_on_openai_gives_a_trace(receiver: Callable[..., Receiver], opened: Callable[..., Page]) -> None:
    receiving = receiver()
    site = AppSite(receiving.url)
    site.pages["/"] = page_of(
        "\n".join([OPENAI, OPENAI_WORDS, OPENAI_ASKED, OPENAI_TOOL, OPENAI_ANSWERED, OPENAI_END]), receiving
    )
    site.pages["/api/weather"] = "sunny"
    try:
        opened(site)
        (made,) = site.made
        spans = final_spans(receiving.url, made["session_id"])
    finally:
        site.close()
    (weather,) = site.asked("/api/weather")
    assert named(spans, "execute_tool get_weather")["span_id"] in weather.headers["traceparent"]
    assert named(spans, "agent_speech")["attributes"]["voice.speech.heard"] > 0
    assert named(spans, "voice_session")["attributes"]["voice.session.end_reason"] == "user_hangup"


@pytest.mark.parametrize("lines", [README, CLIENT], ids=["README", "browser/README"])
def test_three_lines_give_a_trace(
    lines: str,
    receiver: Callable[..., Receiver],
    packages: Path,
    site: Callable[..., Site],
    opened: Callable[..., Page],
) -> None:
    receiving = receiver()
    app = site(receiving)
    app.pages["/"] = page_of(SHORT_PAGE + lines, receiving)
    page = opened(app)
    until(page, lambda: turns_of(receiving, app.made[0]["session_id"]) == 1, what="the turn")


def turns_of(receiving: Receiver, session_id: str) -> int:
    return int(httpx.get(f"{receiving.url}/v1/sessions/{session_id}").json()["turn_count"])


def test_the_clients_lines_for_a_data_channel_end_a_call(
    receiver: Callable[..., Receiver], site: Callable[..., Site], opened: Callable[..., Page]
) -> None:
    receiving = receiver()
    app = site(receiving)
    before = """
import { VoiceTrace } from "otel-voice";
import { traceOpenAIRealtime } from "otel-voice/openai-realtime";
const trace = new VoiceTrace(await (await fetch("/api/token", { method: "POST" })).json());
const [connection, audio, hangUp] = [new RTCPeerConnection(), new Audio(), document.createElement("button")];
"""
    app.pages["/"] = page_of(f"{before}{CLIENT_CHANNEL}\nhangUp.click();", receiving)
    opened(app)
    spans = final_spans(receiving.url, app.made[0]["session_id"])
    assert named(spans, "voice_session")["attributes"]["voice.session.end_reason"] == "user_hangup"


# Policies

TROUBLES = (ROOT / "docs" / "troubleshooting.md").read_text()
MARKED = """
import { VoiceTrace } from "https://voice.example.com/client/otel-voice.js";
const trace = new VoiceTrace(await (await fetch("/api/token", { method: "POST" })).json());
trace.mark("here");
"""


@pytest.mark.parametrize("allowed", [True, False])
def test_the_policy_of_the_page_of_troubles_is_what_a_page_needs(
    allowed: bool, receiver: Callable[..., Receiver], site: Callable[..., Site], context: BrowserContext
) -> None:
    receiving = receiver()
    app = site(receiving)
    (policy,) = re.findall(r"^```\n(connect-src .*)\n(script-src .*)\n```", TROUBLES, re.M)
    said = "; ".join(policy).replace("https://voice.example.com", receiving.url)
    if not allowed:
        said = said.replace(f"connect-src 'self' {receiving.url}", "connect-src 'self'")
    # The map of names is inline, as no page's own need be.
    app.pages["/"] = page_of(MARKED, receiving).replace("<script", '<script nonce="n"')
    app.headers["Content-Security-Policy"] = f"default-src 'none'; {said} 'nonce-n'"
    page, console = context.new_page(), list[str]()
    page.on("console", lambda message: console.append(message.text))
    page.goto(f"{app.url}/")
    if allowed:
        until(page, lambda: "here" in downloaded(receiving, app), what="the mark")
        assert console == []
    else:
        (phrase,) = re.findall(r"\*\*You see\*\* on the console `([^`]+)`", TROUBLES)
        until(page, lambda: any(phrase in line and "connect-src" in line for line in console), what="the complaint")
        assert "here" not in downloaded(receiving, app)


def downloaded(receiving: Receiver, app: Site) -> str:
    wait_for(lambda: app.made, what="a session")
    return httpx.get(f"{receiving.url}/v1/sessions/{app.made[0]['session_id']}/events").text
