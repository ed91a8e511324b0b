"""The ground that the browser's tests stand on: a real Chromium, a site of its own origin, a real receiver."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page

from tests.browsing import Own, Site, spans_of
from tests.real import wait_for


def test_a_page_of_another_origin_is_given_a_session_and_posts_to_it(app: Site, visit: Callable[..., Page]) -> None:
    page = visit(app, "/")
    status = page.evaluate(
        """async () => {
          const made = await token();
          const events = [{ type: "turn_complete", turn_id: "t1", user_text: "Hello", seq: 0, ts: Date.now() }];
          const body = JSON.stringify({ source: "page", token: made.token, events });
          return (await fetch(made.events_url, { method: "POST", body })).status;
        }"""
    )
    assert status == 204
    (made,) = app.made
    spans = spans_of(app.receiver_url, made["session_id"])
    assert any("Hello" in span["attributes"].get("gen_ai.input.messages", "") for span in spans)


def test_the_receivers_own_copy_of_the_client_can_be_imported_by_a_page_of_another_origin(
    app: Site, visit: Callable[..., Page]
) -> None:
    page = visit(app, "/")
    page.evaluate(
        """async (client) => {
          const { VoiceTrace } = await import(client);
          new VoiceTrace(await token()).turnComplete("t1", { user_text: "Hello" });
        }""",
        f"{app.receiver_url}/client/otel-voice.js",
    )
    wait_for(lambda: len(spans_of(app.receiver_url, app.made[0]["session_id"])) > 1, 10, "the turn")


def test_the_back_forward_cache_is_there(app: Site, visit: Callable[..., Page]) -> None:
    app.pages["/plain"] = "<script>ready = true; shown = []; onpageshow = (e) => shown.push(e.persisted)</script>"
    page = visit(app, "/plain")
    page.goto(f"{app.url}/plain?away")
    page.go_back(wait_until="commit")
    assert wait_for(lambda: page.evaluate("shown"), 20, "the page to be shown") == [False, True]


def test_a_killed_browser_is_opened_again_on_the_same_profile(
    app: Site, own_browser: Callable[..., Own], visit: Callable[..., Page]
) -> None:
    app.pages["/plain"] = "<script>ready = true</script>"
    first = own_browser()
    visit(app, "/plain", context=first.context).evaluate(
        """() => new Promise((resolve) => {
          const request = indexedDB.open("kept", 1);
          request.onupgradeneeded = () => request.result.createObjectStore("rows").put("a row", 1);
          request.onsuccess = resolve;
        })"""
    )
    first.program.kill()
    page = visit(app, "/plain", context=own_browser().context)
    kept = page.evaluate(
        """() => new Promise((resolve) => {
          indexedDB.open("kept", 1).onsuccess = ({ target }) => {
            target.result.transaction("rows").objectStore("rows").get(1).onsuccess = (e) => resolve(e.target.result);
          };
        })"""
    )
    assert kept == "a row"
