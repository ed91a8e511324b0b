"""Who may post and from where, as a page in a real Chromium meets it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page

from otel_voice.tokens import Tokens
from tests.browsing import Site, until
from tests.real import Receiver, free_port, wait_for

Visit = Callable[..., Page]
KEY = "a-key-of-the-apps-backend"
APP = {"authorization": f"Bearer {KEY}"}
TOKEN_KEY = "a-signing-key-that-only-tests-know"
# Whatever the receiver says, the app goes on: what is asked is that nothing throws and nothing counts as delivered.
WAITING = """() => new Promise((resolve) => {
  indexedDB.open("otel-voice").onsuccess = ({ target }) => {
    const found = target.result.transaction("rows").objectStore("rows").getAll();
    found.onsuccess = () => resolve(found.result.reduce((count, row) => count + row.count, 0));
  };
})"""


def statuses(page: Page) -> list[int]:
    """Of the receiver's answers, from now on."""
    found: list[int] = []
    page.on("response", lambda answer: found.append(answer.status) if answer.url.endswith("/events") else None)
    return found


def received(url: str, session_id: str, headers: dict[str, str] | None = None) -> int:
    answer = httpx.get(f"{url}/v1/sessions/{session_id}", headers=headers)
    count: int = answer.raise_for_status().json()["events_received"]
    return count


def test_a_page_of_an_origin_that_is_not_listed_reads_no_answer_and_keeps_its_events(
    receiver: Callable[..., Receiver], site: Callable[..., Site], visit: Visit
) -> None:
    receiving = receiver(OTEL_VOICE_API_KEY=KEY, OTEL_VOICE_ALLOWED_ORIGINS="https://app.example.com")
    page = visit(site(receiving), "/")
    session = httpx.post(f"{receiving.url}/v1/sessions", headers=APP).json()
    failed: list[str] = []
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.evaluate("made => { trace = new VoiceTrace(made); trace.mark('here') }", session)
    until(page, lambda: failed, 10, "an answer that it must not read")
    until(page, lambda: page.evaluate(WAITING) == 1, 20, "the event to be kept")


def test_a_page_of_a_listed_origin_posts_to_a_receiver_with_a_key(
    receiver: Callable[..., Receiver], site: Callable[..., Site], visit: Visit
) -> None:
    port = free_port()
    app = site(SimpleNamespace(url=f"http://127.0.0.1:{port}"))
    receiving = receiver(port, OTEL_VOICE_API_KEY=KEY, OTEL_VOICE_ALLOWED_ORIGINS=app.url)
    page = visit(app, "/")
    session = httpx.post(f"{receiving.url}/v1/sessions", headers=APP).json()
    page.evaluate("made => { trace = new VoiceTrace(made); trace.mark('here') }", session)
    wait_for(lambda: received(receiving.url, session["session_id"], APP) == 1, 10, "the event")
    until(page, lambda: page.evaluate(WAITING) == 0, 20, "the answer to be read")


@pytest.mark.parametrize("kind", ["forged", "expired", "of another session"])
def test_a_token_that_is_not_good_stores_nothing_and_is_renewed(
    receiver: Callable[..., Receiver], site: Callable[..., Site], visit: Visit, kind: str
) -> None:
    app = site(receiver(OTEL_VOICE_TOKEN_KEY=TOKEN_KEY))
    ours, theirs = Tokens(TOKEN_KEY.encode()), Tokens(b"a-key-that-somebody-else-has-made")
    page = visit(app, "/")
    made = page.evaluate("token()")
    session_id, other = made["session_id"], "6f1c2b3a-0000-4000-8000-0000000000bb"
    token = {
        "forged": theirs.mint(session_id, 4e9),
        "expired": ours.mint(session_id, 1.0),
        "of another session": ours.mint(other, 4e9),
    }[kind]
    found = statuses(page)
    page.evaluate("made => { trace = new VoiceTrace(made); trace.mark('here') }", {**made, "token": token})
    until(page, lambda: len(found) > 1, 15, "two answers")
    assert set(found) == {403 if kind == "of another session" else 401}
    assert received(app.receiver_url, session_id) == 0
    page.evaluate("made => { trace = new VoiceTrace(made, { renew }); trace.mark('there') }", {**made, "token": token})
    until(page, lambda: received(app.receiver_url, session_id) > 0, 15, "the event with a new token")


def test_the_policy_that_the_readme_asks_for_is_enough(
    receiver: Callable[..., Receiver], site: Callable[..., Site], context: BrowserContext
) -> None:
    """Of a page that loads the client from the receiver's origin, isolated as strictly as there is."""
    receiving = receiver()
    app = site(receiving)
    app.headers |= {
        "Content-Security-Policy": f"default-src 'none'; connect-src 'self' {receiving.url}; "
        f"script-src 'self' 'nonce-x' {receiving.url}",
        "Cross-Origin-Embedder-Policy": "require-corp",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
    app.pages["/strict"] = f"""<script type="module" nonce="x">
      import {{ VoiceTrace }} from "{receiving.url}/client/otel-voice.js";
      const made = await (await fetch("/api/token", {{ method: "POST" }})).json();
      window.trace = new VoiceTrace(made);
      trace.audioOutput(document.createElement("audio")); // its module is loaded later
      trace.turnComplete("t1", {{ user_text: "Hello" }});
      trace.end();
    </script>"""
    said: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.goto(f"{app.url}/strict")
    (made,) = until(page, lambda: app.made, 10, "a session")
    until(page, lambda: received(receiving.url, made["session_id"]) == 2, 10, "both events")
    assert not said
