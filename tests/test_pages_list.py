"""The sessions page in a real Chromium, on a receiver that was told of calls."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from otel_voice.adapters.allow import Provider
from otel_voice.recording import Recording
from otel_voice.replay import replay
from tests.browsing import log_out, until
from tests.real import Receiver, wait_for

HERE = Path(__file__).parent
RECORDINGS = HERE / "recordings"
PURE = ("filters.test.mjs", "list.test.mjs")
TOKEN = "a-token-that-only-this-viewer-asks-for"
MARKUP = '<img src=x onerror="window.marked=1"><b>bold</b>'

# A dash.
NONE = "\u2013"
SOME_3_S = re.compile(r"^3\.\d s$")

Look = Callable[..., Page]


@pytest.fixture
def receiving(receiver: Callable[..., Receiver]) -> Receiver:
    return receiver()


@pytest.fixture
def look(context: BrowserContext, receiving: Receiver) -> Iterator[Look]:
    """`look(address)` opens the list; what the page throws, or its policy forbids, fails the test."""
    wrong: list[str] = []

    def look(address: str = "/", **size: int) -> Page:
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.set_viewport_size({"width": size.get("width", 1280), "height": size.get("height", 900)})
        page.on("pageerror", lambda error: wrong.append(f"{error.name}: {error.message}"))
        page.on("console", lambda said: wrong.append(said.text) if "Security Policy" in said.text else None)
        page.goto(receiving.url + address)
        expect(page.locator("main")).not_to_have_attribute("aria-busy", "true")
        return page

    yield look
    assert not wrong, "; ".join(wrong)


def made(receiving: Receiver, **fields: Any) -> str:
    answer = httpx.post(f"{receiving.url}/v1/sessions", json=fields).raise_for_status()
    session_id: str = answer.json()["session_id"]
    return session_id


def tell(receiving: Receiver, session_id: str, *events: dict[str, Any], reason: str | None = None) -> None:
    """Events of a session that is known, and its end if there is a reason."""
    url = f"{receiving.url}/v1/sessions/{session_id}"
    token = httpx.post(f"{receiving.url}/v1/sessions", json={"session_id": session_id}).json()["token"]
    if events:
        httpx.post(f"{url}/events", json={"token": token, "events": list(events)}).raise_for_status()
    if reason:
        httpx.post(f"{url}/end", json={"token": token, "reason": reason}).raise_for_status()


def call(receiving: Receiver, turns: int = 1, reason: str = "user_hangup", **fields: Any) -> str:
    session_id = made(receiving, **fields)
    events = [{"type": "turn_complete", "turn_id": f"t{n}", "user_text": f"Question {n}"} for n in range(turns)]
    tell(receiving, session_id, *events, reason=reason)
    return session_id


def listed(receiving: Receiver, query: str, count: int) -> list[dict[str, Any]]:
    """The sessions that a query finds, once they are so many."""

    def found() -> list[dict[str, Any]] | None:
        answer = httpx.get(f"{receiving.url}/v1/sessions?{query}").raise_for_status()
        sessions: list[dict[str, Any]] = answer.json()["sessions"]
        return sessions if len(sessions) == count else None

    return wait_for(found, 15, f"{count} sessions by {query}")


def plotted(receiving: Receiver, count: int) -> dict[str, Any]:
    """The plots, once so many sessions have ended in them."""

    def found() -> dict[str, Any] | None:
        answer: dict[str, Any] = httpx.get(f"{receiving.url}/v1/sessions/plots").raise_for_status().json()
        return answer if sum(each for _, each in answer["end_reasons"]) == count else None

    return wait_for(found, 15, f"the ends of {count} sessions in the plots")


def rows(page: Page) -> Locator:
    return page.locator("#sessions tbody tr")


def row(page: Page, session_id: str) -> Locator:
    return page.locator(f'#sessions tr[data-id="{session_id}"]')


def cell(page: Page, session_id: str, name: str) -> Locator:
    return row(page, session_id).locator(f"td.{name}")


def turn_away(page: Page, is_hidden: bool) -> None:
    page.evaluate(
        """(isHidden) => {
          Object.defineProperty(document, "hidden", { get: () => isHidden, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        is_hidden,
    )


# Rows


@pytest.mark.parametrize(
    ("name", "provider", "says"),
    [
        (
            "openai_tool_round",
            "openai-realtime",
            {"agent": "concierge gpt-realtime", "turns": "1", "tools": "1", "p50": "434 ms", "tokens": "360"},
        ),
        (
            "gemini_barge_in",
            "gemini-live",
            {"agent": "concierge gemini-live-2.5-flash-preview", "interruptions": "1", "p50": NONE, "tokens": "902"},
        ),
        (
            "gemini_parallel_tools",
            "gemini-live",
            {"tools": "2 1 error", "p95": "1.4 s", "duration": SOME_3_S},
        ),
    ],
)
def test_a_row_says_what_a_call_was(
    receiving: Receiver, look: Look, name: str, provider: Provider, says: dict[str, str | re.Pattern[str]]
) -> None:
    recording = Recording(RECORDINGS / f"{name}.jsonl", provider)
    done = replay(recording, receiving.url, None, speed=None, agent_name="concierge", on_progress=lambda _: None)
    page = look()
    for column, text in {**says, "end": "recording ended", "lost": "0"}.items():
        expect(cell(page, done.session_id, column)).to_have_text(text)
    started = row(page, done.session_id).locator("time").get_attribute("datetime")
    assert started is not None and re.fullmatch(r"2\d{3}-\d\d-\d\dT[\d:.]+Z", started)


def test_a_call_that_goes_on_is_marked(receiving: Receiver, look: Look) -> None:
    session_id = made(receiving)
    expect(cell(look(), session_id, "end")).to_have_text("live")


def test_markup_in_a_name_is_text(receiving: Receiver, look: Look) -> None:
    session_id = call(receiving, user_id=MARKUP, agent_name=MARKUP, reason=MARKUP)
    plotted(receiving, 1)
    page = look()
    for column in ("user", "agent", "end"):
        expect(cell(page, session_id, column)).to_contain_text("<b>bold</b>")
    expect(page.locator("#end-reasons button")).to_contain_text("<b>bold</b>")
    page.locator("#end-reasons button").click()
    expect(page.locator("#chips")).to_contain_text("<b>bold</b>")
    assert page.evaluate("window.marked === undefined && !document.querySelector('main img, main b')")


def test_the_whole_row_leads_to_the_session(receiving: Receiver, look: Look) -> None:
    session_id = call(receiving)
    page = look()
    expect(row(page, session_id).get_by_role("link")).to_have_attribute("href", f"/sessions/{session_id}")
    cell(page, session_id, "tokens").click(force=True)
    page.wait_for_url(f"**/sessions/{session_id}")


# Filters


def test_an_address_filters(receiving: Receiver, look: Look) -> None:
    wanted = call(receiving, agent_name="booking", turns=3)
    call(receiving, agent_name="booking")
    call(receiving, agent_name="concierge", turns=3)
    listed(receiving, "agent=booking&min_turns=3", 1)
    page = look("/?agent=booking&min_turns=3")
    expect(rows(page)).to_have_count(1)
    expect(row(page, wanted)).to_be_visible()
    expect(page.locator("#total")).to_have_text("1 found")
    expect(page.locator("#chips button[data-name]")).to_have_text(
        [re.compile("agent: booking"), re.compile("turns ≥ 3")]
    )


def test_a_filter_goes_into_the_address_and_the_way_back_undoes_it(receiving: Receiver, look: Look) -> None:
    call(receiving, user_id="anna")
    call(receiving, user_id="bert")
    listed(receiving, "user=anna", 1)
    page = look()
    page.locator("#more").click()
    page.get_by_label("User", exact=True).fill("anna")
    expect(rows(page)).to_have_count(1)
    assert page.url.endswith("/?user=anna")
    page.get_by_label("Turns").fill("2")
    expect(page.get_by_role("heading", name="Nothing matches")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Nothing matches")).to_be_visible()
    page.go_back()
    expect(rows(page)).to_have_count(1)
    assert page.url.endswith("/?user=anna")
    page.go_back()
    expect(rows(page)).to_have_count(2)
    page.go_forward()
    expect(rows(page)).to_have_count(1)


def test_what_is_typed_letter_by_letter_is_one_step_of_the_way_back(receiving: Receiver, look: Look) -> None:
    call(receiving, user_id="anna")
    listed(receiving, "q=anna", 1)
    page = look()
    page.locator("#q").press_sequentially("anna", delay=300)
    page.wait_for_url("**/?q=anna")
    page.go_back()
    page.wait_for_url(receiving.url + "/")
    expect(page.locator("#q")).to_have_value("")


def test_a_chip_takes_its_filter_away(receiving: Receiver, look: Look) -> None:
    call(receiving, user_id="anna")
    call(receiving, user_id="bert", turns=2)
    listed(receiving, "user=bert", 1)
    page = look("/?user=bert&min_turns=2")
    page.get_by_role("button", name="remove the filter turns ≥ 2").click()
    page.wait_for_url("**/?user=bert")
    page.locator("#chips").get_by_text("clear filters").click()
    page.wait_for_url(receiving.url + "/")
    expect(rows(page)).to_have_count(2)


def test_nothing_matches_and_the_filters_are_cleared(receiving: Receiver, look: Look) -> None:
    call(receiving)
    page = look("/?user=nobody")
    page.locator("#unmatched").get_by_role("button", name="Clear filters").click()
    expect(rows(page)).to_have_count(1)


def test_a_bad_value_is_answered_by_the_receivers_sentence(receiving: Receiver, look: Look) -> None:
    call(receiving)
    said = httpx.get(f"{receiving.url}/v1/sessions?min_turns=many").json()["error"]
    page = look("/?min_turns=many")
    expect(page.get_by_role("alert").filter(has_text=said)).to_be_visible()
    page.locator("#refused").get_by_role("button", name="Clear filters").click()
    expect(rows(page)).to_have_count(1)


# Plots


def test_end_reasons_are_filters(receiving: Receiver, look: Look) -> None:
    for reason in ("user_hangup", "user_hangup", "page_broke"):
        call(receiving, reason=reason)
    plotted(receiving, 3)
    page = look()
    bars = page.locator("#end-reasons button")
    expect(bars).to_have_text(["user hangup2", "page broke1"])
    bars.nth(1).click()
    page.wait_for_url("**/?end_reason=page_broke")
    expect(rows(page)).to_have_count(1)
    expect(bars).to_have_attribute("aria-pressed", "true")
    bars.first.click()
    expect(rows(page)).to_have_count(3)


def test_plots_are_drawn_and_their_tables_say_the_same(receiving: Receiver, look: Look) -> None:
    recording = Recording(RECORDINGS / "openai_tool_round.jsonl", "openai-realtime")
    for _ in range(2):
        replay(recording, receiving.url, None, speed=None, on_progress=lambda _: None)
    plots = plotted(receiving, 2)
    page = look()
    for name in ("over-time", "latency"):
        drawn = page.locator(f"#{name} canvas").evaluate(
            "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean)"
        )
        assert drawn, f"{name} is empty"
        page.locator(f"#{name} summary").click()
    said = [int(text) for text in page.locator("#over-time tbody td").all_inner_texts()]
    assert said == [count for count in plots["over_time"]["counts"] if count]
    expect(page.locator("#latency tbody tr")).to_have_count(1)
    expect(page.locator("#latency tbody td")).to_have_text(["2", "2"])


def test_a_drag_over_the_time_plot_chooses_a_time(receiving: Receiver, look: Look) -> None:
    call(receiving)
    plots = plotted(receiving, 1)["over_time"]
    page = look()
    box = page.locator("#over-time .u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 2, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 60, steps=4)
    page.mouse.up()
    ends = plots["from"] + plots["bin_ms"] * len(plots["counts"])
    page.wait_for_url(f"**/?from={plots['from']:.0f}&to={ends:.0f}")
    expect(rows(page)).to_have_count(1)


# By itself


def test_a_new_call_appears_and_changes_by_itself(receiving: Receiver, look: Look) -> None:
    call(receiving, user_id="anna")
    page = look()
    session_id = made(receiving, user_id="bert")
    expect(cell(page, session_id, "end")).to_have_text("live")
    expect(rows(page).first).to_have_attribute("data-id", session_id)
    expect(rows(page)).to_have_count(2)
    row(page, session_id).get_by_role("link").focus()
    tell(receiving, session_id, {"type": "turn_complete", "turn_id": "t"}, reason="agent_hangup")
    expect(cell(page, session_id, "end")).to_have_text("agent hangup")
    expect(cell(page, session_id, "turns")).to_have_text("1")
    expect(row(page, session_id).get_by_role("link")).to_be_focused()
    expect(page.locator("#total")).to_have_text("2 sessions")


def test_a_call_that_the_filter_does_not_hold_stays_away(receiving: Receiver, look: Look) -> None:
    anna = made(receiving, user_id="anna")
    listed(receiving, "user=anna&status=open", 1)
    page = look("/?user=anna&status=open")
    expect(rows(page)).to_have_count(1)
    made(receiving, user_id="bert")
    other = made(receiving, user_id="anna")
    expect(row(page, other)).to_be_visible()
    expect(rows(page)).to_have_count(2)
    tell(receiving, anna, reason="user_hangup")
    # A filter knows of it when the session is final.
    expect(row(page, anna)).to_have_count(0, timeout=15_000)
    expect(rows(page)).to_have_count(1)


def test_nothing_is_followed_while_nobody_looks(receiving: Receiver, look: Look) -> None:
    call(receiving)
    page = look()
    streams: list[str] = []
    page.on("request", lambda request: streams.append(request.url) if request.url.endswith("/stream") else None)
    turn_away(page, True)
    session_id = made(receiving)
    page.wait_for_timeout(2500)
    expect(row(page, session_id)).to_have_count(0)
    assert not streams
    turn_away(page, False)
    expect(row(page, session_id)).to_be_visible()
    assert len(streams) == 1


def test_the_first_call_takes_the_place_of_the_words_about_none(receiving: Receiver, look: Look) -> None:
    page = look()
    expect(page.get_by_role("heading", name="No session yet")).to_be_visible()
    expect(page.locator("#none-yet")).to_contain_text("otel-voice demo")
    expect(page.locator("#none-yet pre").last).to_contain_text(f"{receiving.url}/client/otel-voice.js")
    session_id = made(receiving)
    expect(row(page, session_id)).to_be_visible()
    expect(page.get_by_role("heading", name="No session yet")).to_be_hidden()


def test_a_receiver_that_was_away_is_found_again(
    receiving: Receiver, receiver: Callable[..., Receiver], look: Look
) -> None:
    call(receiving)
    page = look()
    expect(rows(page)).to_have_count(1)
    receiving.stop()
    expect(page.locator("#notice")).to_contain_text("does not answer")
    again = receiver(port=receiving.port)
    session_id = made(again)
    expect(row(page, session_id)).to_be_visible(timeout=20_000)
    expect(page.locator("#notice")).to_be_hidden()


# Many


def test_older_sessions_are_appended_each_once(receiving: Receiver, look: Look) -> None:
    ids = [made(receiving) for _ in range(120)]
    page = look()
    assert [each.get_attribute("data-id") for each in rows(page).all()] == ids[:-51:-1]
    # Where a pointer had to scroll to it, it would have been asked already.
    page.get_by_role("button", name="Older sessions").dispatch_event("click")
    expect(rows(page)).to_have_count(100)
    page.mouse.wheel(0, 20_000)
    expect(rows(page)).to_have_count(120)
    expect(page.get_by_role("button", name="Older sessions")).to_be_hidden()
    assert rows(page).evaluate_all("rows => rows.map((row) => row.dataset.id)") == ids[::-1]


def test_the_way_back_leads_to_where_one_was(receiving: Receiver, look: Look) -> None:
    for _ in range(60):
        made(receiving)
    page = look()
    page.mouse.wheel(0, 20_000)
    expect(rows(page)).to_have_count(60)
    page.evaluate("scrollTo(0, 900)")
    rows(page).nth(40).get_by_role("link").press("Enter")
    page.wait_for_url("**/sessions/*")
    # From the back-forward cache no page loads.
    page.go_back(wait_until="commit")
    expect(rows(page)).to_have_count(60)
    until(page, lambda: page.evaluate("scrollY") > 500, 20, "the page to be where it was")


# Hands and screens


def test_the_keyboard_is_enough(receiving: Receiver, look: Look) -> None:
    call(receiving, user_id="bert")
    anna = call(receiving, user_id="anna")
    listed(receiving, "q=anna", 1)
    plotted(receiving, 2)
    page = look()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the sessions")).to_be_focused()
    for _ in ("the name", "the API", "the search"):
        page.keyboard.press("Tab")
    expect(page.locator("#q")).to_be_focused()
    page.keyboard.type("anna")
    page.keyboard.press("Enter")
    expect(rows(page)).to_have_count(1)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Status")).to_be_focused()
    page.get_by_role("link", name="Skip to the sessions").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(row(page, anna).get_by_role("link")).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/sessions/{anna}")


@pytest.mark.parametrize("width", [360, 820, 1280])
def test_no_width_scrolls_sideways(receiving: Receiver, look: Look, width: int) -> None:
    session_id = call(receiving, user_id="a" * 100, agent_name="b" * 100, reason="c" * 60)
    plotted(receiving, 1)
    page = look(f"/?user={'a' * 100}", width=width, height=800)
    page.locator("#more").click()
    expect(row(page, session_id)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_table_is_a_table_to_a_screen_reader(receiving: Receiver, look: Look) -> None:
    call(receiving, user_id="anna")
    for width, cells in ((1280, 12), (390, 5)):
        table = look(width=width).locator("#sessions").get_by_role("table")
        expect(table.get_by_role("columnheader")).to_have_count(12)
        found = table.get_by_role("row").nth(1).get_by_role("cell")
        expect(found).to_have_count(cells)
        # What a card leaves out moves no figure under another head.
        expect(found.get_by_text("user hangup")).to_have_count(1)
        expect(found.filter(has_text="user hangup")).to_have_attribute("aria-colindex", "11")


# Who may look


def test_a_viewer_with_a_token_asks_for_it(receiver: Callable[..., Receiver], context: BrowserContext) -> None:
    locked = receiver(OTEL_VOICE_API_KEY="the-key-of-the-apps-backend", OTEL_VOICE_VIEWER_TOKEN=TOKEN)
    page = context.new_page()
    page.goto(locked.url)
    expect(page.locator("#locked").get_by_text("OTEL_VOICE_VIEWER_TOKEN")).to_be_visible()
    page.get_by_label("Token", exact=True).fill("another token")
    page.get_by_role("button", name="Open").click()
    expect(page.locator("#locked [role=alert]")).not_to_be_empty()
    page.get_by_label("Token", exact=True).fill(TOKEN)
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("heading", name="No session yet")).to_be_visible()


def test_where_the_cookie_is_over_the_list_gives_way_to_the_login(
    receiver: Callable[..., Receiver], context: BrowserContext
) -> None:
    locked = receiver(OTEL_VOICE_API_KEY="the-key-of-the-apps-backend", OTEL_VOICE_VIEWER_TOKEN=TOKEN)
    page = context.new_page()
    page.goto(locked.url)
    page.get_by_label("Token", exact=True).fill(TOKEN)
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("heading", name="No session yet")).to_be_visible()
    log_out(page)
    expect(page.locator("#locked")).to_be_visible(timeout=15_000)
    expect(page.locator("#filters")).to_be_hidden()


# The pure parts


def test_the_pure_parts_behave() -> None:
    node = shutil.which("node") or pytest.skip("no Node.js here")
    run = subprocess.run([node, "--test", *PURE], cwd=HERE / "pages", capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
