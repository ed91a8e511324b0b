"""`python -m benchmarks.viewer`: how long the viewer takes, in Chromium and over HTTP; writes benchmarks/viewer.md.

A store of 100,000 sessions is filled by SQL, as a receiver would have left it; a call of 500 turns is posted to the
receiver. Painted is the first frame after the row, or the turn, was in the page.
"""

from __future__ import annotations

import json
import os
import platform
import random
import sqlite3
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
from playwright.sync_api import Browser, sync_playwright

from otel_voice import __version__
from otel_voice.store import FILE
from otel_voice.summary import Latency, Summary
from tests.browsing import Chromium
from tests.components.browser import CHROMIUM
from tests.real import Receiver

RESULTS = Path(__file__).with_name("viewer.md")
SESSIONS = 100_000
TURNS = 500
RUNS = 5
ASKED = 15
WORDS = ("weather", "rome", "friday", "booking", "table", "people", "late", "train", "ticket", "roses", "delivery")
LISTS = {
    "all": "",
    "by a user": "user=user-17",
    "by an end reason and a latency": "end_reason=provider_closed&min_p95=2500",
    "by a rare word": "q=zeppelin",
    "by a word said in half of them": "q=weather",
}
# Notes when what is looked for is painted.
PAINTED = """new MutationObserver((_, observer) => {
  if (!document.querySelector(SELECTOR)) return;
  observer.disconnect();
  requestAnimationFrame(() => setTimeout(() => { window.painted = performance.now(); }));
}).observe(document, { childList: true, subtree: true });"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        data = folder / "data"
        Receiver(data, folder, {}).stop()
        fill(data)
        receiver = Receiver(data, folder, {"OTEL_VOICE_MAX_STORE_MIB": "65536"})
        binary = CHROMIUM.find()
        assert binary is not None, CHROMIUM.how_to_get
        chromium = Chromium(binary, folder / "profile", folder)
        try:
            call = long_call(receiver.url)
            browser = chromium.connect(playwright)
            lists = {what: asked(f"{receiver.url}/v1/sessions?limit=50&{query}") for what, query in LISTS.items()}
            plots = {what: asked(f"{receiver.url}/v1/sessions/plots?{query}") for what, query in LISTS.items()}
            pages = {
                f"the list, of {SESSIONS:,} sessions": painted(browser, receiver.url + "/", "#sessions tbody tr"),
                f"a session of {TURNS} turns": painted(
                    browser, f"{receiver.url}/sessions/{call}", "#conversation .turn header"
                ),
            }
            RESULTS.write_text(table(lists, plots, pages, browser.version))
        finally:
            chromium.kill()
            receiver.kill()
    print(RESULTS.read_text())


def fill(data: Path) -> None:
    """Sessions that are over, with what lists and searches look at."""
    chance = random.Random(1)
    with closing(sqlite3.connect(data / FILE)) as db, db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(calls)")]
        for no in range(1, SESSIONS + 1):
            call = one(chance, no)
            summary = msgspec.json.encode(call.pop("summary"))
            row = (no, call["id"], call["started_at"], "ended", summary)
            db.execute("INSERT INTO sessions (no, id, started_at, status, summary) VALUES (?, ?, ?, ?, ?)", row)
            values = [call.get(column, no if column == "no" else 0) for column in columns]
            db.execute(f"INSERT INTO calls VALUES ({','.join('?' * len(columns))})", values)
            said = " ".join(chance.choices(WORDS, k=20)) + (" zeppelin" if no % 5_000 == 0 else "")
            db.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (no << 12, said))


def one(chance: random.Random, no: int) -> dict[str, Any]:
    started, p50 = 1_790_000_000_000 + no * 60_000, chance.uniform(300, 1_500)
    common: dict[str, Any] = {
        "started_at": started,
        "ended_at": started + 180_000,
        "status": "ended",
        "end_reason": chance.choice(["user_hangup", "page_closed", "provider_closed", "idle_timeout"]),
        "user_id": f"user-{no % 500}",
        "agent_name": "concierge",
        "provider": "openai",
        "model": "gpt-realtime",
        "duration_ms": 180_000.0,
    }
    id_ = str(uuid.UUID(int=chance.getrandbits(128)))
    summary = Summary(
        session_id=id_,
        trace_id=id_.replace("-", ""),
        turn_count=12,
        user_bot_latency_ms=Latency(p50, 2 * p50, 3 * p50),
        tokens={"input_tokens": 3_000, "output_tokens": 1_000},
        **common,
    )
    figures = {"turns": 12, "p50_ms": p50, "p95_ms": 2 * p50, "tokens": 4_000}
    return {**common, **figures, "id": id_, "summary": summary}


def long_call(url: str) -> str:
    made = httpx.post(f"{url}/v1/sessions", json={"agent_name": "concierge"}).json()
    events = list(turns(time.time() * 1000 - TURNS * 10_000))
    for first in range(0, len(events), 500):
        body = {"source": "bench", "token": made["token"], "events": events[first : first + 500]}
        httpx.post(made["events_url"], json=body, timeout=30).raise_for_status()
    session_id: str = made["session_id"]
    return session_id


def turns(start: float) -> Iterator[dict[str, Any]]:
    seq = 0
    for turn in range(TURNS):
        at, id_ = start + turn * 10_000, f"t{turn}"
        said = "I would like to know what the weather will be like. " * 2
        for offset, type_, fields in (
            (0, "user_speech_start", {}),
            (2_000, "user_speech_end", {}),
            (2_100, "response_start", {"response_id": f"r{turn}", "model": "gpt-realtime"}),
            (2_300, "tool_call", {"call_id": f"c{turn}", "name": "get_weather", "arguments": {"city": "Rome"}}),
            (2_900, "tool_result", {"call_id": f"c{turn}", "result": {"sky": "clear"}}),
            (3_000, "agent_speech_start", {}),
            (8_000, "agent_speech_end", {}),
            (8_000, "response_end", {"response_id": f"r{turn}"}),
            (8_100, "turn_complete", {"user_text": said, "agent_text": said}),
        ):
            yield {"type": type_, "seq": seq, "ts": at + offset, "turn_id": id_, **fields}
            seq += 1


def asked(url: str) -> float:
    """Milliseconds until the whole answer, the median of some."""
    took = []
    with httpx.Client(timeout=30) as http:
        for _ in range(ASKED):
            before = time.perf_counter()
            http.get(url).raise_for_status()
            took.append((time.perf_counter() - before) * 1000)
    return statistics.median(took)


def painted(browser: Browser, url: str, selector: str) -> float:
    took = list[float]()
    for _ in range(RUNS):
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        context.add_init_script(PAINTED.replace("SELECTOR", json.dumps(selector)))
        page = context.new_page()
        page.goto(url)
        page.wait_for_selector(selector, state="attached")
        for _ in range(200):
            if page.evaluate("window.painted || 0"):
                break
            page.wait_for_timeout(20)
        took.append(page.evaluate("window.painted"))
        context.close()
    return statistics.median(took)


def table(lists: dict[str, float], plots: dict[str, float], pages: dict[str, float], version: str) -> str:
    rows = [f"| {what}: first paint with content | {ms:.0f} ms | under 1 s |" for what, ms in pages.items()]
    rows += [f"| list, {what} | {ms:.0f} ms | under 200 ms |" for what, ms in lists.items()]
    rows += [f"| plots, {what} | {ms:.0f} ms | |" for what, ms in plots.items()]
    body = "\n".join(rows)
    return f"""# The viewer

`python -m benchmarks.viewer`: pages in Chromium {version} (headless, drawn by software), medians of {RUNS}; answers
over HTTP, 50 sessions each, medians of {ASKED}, of a store with {SESSIONS:,} sessions. otel_voice {__version__},
{platform.machine()} with {os.cpu_count()} cores that all share.

| what | measured | to reach |
|---|---|---|
{body}
"""


if __name__ == "__main__":
    main()
