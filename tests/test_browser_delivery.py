"""What a page has noted arrives, whatever becomes of the page, the network or the receiver: a real Chromium tries."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, Request, Route

from tests.browsing import Own, Site, final_spans, spans_of, until
from tests.real import Receiver, wait_for

Visit = Callable[..., Page]
KEPT = """() => new Promise((resolve) => {
  indexedDB.open("otel-voice").onsuccess = ({ target }) => {
    const found = target.result.transaction("rows").objectStore("rows").getAll();
    found.onsuccess = () => resolve(found.result.reduce((count, row) => count + row.count, 0));
  };
})"""


def summary(app: Site, session_id: str) -> dict[str, Any]:
    answer = httpx.get(f"{app.receiver_url}/v1/sessions/{session_id}")
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def last(app: Site) -> str:
    session_id: str = app.made[-1]["session_id"]
    return session_id


def marks(app: Site, session_id: str) -> list[str]:
    spans = spans_of(app.receiver_url, session_id)
    return sorted(span["name"] for span in spans if span["attributes"].get("langfuse.observation.type") == "event")


def arrived(app: Site, session_id: str, count: int, page: Page | None = None) -> dict[str, Any]:
    """The session's summary once so many of its events are there, and none is missing."""

    def whole() -> dict[str, Any] | None:
        found = summary(app, session_id)
        return found if found["events_received"] == count and found["events_lost"] == 0 else None

    what = f"{count} events of {session_id}"
    return until(page, whole, 60, what) if page else wait_for(whole, 60, what)


def posts(page: Page) -> list[Request]:
    """The page's requests to the receiver, from now on."""
    sent: list[Request] = []
    page.on("request", lambda request: sent.append(request) if request.url.endswith("/events") else None)
    return sent


def note(page: Page, *names: str) -> None:
    page.evaluate("names => names.forEach((name) => trace.mark(name))", list(names))


def kept(page: Page, count: int) -> None:
    until(page, lambda: page.evaluate(KEPT) == count, 5, f"{count} events to be kept")


def test_a_call_arrives_and_leaves_nothing_behind(app: Site, visit: Visit) -> None:
    page = visit(app)
    page.evaluate("trace.turnStart('t1'); trace.turnComplete('t1', { user_text: 'Hello' }); trace.end()")
    assert arrived(app, last(app), 3, page)["end_reason"] == "user_hangup"
    kept(page, 0)


def test_a_browser_that_is_killed_in_a_call_loses_nothing_that_was_kept(
    app: Site, receiver: Callable[..., Receiver], own_browser: Callable[..., Own], visit: Visit
) -> None:
    own = own_browser()
    page = visit(app, context=own.context)
    page.route("**/events", lambda route: route.abort())
    note(page, *(f"mark {n}" for n in range(50)))
    kept(page, 50)
    own.program.kill()
    killed = last(app)
    page = visit(app, context=own_browser().context)
    arrived(app, killed, 50, page)
    kept(page, 0)


def test_a_page_that_is_closed_just_after_an_event_has_sent_it(app: Site, visit: Visit) -> None:
    page = visit(app)
    arrived_before = posts(page)
    until(page, lambda: arrived_before or page.evaluate("performance.now() > 500"), 20)
    note(page, "the last word")
    page.close()
    found = arrived(app, last(app), 2)
    assert (found["end_reason"], found["status"]) == ("page_closed", "closing")
    assert marks(app, last(app)) == ["the last word"]


def test_offline_for_half_a_minute_loses_nothing(app: Site, visit: Visit, context: BrowserContext) -> None:
    page = visit(app)
    note(page, "before")
    context.set_offline(True)
    begun, count = time.monotonic(), 0
    while time.monotonic() < begun + 30:
        note(page, f"meanwhile {count}")
        count += 1
        page.wait_for_timeout(500)
    context.set_offline(False)
    back = time.monotonic()
    arrived(app, last(app), count + 1, page)
    assert time.monotonic() < back + 10


def test_a_receiver_that_is_away_for_half_a_minute_gets_everything(
    receiver: Callable[..., Receiver], site: Callable[..., Site], visit: Visit
) -> None:
    receiving = receiver()
    app = site(receiving)
    page = visit(app)
    note(page, "before")
    arrived(app, last(app), 1, page)
    receiving.kill()
    begun, count = time.monotonic(), 0
    while time.monotonic() < begun + 30:
        note(page, f"meanwhile {count}")
        count += 1
        page.wait_for_timeout(500)
    receiver(receiving.port)
    arrived(app, last(app), count + 1, page)


def test_a_refused_token_is_renewed_and_the_events_arrive(app: Site, visit: Visit) -> None:
    page = visit(app, "/")
    page.evaluate(
        "async () => { const made = await token(); trace = new VoiceTrace({ ...made, token: 'forged' }, { renew }) }"
    )
    note(page, "here")
    arrived(app, last(app), 1, page)
    assert len(app.made) == 2


def test_a_token_is_renewed_before_it_is_over(app: Site, visit: Visit) -> None:
    page = visit(app, "/")
    answers: list[int] = []
    page.on("response", lambda answer: answers.append(answer.status) if answer.url.endswith("/events") else None)
    page.evaluate(
        """async () => {
          const made = await token();
          trace = new VoiceTrace({ ...made, expires_at: Date.now() + 50_000, token: "over" }, { renew });
        }"""
    )
    note(page, "here")
    arrived(app, last(app), 1, page)
    until(page, lambda: len(answers) > 1, 20, "the answers")
    assert (len(app.made), set(answers)) == (2, {204})


def test_without_a_new_token_the_events_are_kept(app: Site, visit: Visit) -> None:
    page = visit(app, "/")
    page.evaluate("async () => { trace = new VoiceTrace({ ...await token(), token: 'forged' }) }")
    sent = posts(page)
    note(page, "here")
    until(page, lambda: len(sent) > 2, 20, "three tries")
    kept(page, 1)


def test_a_burst_arrives_whole(app: Site, visit: Visit) -> None:
    page = visit(app)
    page.evaluate("() => { for (let n = 0; n < 2000; n++) trace.mark(`mark ${n}`, { n }) }")
    arrived(app, last(app), 2000, page)
    kept(page, 0)


def test_in_normal_flow_there_is_one_post_a_second_at_most(app: Site, visit: Visit) -> None:
    page = visit(app)
    sent, begun = posts(page), time.monotonic()
    for n in range(50):
        note(page, f"mark {n}")
        page.wait_for_timeout(100)
    assert 4 <= len(sent) <= time.monotonic() - begun + 1
    arrived(app, last(app), 50, page)


def test_every_post_is_plain_text_without_a_preflight_and_without_the_token_in_its_address(
    app: Site, visit: Visit
) -> None:
    page = visit(app)
    sent = posts(page)
    note(page, "here")
    arrived(app, last(app), 1, page)
    for request in sent:
        assert request.method == "POST"
        assert request.headers["content-type"].startswith("text/plain")
        assert "authorization" not in request.headers and "cookie" not in request.headers
        assert request.url == app.made[-1]["events_url"]


def test_two_tabs_send_what_was_left_once(app: Site, own_browser: Callable[..., Own], visit: Visit) -> None:
    own = own_browser()
    page = visit(app, context=own.context)
    page.route("**/events", lambda route: route.abort())
    note(page, "left")
    kept(page, 1)
    own.program.kill()
    left, own = last(app), own_browser()
    tabs = [visit(app, "/", context=own.context) for _ in range(2)]
    sent = [posts(tab) for tab in tabs]
    for tab in tabs:
        tab.evaluate("async () => { trace = new VoiceTrace(await token(), { renew }) }")
    arrived(app, left, 1, tabs[0])
    kept(tabs[0], 0)
    assert sum(left in request.url for requests in sent for request in requests) == 1


def test_what_a_live_page_has_not_sent_yet_is_not_left(app: Site, visit: Visit, context: BrowserContext) -> None:
    page = visit(app)
    page.route("**/events", lambda route: route.abort())
    note(page, "mine")
    kept(page, 1)
    mine, other = last(app), visit(app)
    sent = posts(other)
    note(other, "hers")
    arrived(app, last(app), 1, other)
    assert all(mine not in request.url for request in sent)
    kept(other, 1)


def test_a_reload_is_a_new_session_linked_to_the_one_before(app: Site, visit: Visit) -> None:
    page = visit(app)
    note(page, "first")
    page.reload()
    page.wait_for_function("window.ready")
    page.evaluate("trace.end()")
    first, second = (made["session_id"] for made in app.made)
    root = final_spans(app.receiver_url, second)[-1]
    assert root["attributes"]["session.previous_id"] == first
    assert root["links"] and root["links"][0].split("-")[1] == first.replace("-", "")
    assert arrived(app, first, 2, page)["end_reason"] == "page_closed"


def test_a_call_that_was_ended_is_not_the_one_before(app: Site, visit: Visit) -> None:
    page = visit(app)
    page.evaluate("trace.end()")
    page.reload()
    page.wait_for_function("window.ready")
    page.evaluate("trace.end()")
    root = final_spans(app.receiver_url, last(app))[-1]
    assert "session.previous_id" not in root["attributes"]


def test_a_page_from_the_back_forward_cache_goes_on_with_its_trace(app: Site, visit: Visit) -> None:
    app.pages["/plain"] = "<script>ready = true</script>"
    page = visit(app)
    page.evaluate("() => { shown = []; onpageshow = (event) => shown.push(event.persisted) }")
    note(page, "before")
    page.goto(f"{app.url}/plain")
    page.go_back(wait_until="commit")
    until(page, lambda: page.evaluate("shown") == [True], 20, "the page out of the cache")
    page.evaluate("trace.end()")
    found = arrived(app, last(app), 4, page)  # before, page_closed, page_shown, the end
    assert (found["end_reason"], len(app.made)) == ("user_hangup", 1)
    assert marks(app, last(app)) == ["before", "page_shown"]


def test_a_connection_does_not_outlive_the_back_forward_cache(app: Site, visit: Visit) -> None:
    app.pages["/plain"] = "<script>ready = true</script>"
    page = visit(app)
    page.evaluate("trace.opened()")
    page.goto(f"{app.url}/plain")
    page.go_back(wait_until="commit")
    found = arrived(app, last(app), 2, page)
    assert (found["end_reason"], found["status"]) == ("provider_closed", "ended")


@pytest.mark.parametrize("reason", ["provider_closed", "go_away", "error", "user_hangup"])
def test_a_connection_that_is_closed_ends_the_session_unless_another_opens(
    app: Site, visit: Visit, reason: str
) -> None:
    page = visit(app)
    page.evaluate("reason => { trace.opened(); trace.closed(reason); trace.opened() }", reason)
    page.wait_for_timeout(5_500)
    assert summary(app, last(app))["status"] == "open"
    page.evaluate("reason => { trace.closed(reason) }", reason)
    until(page, lambda: summary(app, last(app))["end_reason"] == reason, 15, "the end")


def test_a_lost_microphone_is_why_the_session_ends(app: Site, visit: Visit) -> None:
    page = visit(app)
    page.evaluate("() => { trace.lost('microphone_lost'); trace.end() }")
    assert arrived(app, last(app), 2, page)["end_reason"] == "microphone_lost"


def test_a_session_ends_when_its_connection_closed_and_not_when_nobody_came_back(app: Site, visit: Visit) -> None:
    page = visit(app)
    page.evaluate("() => { trace.opened(); trace.mark('here'); trace.closed('provider_closed') }")
    until(page, lambda: summary(app, last(app))["end_reason"], 15, "the end")
    assert summary(app, last(app))["duration_ms"] < 1_000


def test_a_call_may_begin_before_the_apps_backend_has_answered(app: Site, visit: Visit) -> None:
    page = visit(app, "/")
    page.evaluate("() => { trace = new VoiceTrace(token(), { renew }); trace.mark('early'); }")
    assert page.evaluate("trace.traceparent()") == app.made[-1]["traceparent"]
    page.evaluate("() => { trace.mark('late'); trace.end() }")
    arrived(app, last(app), 3, page)
    assert marks(app, last(app)) == ["early", "late"]


def test_a_backend_that_fails_costs_the_trace_and_nothing_else(app: Site, visit: Visit, errors: list[str]) -> None:
    page, said = visit(app, "/"), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.evaluate("() => { trace = new VoiceTrace(Promise.reject(new Error('no backend'))); trace.mark('x') }")
    until(page, lambda: said, 20, "a warning")
    assert page.evaluate("() => { trace.mark('y'); trace.end(); return trace.traceparent() }") is None
    assert "not traced" in said[0] and "no backend" in said[0]
    assert errors == []


def test_what_the_receiver_refuses_is_told_to_the_developer(app: Site, visit: Visit) -> None:
    page, said = visit(app), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.evaluate("() => { trace.mark('bad', { 'user.id': 'u1' }); trace.mark('good') }")
    arrived(app, last(app), 1, page)
    until(page, lambda: said, 20, "a warning")
    assert "user.id" in said[0]
    kept(page, 0)


def test_one_row_that_is_refused_holds_up_no_other(app: Site, visit: Visit) -> None:
    page = visit(app)
    headers = {"access-control-allow-origin": "*"}

    def answer(route: Route) -> None:
        if "poison" in (route.request.post_data or ""):
            route.fulfill(status=413, headers=headers)
        else:
            route.continue_()

    page.route("**/events", answer)
    note(page, "before")
    page.wait_for_timeout(150)
    note(page, "poison")
    page.wait_for_timeout(150)
    note(page, "after")
    until(page, lambda: marks(app, last(app)) == ["after", "before"], 20, "its neighbours")
    kept(page, 0)


def test_a_renewal_that_never_answers_holds_up_nothing(app: Site, visit: Visit) -> None:
    page = visit(app, "/")
    page.evaluate(
        """async () => {
          const made = await token();
          trace = new VoiceTrace({ ...made, expires_at: Date.now() + 30_000 }, { renew: () => new Promise(() => {}) });
        }"""
    )
    note(page, "here")
    arrived(app, last(app), 1, page)


def test_what_was_left_waits_for_a_backend_that_fails_to_renew(
    app: Site, own_browser: Callable[..., Own], visit: Visit
) -> None:
    own = own_browser()
    page = visit(app, "/", context=own.context)
    page.evaluate("async () => { trace = new VoiceTrace({ ...await token(), token: 'over' }) }")
    note(page, "left")
    kept(page, 1)
    own.program.kill()
    left = last(app)
    page = visit(app, "/", context=own_browser().context)
    page.evaluate(
        """async () => {
          let asked = 0;
          const later = async (id) => { if (asked++ < 2) throw new Error("restarting"); return renew(id); };
          trace = new VoiceTrace(await token(), { renew: later });
        }"""
    )
    arrived(app, left, 1, page)


def test_storage_that_is_taken_away_stops_nothing(app: Site, visit: Visit) -> None:
    page = visit(app)
    note(page, "before")
    arrived(app, last(app), 1, page)
    done = page.evaluate(
        """() => new Promise((resolve) => {
          const request = indexedDB.deleteDatabase("otel-voice");
          request.onsuccess = () => resolve("deleted");
          request.onblocked = () => resolve("blocked");
        })"""
    )
    note(page, "after")
    arrived(app, last(app), 3, page)
    assert (done, marks(app, last(app))) == ("deleted", ["after", "before", "kept_in_memory_only"])


def test_a_copied_tab_is_not_linked_to_the_call_that_goes_on(app: Site, visit: Visit) -> None:
    page = visit(app)
    note(page, "first")
    with page.context.expect_page() as opened:
        page.evaluate("() => { window.open('/?trace') }")
    opened.value.wait_for_function("window.ready")
    opened.value.evaluate("() => { trace.mark('second'); trace.end() }")
    root = final_spans(app.receiver_url, last(app))[-1]
    assert "session.previous_id" not in root["attributes"]


def test_a_hidden_page_has_sent_everything_and_has_not_ended(app: Site, visit: Visit) -> None:
    page = visit(app)
    sent = posts(page)
    page.wait_for_timeout(1_200)
    page.evaluate(
        """() => {
          trace.mark("first");
          Object.defineProperty(document, "hidden", { get: () => true });
          document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    until(page, lambda: sent, 0.5, "a POST at once")
    assert arrived(app, last(app), 1, page)["status"] == "open"


def test_a_wrong_clock_is_corrected(app: Site, visit: Visit, context: BrowserContext) -> None:
    context.add_init_script(
        """{ const now = Date.now, origin = performance.timeOrigin;
          Date.now = () => now() + 3_600_000;
          Object.defineProperty(performance, "timeOrigin", { get: () => origin + 3_600_000 }); }"""
    )
    page = visit(app)
    began = time.time() * 1000
    note(page, "here")
    page.evaluate("trace.end()")
    root = final_spans(app.receiver_url, last(app))[-1]
    assert abs(root["start_time_unix_nano"] / 1e6 - began) < 2_000
    assert abs(root["attributes"]["voice.clock.offset"] + 3_600) < 1


@pytest.mark.parametrize("asleep", [False, True], ids=["the clock is set", "the laptop sleeps"])
def test_a_clock_that_jumps_is_estimated_anew(app: Site, visit: Visit, context: BrowserContext, asleep: bool) -> None:
    """While a laptop sleeps, performance.now() stands still; who sets the clock moves the wall clock only."""
    context.add_init_script(
        """{ const wall = Date.now, now = performance.now.bind(performance), odd = window.odd = { set: 0, slept: 0 };
          Date.now = () => wall() + odd.set;
          performance.now = () => (odd.since ?? now()) - odd.slept;
          odd.sleep = () => { odd.since = now() };
          odd.wake = () => { odd.slept = now() - odd.since; delete odd.since }; }"""
    )
    page = visit(app)
    note(page, "before")
    arrived(app, last(app), 1, page)
    if asleep:
        page.evaluate("odd.sleep()")
        page.wait_for_timeout(4_000)
        page.evaluate("odd.wake()")
    else:
        page.evaluate("odd.set = 600_000")
    after = time.time() * 1000
    note(page, "after")
    arrived(app, last(app), 2, page)
    spans = {span["name"]: span["start_time_unix_nano"] / 1e6 for span in spans_of(app.receiver_url, last(app))}
    assert abs(spans["after"] - after) < 1_000


def test_without_indexeddb_it_works_from_memory_and_says_so(app: Site, visit: Visit, context: BrowserContext) -> None:
    context.add_init_script("IDBFactory.prototype.open = () => { throw new DOMException('no', 'SecurityError') }")
    page = visit(app)
    note(page, "here")
    arrived(app, last(app), 2, page)
    assert marks(app, last(app)) == ["here", "kept_in_memory_only"]


def test_retry_after_is_honoured(app: Site, visit: Visit) -> None:
    page, sent = visit(app, "/"), list[float]()
    page.on("request", lambda request: sent.append(time.monotonic()) if request.url.endswith("/events") else None)
    headers = {"retry-after": "3", "access-control-allow-origin": "*", "access-control-expose-headers": "retry-after"}
    page.route("**/events", lambda route: route.fulfill(status=503, headers=headers), times=1)
    page.evaluate("async () => { trace = new VoiceTrace(await token(), { renew }) }")
    note(page, "here")
    arrived(app, last(app), 1, page)
    until(page, lambda: len(sent) > 1, 20, "Playwright to tell of it")
    assert sent[1] - sent[0] > 2.9


def test_a_page_that_goes_away_sends_no_more_than_browsers_grant(
    receiver: Callable[..., Receiver], site: Callable[..., Site], visit: Visit
) -> None:
    """What does not fit is kept, and the next page sends it."""
    receiving = receiver()
    app = site(receiving)
    page = visit(app)
    receiving.process.send_signal(signal.SIGSTOP)  # so that no answer comes before the page goes
    page.evaluate("() => { for (let n = 0; n < 40; n++) trace.mark('long', { text: 'é'.repeat(2_000) }) }")
    kept(page, 40)
    page.close()
    receiving.process.send_signal(signal.SIGCONT)
    first = last(app)
    wait_for(lambda: summary(app, first)["events_received"] > 0, 10, "what fitted")
    assert 0 < summary(app, first)["events_received"] < 41
    other = visit(app)
    arrived(app, first, 41, other)
    kept(other, 0)


def test_what_a_pages_own_policy_blocks_is_kept_for_a_page_that_may(
    app: Site, visit: Visit, context: BrowserContext
) -> None:
    """A beacon says that it was sent, with nothing sent: only an answer that was read lets go of an event."""
    app.headers["Content-Security-Policy"] = "connect-src 'self'"
    page = visit(app)
    note(page, "blocked")
    kept(page, 1)
    page.close()
    blocked = last(app)
    app.headers.clear()
    other = visit(app)
    # That the page was closed is kept where the browser still has time for it.
    until(page=other, condition=lambda: marks(app, blocked) == ["blocked"], deadline_s=60, what="what was blocked")
    kept(other, 0)


def test_nothing_throws_whatever_the_app_says(app: Site, visit: Visit) -> None:
    page = visit(app)
    page.evaluate(
        """() => {
          const loop = {}; loop.loop = loop;
          const proxy = new Proxy({}, { get() { throw 1 } });
          const odd = [undefined, null, 1n, Symbol("s"), loop, () => {}, NaN, "\\ud800", proxy];
          for (const method of Object.getOwnPropertyNames(VoiceTrace.prototype)) {
            if (["constructor", "end", "closed", "opened", "lost"].includes(method)) continue;
            for (const given of odd) {
              if (method === "fetch" || method === "traceparent") trace[method](given).catch(() => {});
              else trace[method](given, given, given);
            }
          }
          for (const given of odd) new VoiceTrace(given);
        }"""
    )
    note(page, "here")
    until(page, lambda: "here" in marks(app, last(app)), 20, "the mark after all that")
    assert summary(app, last(app))["events_lost"] == 0


def test_the_apps_own_failures_reach_the_app(app: Site, visit: Visit) -> None:
    page = visit(app)
    assert page.evaluate("trace.fetch('http://127.0.0.1:1/').then(() => 'ok', (error) => error.name)") == "TypeError"


def test_a_tools_backend_joins_the_trace(app: Site, visit: Visit) -> None:
    """The header goes to the page's own origin and to those it names, and nowhere else."""
    page, port = visit(app, "/"), app.url.rsplit(":", 1)[1]
    begin = "async (propagateTo) => { trace = new VoiceTrace(await token(), { renew, propagateTo }) }"
    ask = (
        """url => trace.fetch(url, { headers: { accept: "x/y" } }, { callId: "c 1" }).then((answer) => answer.json())"""
    )
    page.evaluate(begin, [f"http://localhost:{port}"])
    own, named = (page.evaluate(ask, f"http://{host}:{port}/api/headers") for host in ("127.0.0.1", "localhost"))
    page.evaluate("trace.toolCall('c 1', 'get_weather', {}); trace.end()")
    (tool,) = (span for span in final_spans(app.receiver_url, last(app)) if span["name"] == "execute_tool get_weather")
    expected = f"00-{tool['trace_id']}-{tool['span_id']}-01"
    assert (own["traceparent"], own["accept"], named["traceparent"]) == (expected, "x/y", expected)
    page.evaluate(begin, [])
    assert "traceparent" not in page.evaluate(ask, f"http://localhost:{port}/api/headers")
