"""The session page in a real Chromium: verdict, time axis, conversation, latency, drawer, live, files."""

from __future__ import annotations

import json
import re
import sqlite3
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import BrowserContext, FloatRect, Locator, Page, Route, expect

from otel_voice.store import FILE
from tests.browsing import final_spans, log_out, until
from tests.real import Receiver, wait_for

Event = dict[str, Any]

MARKUP = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> & <b>bold</b>"
WORDS = "one two three four five six seven eight nine ten"
VIOLATIONS = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => violations.push(`${event.violatedDirective} ${event.sample}`));
"""


def spoken_turn(n: int, t: float, heard_ms: float | None = None, tool: Event | None = None, **text: str) -> list[Event]:
    """A spoken turn of 8 s at `t`: the user speaks for 1 s and hears the answer's ten words in 5 s.

    With a `tool` (its result's fields) the answer comes 2 s later; with `heard_ms` it is interrupted."""
    turn, begins, later = {"turn_id": f"t{n}"}, t + 1100, 2000 if tool else 0
    first, answer = {"response_id": f"r{n}"}, {"response_id": f"r{n}b"} if tool else {"response_id": f"r{n}"}
    audible = t + 2000 + later
    ends = audible + (heard_ms if heard_ms is not None else 5000)
    asked = text.get("user", f"Question {n}")
    facts: list[Event] = [
        {"type": "user_speech_start", "ts": t, "measured_by": "provider_vad"},
        {"type": "user_speech_end", "ts": t + 1000, "measured_by": "provider_vad"},
        {
            "type": "transcript",
            "ts": t + 1010,
            "role": "user",
            "text": asked,
            "final": True,
        },
        {"type": "response_start", "ts": begins, "model": "gpt-realtime", **first},
    ]
    if tool:
        call = {"call_id": f"c{n}"}
        facts += [
            {"type": "tool_call", "ts": begins + 200, "name": "get_weather", "arguments": {"city": "Lisbon"}, **call},
            {"type": "response_end", "ts": begins + 220, "finish_reason": "tool_calls", **first},
            {"type": "tool_result", "ts": begins + 1800, **call, **tool},
            {"type": "response_start", "ts": begins + 1900, "model": "gpt-realtime", **answer},
        ]
    said = text.get("agent", WORDS)
    facts += [
        {"type": "transcript", "ts": audible - 100, "role": "agent", "text": said, "final": True, **answer},
        {"type": "agent_speech_start", "ts": audible, "measured_by": "playback", **answer},
        {"type": "response_end", "ts": audible + 500, "finish_reason": "stop", **answer, "usage": {"input_tokens": 10}},
    ]
    if heard_ms is not None:
        facts.append({"type": "interrupted", "ts": ends, "source": "user_speech", "heard_ms": heard_ms})
    facts.append({"type": "agent_speech_end", "ts": ends, "measured_by": "playback", **answer})
    return [{"type": "turn_start", "ts": t, **turn}, *({**fact, **turn} for fact in facts), _complete(turn, ends)]


def _complete(turn: Event, t: float) -> Event:
    return {"type": "turn_complete", "ts": t + 10, **turn}


def weather_call() -> list[Event]:
    """Three turns: plain, with a tool, interrupted after 2 s; then an error, and 3 s in which nobody speaks."""
    events = [*spoken_turn(1, 500), *spoken_turn(2, 8000, tool={"result": {"high": 24}})]
    events += [*spoken_turn(3, 18_000, heard_ms=2000), *spoken_turn(4, 25_000, user=MARKUP, agent=f"<b>{WORDS}</b>")]
    return [*events, {"type": "error", "ts": 32_200, "message": "network changed", "code": "network"}]


class Call:
    """A session that a test tells, event by event."""

    def __init__(self, url: str, key: str = "", **new: Any) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        answer = httpx.post(f"{url}/v1/sessions", json={"agent_name": "shop", **new}, headers=headers)
        made = answer.raise_for_status().json()
        self.id: str = made["session_id"]
        self.url = f"{url}/v1/sessions/{self.id}"
        self.token, self.source, self.seq = made["token"], uuid.uuid4().hex, 0

    def tell(self, events: list[Event], shift: float | None = None) -> None:
        """At their times, with the last one now."""
        shift = time.time() * 1000 - max(event["ts"] for event in events) if shift is None else shift
        numbered = [{**event, "ts": event["ts"] + shift, "seq": self.seq + n} for n, event in enumerate(events)]
        self.seq += len(events)
        for at in range(0, len(numbered), 500):
            body = {"source": self.source, "token": self.token, "events": numbered[at : at + 500]}
            body["clock"] = {"offset": 40, "uncertainty": 12}
            # So many at once are told to come again.
            taken = partial(self._taken, body)
            wait_for(taken, 60, "the events to be taken")

    def _taken(self, body: dict[str, Any]) -> bool:
        answer = httpx.post(f"{self.url}/events", json=body, timeout=30)
        return answer.status_code != 429 and answer.raise_for_status().is_success

    def end(self, lost: int = 0) -> None:
        body = {"reason": "user_hangup", "last_seq": self.seq - 1 + lost, "source": self.source, "token": self.token}
        httpx.post(f"{self.url}/end", json=body).raise_for_status()


@pytest.fixture
def url(receiver: Callable[..., Receiver]) -> str:
    return receiver().url


def told(url: str, events: list[Event], lost: int = 0, **new: Any) -> str:
    call = Call(url, **new)
    call.tell(events)
    call.end(lost)
    return call.id


@pytest.fixture
def look(context: BrowserContext, errors: list[str]) -> Callable[..., Page]:
    """`look(address)` opens a page of the viewer, once its conversation is there."""

    def look(address: str, wait: str = "#conversation li") -> Page:
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.add_init_script(VIOLATIONS)
        page.on("pageerror", lambda error: errors.append(f"{error.name}: {error.message}"))
        page.goto(address)
        page.wait_for_selector(wait)
        return page

    return look


@pytest.fixture
def page(url: str, look: Callable[..., Page]) -> Page:
    return look(f"{url}/sessions/{told(url, weather_call(), lost=1, previous_session_id='before')}")


def box(locator: Locator) -> FloatRect:
    found = locator.bounding_box()
    assert found is not None
    return found


def inside(inner: FloatRect, outer: FloatRect) -> bool:
    return (
        inner["y"] + inner["height"] > outer["y"]
        and inner["y"] < outer["y"] + outer["height"]
        and inner["x"] + inner["width"] > outer["x"]
        and inner["x"] < outer["x"] + outer["width"]
    )


# 1. The verdict and the head


def test_the_verdict_is_a_sentence_whose_parts_jump_to_those_places(page: Page) -> None:
    expect(page.locator("#verdict")).to_have_text(
        "Ended by the user after 32 s. Slowest answer: turn 2, 3.0 s, most of it get_weather. "
        "Interrupted once. 1 error. 1 event lost."
    )
    page.get_by_role("link", name="Slowest answer").click()
    expect(page.locator("#turn-2")).to_have_class(re.compile("selected"))
    page.get_by_role("link", name="Interrupted once").click()
    expect(page.locator("#turn-3")).to_have_class(re.compile("selected"))
    expect(page.locator("#selection")).to_contain_text("Turn 3")
    page.get_by_role("link", name="1 event lost").click()
    expect(page.locator("#facts")).to_be_focused()


def test_the_head_tells_the_facts(page: Page) -> None:
    facts = {
        row.locator("dt").inner_text(): row.locator("dd").inner_text() for row in page.locator("#facts > div").all()
    }
    assert facts["Agent"] == "shop"
    assert facts["Model"] == "gpt-realtime"
    assert facts["End reason"] == "user_hangup"
    assert facts["Turns"] == "4"
    assert facts["Interruptions"] == "1"
    assert facts["Tool calls"] == "1"
    assert facts["Latency"] == "p50 1.0 s, p95 3.0 s"
    assert facts["Tokens in"] == "40"
    assert "1 lost" in facts["Events"]
    assert re.fullmatch("the page.s is 40 ms behind, ± 12 ms", facts["Clock"])
    assert page.locator("#facts a").get_attribute("href") == "/sessions/before"


# 2. The time axis


def test_lanes_show_who_was_audible_and_what_ran(page: Page) -> None:
    expect(page.locator(".lane.user .block.user_speech")).to_have_count(4)
    expect(page.locator(".lane.agent .block.agent_speech")).to_have_count(4)
    expect(page.locator(".lane.model .block.response")).to_have_count(5)
    expect(page.locator(".lane.tools .block.tool")).to_have_count(1)
    expect(page.locator(".lane.connection .block.session")).to_have_count(1)
    expect(page.locator(".lane.connection .point.error")).to_have_count(1)
    expect(page.locator(".lane.connection .point.end")).to_have_count(1)
    expect(page.locator(".barge-in")).to_have_count(1)
    # Each answer's wait, the tool's in two; and what is silent for over 2 s between turns.
    expect(page.locator(".wait")).to_have_count(5)
    expect(page.locator(".silence")).to_have_count(1)


def test_the_lanes_zoom_and_pan_by_keyboard(page: Page) -> None:
    lanes, block = page.locator("#lanes"), page.locator(".lane.tools .block.tool")
    whole = box(block)
    lanes.focus()
    page.keyboard.press("+")
    until(page, lambda: box(block)["width"] > whole["width"] * 1.3, 20, "the block to be wider")
    zoomed = box(block)
    page.keyboard.press("ArrowRight")
    until(page, lambda: box(block)["x"] < zoomed["x"] - 20, 20, "the block to move")
    page.keyboard.press("0")
    until(page, lambda: box(block) == whole, 20, "the whole call")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#turn-2")).to_have_class(re.compile("selected"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("invoke_agent shop")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(lanes).to_be_focused()


def test_the_lanes_zoom_and_pan_by_mouse(page: Page) -> None:
    block = page.locator(".lane.tools .block.tool")
    whole, axis = box(block), box(page.locator(".lane.ruler .track"))
    middle = whole["x"] + whole["width"] / 2
    page.mouse.move(middle, axis["y"] + 30)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    until(page, lambda: box(block)["width"] > whole["width"] * 2, 20, "the block to be wider")
    zoomed = box(block)
    assert zoomed["x"] < middle < zoomed["x"] + zoomed["width"]
    page.mouse.down()
    page.mouse.move(middle + 60, axis["y"] + 30, steps=4)
    page.mouse.up()
    until(page, lambda: abs(box(block)["x"] - zoomed["x"] - 60) < 2, 20, "the block to follow the mouse")
    window = box(page.locator("#minimap .window"))
    page.mouse.move(window["x"] + window["width"] / 2, window["y"] + 10)
    page.mouse.down()
    page.mouse.move(window["x"] + window["width"] / 2 + 30, window["y"] + 10, steps=4)
    page.mouse.up()
    until(page, lambda: box(page.locator("#minimap .window"))["x"] > window["x"] + 25, 20, "the window to be dragged")


# 3. The conversation


def test_the_conversation_and_the_lanes_follow_each_other(page: Page) -> None:
    panel = box(page.locator("#conversation"))
    page.locator(".lane.agent .block").last.click()
    expect(page.locator("#turn-4")).to_have_class(re.compile("selected"))
    assert inside(box(page.locator("#turn-4")), panel)
    for _ in range(6):
        page.get_by_role("button", name="Zoom in").click()
    page.locator("#turn-1").get_by_role("button", name="Turn 1").click()
    track = box(page.locator(".lane.user .track"))
    first = page.locator(".lane.user .block").first
    until(page, lambda: inside(box(first), track), 20, "the turn's speech to be in view")


def test_what_was_not_heard_is_struck_through(page: Page) -> None:
    said = page.locator("#turn-3 .said.agent")
    expect(said.locator("s")).to_have_text("five six seven eight nine ten")
    expect(said.locator("span span")).to_have_text("one two three four")
    expect(page.locator("#turn-3 header")).to_contain_text("interrupted, heard 2.0 s")
    expect(page.locator("#turn-1 .said.agent s")).to_be_hidden()


def test_a_tool_call_is_told_with_its_arguments_and_result(page: Page, url: str, look: Callable[..., Page]) -> None:
    tool = page.locator("#turn-2 details.called")
    expect(tool.locator("summary")).to_contain_text("get_weather · 1.6 s")
    expect(tool.locator(".arguments")).to_be_visible()
    expect(tool.locator(".arguments")).to_have_text('{"city":"Lisbon"}')
    expect(tool.locator(".result")).to_have_text('→ {"high":24}')
    failed = [*spoken_turn(1, 0, tool={"error": "no weather " * 40}), *spoken_turn(2, 12_000, tool={"cancelled": True})]
    other = look(f"{url}/sessions/{told(url, failed)}")
    expect(other.locator("#turn-1 .called summary")).to_contain_text("failed")
    expect(other.locator("#turn-1 .called .result")).to_be_hidden()
    other.locator("#turn-1 .called summary").click()
    expect(other.locator("#turn-1 .called .result")).to_be_visible()
    expect(other.locator("#turn-2 .called summary")).to_contain_text("cancelled")


# 4. Latency


def test_each_turn_s_latency_is_a_bar_of_parts_that_add_up(page: Page) -> None:
    bars = page.locator("#answers li")
    expect(bars).to_have_count(4)
    second = bars.nth(1)
    expect(second.locator(".total")).to_have_text("3.0 s")
    expect(second.locator(".part.tool")).to_have_attribute("title", "get_weather: 1.6 s")
    widths = second.locator(".part").evaluate_all("parts => parts.map((part) => part.getBoundingClientRect().width)")
    assert sum(widths) == pytest.approx(box(second.locator(".bar"))["width"], abs=1)
    # The page noted no first output: how long the model took to it is nobody's knowledge.
    expect(second.locator(".part.unknown")).to_have_count(1)
    second.locator(".part.tool").click()
    expect(page.locator("#selection")).to_contain_text("get_weather")


# 5. The drawer


def test_the_drawer_has_attributes_events_and_links(
    receiver: Callable[..., Receiver], look: Callable[..., Page]
) -> None:
    url = receiver(OTEL_VOICE_JAEGER_URL="http://jaeger.example:16686").url
    page = look(f"{url}/sessions/{told(url, weather_call())}")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    details = page.locator("#turn-2 .called").get_by_role("button", name="Details")
    details.click()
    drawer = page.get_by_role("dialog")
    expect(drawer.locator("h2")).to_have_text("execute_tool get_weather")
    expect(drawer.locator("h2")).to_be_focused()
    expect(drawer.get_by_role("row", name="gen_ai.tool.call.id")).to_contain_text("c2")
    drawer.get_by_text("Events behind it").click()
    expect(drawer.locator(".events > li")).to_have_count(2)
    expect(drawer.locator(".events > li").first).to_contain_text("tool_call")
    assert (drawer.get_by_role("link", name="Jaeger").get_attribute("href") or "").startswith("http://jaeger.example")
    expect(drawer.get_by_role("link", name="Langfuse")).to_have_count(0)
    drawer.get_by_role("button", name="Copy as JSON").click()
    expect(drawer.get_by_text("Copied")).to_be_visible()
    assert json.loads(page.evaluate("navigator.clipboard.readText()"))["name"] == "execute_tool get_weather"
    drawer.get_by_role("button", name="invoke_agent shop, turn 2").click()
    expect(drawer.locator("h2")).to_have_text("invoke_agent shop")
    page.keyboard.press("Escape")
    expect(drawer).to_be_hidden()
    expect(details).to_be_focused()


# 6. Live, and files


def test_a_running_call_grows_and_keeps_scroll_selection_and_zoom(url: str, look: Callable[..., Page]) -> None:
    call = Call(url)
    begun = time.time() * 1000 - 90_000
    call.tell([event for n in range(1, 11) for event in spoken_turn(n, n * 8000 - 8000)], shift=begun)
    page = look(f"{url}/sessions/{call.id}")
    expect(page.locator("#status")).to_have_text("live")
    page.locator("#conversation").evaluate("panel => { panel.scrollTop = 100; }")
    page.locator("#turn-2").get_by_role("button", name="Turn 2").click()
    page.get_by_role("button", name="Zoom in").click()
    page.wait_for_timeout(200)
    kept = "[document.getElementById('conversation').scrollTop, getSelection().toString()]"
    page.evaluate("getSelection().selectAllChildren(document.querySelector('#turn-2 .said.user'))")
    before, block = page.evaluate(kept), page.locator(".lane.user .block.user_speech").nth(1)
    width = box(block)["width"]
    said = time.monotonic()
    call.tell(spoken_turn(11, 80_000, user="And now?"), shift=begun)
    page.wait_for_selector("#turn-11")
    assert time.monotonic() - said < 8  # and not after a reload of the stream
    expect(page.locator("#facts")).to_contain_text("11")
    assert page.evaluate(kept) == before
    expect(page.locator("#turn-2")).to_have_class(re.compile("selected"))
    assert box(block)["width"] == pytest.approx(width, abs=1)
    call.end()
    expect(page.locator("#verdict")).to_contain_text("Ended by the user", timeout=20_000)
    expect(page.locator("#status")).to_be_empty()


def test_a_hidden_page_holds_no_stream(url: str, look: Callable[..., Page]) -> None:
    call = Call(url)
    call.tell(spoken_turn(1, 0))
    page = look(f"{url}/sessions/{call.id}")
    hide = """is => {
      Object.defineProperty(document, "hidden", { configurable: true, get: () => is });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(hide, True)
    page.wait_for_timeout(300)
    call.tell(spoken_turn(2, 0))
    page.wait_for_timeout(1500)
    expect(page.locator("#turn-2")).to_have_count(0)
    page.evaluate(hide, False)
    page.wait_for_selector("#turn-2")
    call.end()


def test_a_receiver_that_went_away_is_told_and_found_again(
    receiver: Callable[..., Receiver], look: Callable[..., Page]
) -> None:
    first = receiver()
    call = Call(first.url)
    call.tell(spoken_turn(1, 0))
    page = look(f"{first.url}/sessions/{call.id}")
    first.kill()
    expect(page.locator("#notice")).to_contain_text("The receiver is away")
    expect(page.locator("#turn-1")).to_be_visible()
    receiver(first.port)
    expect(page.locator("#notice")).to_be_empty(timeout=20_000)
    call.tell(spoken_turn(2, 0))
    page.wait_for_selector("#turn-2")


def test_downloads_are_dropped_on_the_page_again(url: str, look: Callable[..., Page], tmp_path: Path) -> None:
    session_id = told(url, weather_call())
    final_spans(url, session_id)
    page = look(f"{url}/sessions/{session_id}")
    files = {}
    for name, link in (("recording.jsonl", "Recording"), ("spans.json", "OTLP JSON")):
        with page.expect_download() as download:
            page.get_by_role("link", name=link).click()
        files[name] = tmp_path / name
        download.value.save_as(files[name])
    verdict = page.locator("#verdict").inner_text()
    for name, file in files.items():
        other = look(f"{url}/sessions/{told(url, spoken_turn(1, 0))}")
        assert other.locator("#verdict").inner_text() != verdict
        other.evaluate(DROP, [name, file.read_text()])
        expect(other.locator("#notice")).to_contain_text(name)
        expect(other.locator("#verdict")).to_have_text(verdict)
        expect(other.locator("#conversation .turn")).to_have_count(4)
        other.locator("#file").set_input_files({"name": "x.json", "mimeType": "", "buffer": b'{"resourceSpans": []}'})
        expect(other.locator("#notice")).to_contain_text("no voice session")


def test_another_page_hands_a_file_over(url: str, look: Callable[..., Page]) -> None:
    session_id = told(url, weather_call())
    final_spans(url, session_id)
    page = look(f"{url}/sessions/{session_id}")
    verdict = page.locator("#verdict").inner_text()
    page.evaluate(
        """async (path) => {
          const { lookAt } = await import("/pages/dropped.js");
          await lookAt(new File([await (await fetch(path)).blob()], "spans.json"));
        }""",
        f"/v1/sessions/{session_id}/otlp",
    )
    page.wait_for_url("**/sessions/file?dropped")
    expect(page.locator("#verdict")).to_have_text(verdict)
    expect(page.locator("#notice")).to_contain_text("spans.json, a file")


def test_a_running_call_is_followed_while_its_end_is_in_view(url: str, look: Callable[..., Page]) -> None:
    call = Call(url)
    begun = time.time() * 1000 - 90_000
    call.tell([event for n in range(1, 11) for event in spoken_turn(n, n * 8000 - 8000)], shift=begun)
    page = look(f"{url}/sessions/{call.id}", wait="#turn-10")
    panel = box(page.locator("#conversation"))
    until(page, lambda: inside(box(page.locator("#turn-10")), panel), 20, "the last turn to be in view")
    call.tell(spoken_turn(11, 80_000), shift=begun)
    page.wait_for_selector("#turn-11")
    until(page, lambda: inside(box(page.locator("#turn-11")), panel), 20, "the new turn to be in view")
    call.end()


DROP = """([name, text]) => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([text], name));
  const told = { dataTransfer, bubbles: true, cancelable: true };
  for (const type of ["dragover", "drop"]) document.body.dispatchEvent(new DragEvent(type, told));
}"""


# What can go wrong


def test_a_transcript_full_of_markup_is_text(page: Page) -> None:
    title = page.title()
    expect(page.locator("#turn-4 .said.user")).to_contain_text(MARKUP)
    page.locator("#turn-4").get_by_role("button", name="Details").first.click()
    expect(page.get_by_role("dialog")).to_contain_text("onerror")
    page.get_by_text("Events behind it").click()
    expect(page.locator(".events > li").first).to_be_visible()
    assert page.locator("main img, main script, dialog img, dialog script, main b").count() == 0
    assert page.title() == title != "owned"
    assert page.evaluate("violations") == []


def test_a_session_that_nobody_knows_is_told(url: str, look: Callable[..., Page]) -> None:
    page = look(f"{url}/sessions/{uuid.uuid4()}", wait="#notice p")
    expect(page.locator("#notice")).to_contain_text("There is no session")


def test_a_call_that_cannot_be_mapped_says_so_and_gives_its_events(
    receiver: Callable[..., Receiver], look: Callable[..., Page]
) -> None:
    first = receiver()
    session_id = told(first.url, [{"type": "mark", "name": "here", "ts": 0}])
    first.stop()
    with closing(sqlite3.connect(first.data_dir / FILE)) as db, db:
        # An event that only a later version knows.
        db.execute("UPDATE log SET body = CAST(replace(CAST(body AS TEXT), '\"mark\"', '\"wish\"') AS BLOB)")
    page = look(f"{receiver().url}/sessions/{session_id}", wait="#notice p")
    expect(page.locator("#notice")).to_contain_text("cannot be mapped by this version; its events are kept.")
    expect(page.locator("#notice")).not_to_contain_text("Trying again")
    expect(page.locator("#download-events")).to_have_attribute("href", f"/v1/sessions/{session_id}/events")
    expect(page.locator("#download-otlp")).to_be_hidden()


def test_a_viewer_with_a_token_asks_for_it(receiver: Callable[..., Receiver], look: Callable[..., Page]) -> None:
    token, key = "open-sesame-open-sesame-open-sesame", "k" * 40
    url = receiver(OTEL_VOICE_VIEWER_TOKEN=token, OTEL_VOICE_API_KEY=key).url
    session_id = told(url, spoken_turn(1, 0), key=key)
    page = look(f"{url}/sessions/{session_id}", wait="#notice input")
    page.get_by_label("Token").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("That is not the token")
    page.get_by_label("Token").fill(token)
    page.keyboard.press("Enter")
    expect(page.locator("#turn-1")).to_be_visible()
    expect(page.locator("#notice")).to_be_empty()


def test_where_the_cookie_is_over_a_running_call_asks_for_the_token(
    receiver: Callable[..., Receiver], look: Callable[..., Page]
) -> None:
    token, key = "open-sesame-open-sesame-open-sesame", "k" * 40
    url = receiver(OTEL_VOICE_VIEWER_TOKEN=token, OTEL_VOICE_API_KEY=key).url
    call = Call(url, key=key)
    begun = time.time() * 1000 - 20_000
    call.tell(spoken_turn(1, 0), shift=begun)
    page = look(f"{url}/sessions/{call.id}", wait="#notice input")
    page.get_by_label("Token").fill(token)
    page.keyboard.press("Enter")
    expect(page.locator("#turn-1")).to_be_visible()
    log_out(page)
    page.get_by_label("Token").fill(token, timeout=15_000)
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_be_empty()
    call.tell(spoken_turn(2, 8_000), shift=begun)
    expect(page.locator("#turn-2")).to_be_visible()


def test_a_receiver_that_fails_at_first_is_asked_again(url: str, context: BrowserContext) -> None:
    session_id = told(url, spoken_turn(1, 0))
    asked: list[str] = []

    def fail_once(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(status=503, json={"error": "busy"}) if len(asked) == 1 else route.continue_()

    page = context.new_page()
    page.route("**/spans", fail_once)
    page.goto(f"{url}/sessions/{session_id}")
    expect(page.locator("#notice")).to_contain_text("Trying again")
    page.wait_for_selector("#turn-1")
    expect(page.locator("#notice")).to_be_empty()


def test_a_phone_shows_it_without_scrolling_sideways(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert box(page.locator("#conversation"))["y"] > box(page.locator("#lanes"))["y"]
    page.locator("#turn-2 .called").get_by_role("button", name="Details").click()
    assert box(page.get_by_role("dialog"))["width"] <= 360
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_session_of_500_turns_is_there_at_once_and_only_what_is_in_view_is_drawn(
    url: str, look: Callable[..., Page]
) -> None:
    call = Call(url)
    turns = [spoken_turn(n, n * 9000, tool={"result": n} if n % 3 else None) for n in range(1, 501)]
    call.tell([event for turn in turns for event in turn])
    page = look(f"{url}/sessions/{call.id}", wait=".lane.user .block")
    assert page.locator("#lanes .block").count() < 2000
    expect(page.locator("#conversation .turn")).to_have_count(500)
    # What one searches the page for is found, though nobody has gone there.
    filled = page.locator("#conversation .turn header")
    until(page, lambda: filled.count() == 500, 20, "all turns to be filled")
    page.locator("#lanes").focus()
    for _ in range(10):
        page.keyboard.press("+")
    until(page, lambda: page.locator("#lanes .block").count() < 200, 20, "few blocks")
    page.get_by_role("link", name="Slowest answer").click()
    expect(page.locator(".turn.selected .said.user")).to_be_visible()
