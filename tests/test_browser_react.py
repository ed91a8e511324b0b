"""The React hooks in a real app under StrictMode, which mounts everything twice."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from playwright.sync_api import ConsoleMessage, Page, WebSocketRoute, expect

from tests.browsing import CLIENT, Site, final_spans, until
from tests.components.browser import PACKAGES, PAGES
from tests.conftest import binary_of

MESSAGES = (
    {"serverContent": {"inputTranscription": {"text": "Hello"}}},
    {"serverContent": {"outputTranscription": {"text": "Hello to you"}}},
    {"serverContent": {"turnComplete": True}},
)


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page's script, as an app's bundler makes it of the npm package."""
    binary_of(PACKAGES)
    modules = tmp_path_factory.mktemp("modules")
    (modules / "otel-voice").symlink_to(CLIENT)
    options = ["--jsx=automatic", '--define:process.env.NODE_ENV="development"', "--log-level=error"]
    done = subprocess.run(
        [PAGES / "node_modules/.bin/esbuild", "react_page.jsx", "--bundle", "--format=esm", *options],
        cwd=PAGES,
        env=os.environ | {"NODE_PATH": os.pathsep.join([str(modules), str(PAGES / "node_modules")])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.replace("</script", "<\\/script")


@pytest.fixture
def app(app: Site, script: str) -> Site:
    app.pages["/"] = f'<meta charset="utf-8"><div id="root"></div><script type="module">{script}</script>'
    return app


@pytest.fixture
def page(app: Site, visit: Callable[..., Page]) -> Page:
    return visit(app, "/")


def end_reason(app: Site, page: Page, session: int = -1) -> Any:
    """Why the session is over, once it is."""
    url = f"{app.receiver_url}/v1/sessions/{app.made[session]['session_id']}"
    return until(page, lambda: httpx.get(url).json().get("end_reason"), 20, "the session to end")


def shown(page: Page, app: Site, count: int) -> None:
    """The component shows the trace of the latest of so many sessions."""
    expect(page.locator("output")).not_to_have_text("none")
    assert len(app.made) == count
    expect(page.locator("output")).to_have_text(app.made[-1]["session_id"])


def test_strict_mode_makes_one_session_and_does_not_end_it(app: Site, page: Page) -> None:
    page.evaluate("show('plain', { starts: true })")
    shown(page, app, 1)
    page.evaluate("hook.trace.turnComplete('t1', { user_text: 'Hello' })")
    page.evaluate("hook.stop('agent_hangup')")
    assert end_reason(app, page) == "agent_hangup"
    expect(page.locator("output")).to_have_text("none")
    assert len(app.made) == 1
    assert httpx.get(f"{app.receiver_url}/v1/sessions/{app.made[0]['session_id']}").json()["turn_count"] == 1


def test_start_and_stop_are_handlers_of_buttons(app: Site, page: Page) -> None:
    page.evaluate("show('plain')")
    page.get_by_text("Start").click()
    shown(page, app, 1)
    page.get_by_text("Stop").click()
    expect(page.locator("output")).to_have_text("none")
    assert end_reason(app, page) == "user_hangup"
    page.get_by_text("Start").click()
    shown(page, app, 2)


def test_an_unmounted_component_ends_its_session_and_a_mounted_one_makes_a_new_one(app: Site, page: Page) -> None:
    page.evaluate("show('plain', { starts: true })")
    shown(page, app, 1)
    page.evaluate("show()")
    assert end_reason(app, page) == "user_hangup"
    page.evaluate("show('plain', { starts: true })")
    shown(page, app, 2)
    assert app.made[0]["session_id"] != app.made[1]["session_id"]


def test_starting_twice_is_starting_once(app: Site, page: Page) -> None:
    page.evaluate("show('plain')")
    same = "Promise.all([hook.start(), hook.start()]).then(async ([a, b]) => a === b && a === (await hook.start()))"
    assert page.evaluate(same)
    shown(page, app, 1)


def test_what_is_given_to_start_asks_for_no_token(app: Site, page: Page) -> None:
    page.evaluate("show('plain')")
    made = page.evaluate("token()")
    page.evaluate("token = () => { throw new Error('asked') }; null")
    assert page.evaluate("made => hook.start(made).then((trace) => trace.sessionId)", made) == made["session_id"]


def test_options_that_change_leave_a_running_trace_alone(app: Site, page: Page) -> None:
    page.evaluate("show('plain', { starts: true })")
    shown(page, app, 1)
    page.evaluate("(before = hook.trace, show('plain', { starts: false }), show('plain', { starts: true }))")
    assert page.evaluate("before === hook.trace")
    shown(page, app, 1)


def test_a_session_that_was_stopped_while_it_started_is_ended_at_once(app: Site, page: Page) -> None:
    page.evaluate("show('plain')")
    page.evaluate("asked = token; token = () => new Promise((give) => (late = give)); null")
    page.evaluate("started = hook.start(); hook.stop('agent_hangup')")
    page.evaluate("asked().then(late)")
    assert page.evaluate("started") is None
    assert end_reason(app, page) == "agent_hangup"
    expect(page.locator("output")).to_have_text("none")


def test_a_token_that_fails_is_said_once_and_throws_nothing(app: Site, page: Page) -> None:
    said: list[ConsoleMessage] = []
    page.on("console", lambda message: said.append(message) if message.type == "warning" else None)
    page.evaluate("show('plain')")
    page.evaluate("asked = token; token = () => Promise.reject(new Error('no backend')); null")
    assert page.evaluate("Promise.all([hook.start(), hook.start()])") == [None, None]
    assert [("otel-voice" in message.text, "no backend" in message.text) for message in said] == [(True, True)]
    page.evaluate("(token = async () => ({ error: 'no key' }), hook.start())")
    page.evaluate("(token = () => { throw new Error('at once') }, hook.start())")
    assert len(said) == 3
    assert page.evaluate("(token = asked, hook.start().then((trace) => trace.sessionId))") == app.made[-1]["session_id"]


@pytest.fixture
def provider(page: Page) -> list[WebSocketRoute]:
    """Gemini as the page's connections reach it, the latest last: it answers a setup."""
    connections: list[WebSocketRoute] = []

    def connect(connection: WebSocketRoute) -> None:
        connections.append(connection)
        connection.on_message(
            lambda message: connection.send('{"setupComplete": {}}') if "setup" in json.loads(message) else None
        )

    page.context.route_web_socket(lambda url: "BidiGenerateContent" in url, connect)
    page.reload()
    page.wait_for_function("window.ready")
    return connections


def connect(page: Page) -> None:
    page.evaluate("client.connect('models/one', {})")


def say(connection: WebSocketRoute, *messages: object) -> None:
    for message in messages:
        connection.send(json.dumps(message))


def texts(app: Site, session: int = -1) -> list[Any]:
    """Of each turn what was said, once the session is final."""
    spans = final_spans(app.receiver_url, app.made[session]["session_id"])
    turns = [span["attributes"] for span in spans if span["name"].startswith("invoke_agent")]
    return [(turn["gen_ai.input.messages"], turn["gen_ai.output.messages"]) for turn in turns]


def test_a_call_that_is_faster_than_its_token_is_traced_from_its_first_message(
    app: Site, page: Page, provider: list[WebSocketRoute]
) -> None:
    page.evaluate("show('gemini', { apiKey: 'one' })")
    page.evaluate("asked = token; token = () => new Promise((give) => (late = give)); null")
    page.evaluate("count = 0; heard = () => count++; null")
    connect(page)
    say(provider[0], *MESSAGES)
    page.wait_for_function("count === 4")
    assert not app.made
    page.evaluate("asked().then(late)")
    shown(page, app, 1)
    page.evaluate("(client.disconnect(), hook.stop())")
    ((heard, said),) = texts(app)
    assert "Hello" in heard
    assert "Hello to you" in said
    assert httpx.get(f"{app.receiver_url}/v1/sessions/{app.made[0]['session_id']}").json()["model"] == "one"


def test_who_connects_again_goes_on_with_the_session_and_after_a_hangup_makes_a_new_one(
    app: Site, page: Page, provider: list[WebSocketRoute]
) -> None:
    page.evaluate("show('gemini', { apiKey: 'one' })")
    connect(page)
    shown(page, app, 1)
    page.evaluate("client.disconnect()")
    connect(page)
    shown(page, app, 1)
    page.evaluate("client.disconnect()")
    assert end_reason(app, page) == "user_hangup"
    expect(page.locator("output")).to_have_text("none")
    connect(page)
    shown(page, app, 2)


def test_who_stops_the_trace_of_a_call_that_goes_on_is_not_traced_any_more(
    app: Site, page: Page, provider: list[WebSocketRoute]
) -> None:
    page.evaluate("show('gemini', { apiKey: 'one' })")
    page.evaluate("count = 0; heard = () => count++; null")
    connect(page)
    shown(page, app, 1)
    page.evaluate("hook.stop()")
    say(provider[0], *MESSAGES)
    page.wait_for_function("count === 4")
    assert texts(app) == []
    expect(page.locator("output")).to_have_text("none")
    assert len(app.made) == 1


def test_another_client_is_traced_in_place_of_the_old_one(
    app: Site, page: Page, provider: list[WebSocketRoute]
) -> None:
    page.evaluate("show('gemini', { apiKey: 'one' })")
    page.evaluate("(old = client, show('gemini', { apiKey: 'two' }))")
    connect(page)
    shown(page, app, 1)
    page.evaluate("client.disconnect()")
    page.evaluate("hook.stop()")
    page.evaluate("old.connect('models/one', {})")
    page.evaluate("old.disconnect()")
    connect(page)
    shown(page, app, 2)


def test_a_gemini_component_that_goes_ends_its_session_and_leaves_the_client_as_it_was(
    app: Site, page: Page, provider: list[WebSocketRoute]
) -> None:
    page.evaluate("show('gemini', { apiKey: 'one' })")
    connect(page)
    shown(page, app, 1)
    page.evaluate("(gone = client, show())")
    assert end_reason(app, page) == "user_hangup"
    page.evaluate("gone.connect('models/one', {})")
    assert len(app.made) == 1
