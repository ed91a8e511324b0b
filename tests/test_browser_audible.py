"""What the user heard, measured in a real Chromium: tones on a known schedule against the bounds that are told."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

ROOT = Path(__file__).parent.parent
CHROMIUM = Path("/usr/bin/chromium")
ARGS = [
    "--no-sandbox",
    "--use-fake-device-for-media-stream",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
NEAR_MS = 40


class Files(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=ROOT))
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield f"http://127.0.0.1:{server.server_port}/tests/browser/audible.html"
    server.shutdown()
    serving.join()
    server.server_close()


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    if not CHROMIUM.exists():
        if os.environ.get("CI") == "true":
            pytest.fail("CI has to test in a real browser: install the package chromium", pytrace=False)
        pytest.skip("no Chromium here: install the distribution's package chromium")
    with sync_playwright() as playwright:
        yield playwright


def launch(playwright: Playwright, policy: str) -> Browser:
    return playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGS, f"--autoplay-policy={policy}"])


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    browser = launch(playwright, "no-user-gesture-required")
    yield browser
    browser.close()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    context = browser.new_context()
    context.grant_permissions(["microphone"], origin=url.split("/tests")[0])
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    page.wait_for_function("window.ready")
    yield page
    context.close()
    assert errors == []


def types(bounds: list[dict[str, Any]]) -> list[str]:
    return [bound["type"] for bound in bounds]


def near(measured: float, expected: float, within: float = NEAR_MS) -> bool:
    return abs(measured - expected) <= within


def test_a_tone_has_the_bounds_of_its_schedule(page: Page) -> None:
    got = page.evaluate("""async () => {
        const said = new Said(), context = await running(), from = context.currentTime + 0.5;
        const gain = tone(context, from, from + 0.7);
        gain.connect(context.destination);
        const plain = performance.now() + 500;
        const stop = watchOutput(said, gain);
        await until(() => said.bounds.length === 2);
        stop();
        return { ...said, plain, from: heardAt(context, from), to: heardAt(context, from + 0.7) };
    }""")
    start, end = got["bounds"]
    assert (start["type"], start["measured_by"]) == ("agent_speech_start", "playback")
    assert (end["type"], end["measured_by"]) == ("agent_speech_end", "playback")
    assert near(start["at"], got["from"])
    assert near(end["at"], got["to"])
    assert near(end["heard_ms"], 700)
    assert near(start["at"], got["plain"], 150)  # the same by no audio clock at all
    assert got["marks"] == []


def test_a_poll_that_comes_half_a_second_late_misses_nothing(page: Page) -> None:
    got = page.evaluate("""async () => {
        const said = new Said(), context = await running({ sampleRate: 24_000 }); // as Gemini's audio is
        const from = context.currentTime + 0.5;
        const stop = watchOutput(said, tone(context, from, from + 0.2));
        await until(() => context.currentTime > from - 0.1);
        while (context.currentTime < from + 0.4);
        await until(() => said.bounds.length === 2);
        stop();
        return { ...said, from: heardAt(context, from), to: heardAt(context, from + 0.2) };
    }""")
    start, end = got["bounds"]
    assert near(start["at"], got["from"])
    assert near(end["at"], got["to"])


def test_a_function_is_asked_again_when_a_barge_in_replaces_the_node(page: Page) -> None:
    got = page.evaluate("""async () => {
        const said = new Said(), context = await running();
        const player = {
            out: new GainNode(context),
            play(from, to) { tone(context, from, to).connect(this.out); this.out.connect(context.destination); },
            stop() { this.out.disconnect(); this.out = new GainNode(context); },
        };
        const stop = watchOutput(said, () => player.out);
        let from = context.currentTime + 0.5;
        const first = from;
        player.play(from, from + 5);
        await until(() => context.currentTime > from + 0.5);
        const before = context.currentTime;
        player.stop();
        const after = context.currentTime;
        from = context.currentTime + 0.3;
        player.play(from, from + 0.5);
        await until(() => said.bounds.length === 4);
        stop();
        const expected = [[first, first], [before, after], [from, from], [from + 0.5, from + 0.5]];
        return { ...said, expected: expected.map((times) => times.map((time) => heardAt(context, time))) };
    }""")
    assert types(got["bounds"]) == ["agent_speech_start", "agent_speech_end"] * 2
    for bound, (earliest, latest) in zip(got["bounds"], got["expected"], strict=True):
        assert earliest - NEAR_MS <= bound["at"] <= latest + NEAR_MS, bound


def test_a_node_that_is_disconnected_is_silent_and_breaks_nothing(page: Page) -> None:
    got = page.evaluate("""async () => {
        const said = new Said(), context = await running(), from = context.currentTime + 0.5;
        const gain = tone(context, from, from + 60);
        const stop = watchOutput(said, gain);
        await until(() => context.currentTime > from + 0.5);
        const before = context.currentTime;
        gain.disconnect();
        const after = context.currentTime;
        await until(() => said.bounds.length === 2);
        await context.close();
        const early = () => { throw new Error("no player yet") };
        const others = [gain, null, undefined, "a word", {}, early, () => undefined];
        const stops = others.map((each) => watchOutput(said, each));
        for (const each of [stop, ...stops, ...stops]) each();
        return { ...said, before: heardAt(context, before), after: heardAt(context, after) };
    }""")
    assert types(got["bounds"]) == ["agent_speech_start", "agent_speech_end"]
    assert got["before"] - NEAR_MS <= got["bounds"][1]["at"] <= got["after"] + NEAR_MS
    assert {mark["name"] for mark in got["marks"]} == {"audio_unmeasured"}
    assert "Error: no player yet" in [mark["why"] for mark in got["marks"]]


def test_stopping_ends_what_is_audible_and_leaves_the_page_its_own_connections(page: Page) -> None:
    got = page.evaluate("""async () => {
        const said = new Said(), context = await running(), from = context.currentTime + 0.5;
        const gain = tone(context, from, from + 60), next = new AnalyserNode(context);
        gain.connect(next).connect(context.destination);
        const stop = watchOutput(said, gain);
        await until(() => context.currentTime > from + 0.3);
        const at = heardAt(context, context.currentTime);
        stop();
        stop();
        const levels = new Float32Array(next.fftSize), later = context.currentTime + 0.2;
        await until(() => context.currentTime > later);
        next.getFloatTimeDomainData(levels);
        return { ...said, at, loudest: Math.max(...levels) };
    }""")
    assert types(got["bounds"]) == ["agent_speech_start", "agent_speech_end"]
    assert near(got["bounds"][1]["at"], got["at"])
    assert got["loudest"] > 0.1


def test_a_silent_output_has_no_bounds(page: Page) -> None:
    got = page.evaluate("""async () => {
        const said = new Said(), context = await running();
        const stop = watchOutput(said, tone(context, 1000, 1001)), later = context.currentTime + 1;
        await until(() => context.currentTime > later);
        stop();
        return { ...said };
    }""")
    assert (got["bounds"], got["marks"]) == ([], [])


def test_a_page_that_goes_away_is_told_what_was_heard_until_then(page: Page) -> None:
    got = page.evaluate("""async () => {
        const said = new Said(), context = await running(), from = context.currentTime + 0.5;
        const stop = watchOutput(said, tone(context, from, from + 0.8));
        await until(() => context.currentTime > from + 0.4);
        said.befores.forEach((before) => before());
        const then = said.bounds.length, at = heardAt(context, context.currentTime);
        await until(() => context.currentTime > from + 1.5);
        stop();
        return { ...said, then, at };
    }""")
    assert got["then"] == 2
    assert types(got["bounds"]) == ["agent_speech_start", "agent_speech_end"]
    assert near(got["bounds"][1]["at"], got["at"])


def test_sound_that_was_there_before_has_no_bounds_and_a_suspended_context_says_so_once(page: Page) -> None:
    got = page.evaluate("""async () => {
        const said = new Said(), context = await running(), gain = tone(context, 0, 60);
        gain.connect(context.destination);
        const started = context.currentTime + 0.3;
        await until(() => context.currentTime > started);
        const stop = watchOutput(said, gain);
        await until(() => context.currentTime > started + 0.5);
        await context.suspend();
        await until(() => said.marks.length);
        const suspended = said.bounds.length;
        await context.resume();
        await until(() => said.bounds.length);
        stop();
        return { ...said, suspended };
    }""")
    assert got["suspended"] == 0
    assert types(got["bounds"]) == ["agent_speech_start", "agent_speech_end"]  # since the page let it sound again
    assert got["marks"] == [{"name": "audio_unmeasured", "what": "output", "why": "AudioContext suspended"}]


# evaluate() is a gesture to Chromium: until the click, the page acts by itself and reports on the console.
WITHOUT_A_GESTURE = """addEventListener('load', async () => {
    window.context = new AudioContext();
    window.theirs = new Said();
    window.ours = new Said();
    addEventListener('click', () => context.resume());
    watchOutput(theirs, tone(context, 0.3, 0.8));
    watchOutput(ours, new MediaStream());
    await until(() => theirs.marks.length && ours.marks.length);
    console.log('marked', contexts.map((each) => each.state), theirs.bounds.length);
})"""


def test_without_a_gesture_nothing_is_measured_and_with_one_it_goes_on_by_itself(
    playwright: Playwright, url: str
) -> None:
    browser = launch(playwright, "document-user-activation-required")
    page = browser.new_page()
    page.add_init_script(WITHOUT_A_GESTURE)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    with page.expect_console_message(lambda message: message.text.startswith("marked")) as marked:
        page.goto(url)
    before = [argument.json_value() for argument in marked.value.args]
    page.mouse.click(5, 5)
    page.wait_for_function("theirs.bounds.length === 2 && contexts.every((each) => each.state === 'running')")
    got = page.evaluate("({ bounds: theirs.bounds, marks: [...theirs.marks, ...ours.marks] })")
    browser.close()
    assert before == ["marked", ["suspended", "suspended"], 0]
    assert types(got["bounds"]) == ["agent_speech_start", "agent_speech_end"]
    assert near(got["bounds"][1]["heard_ms"], 500)
    assert [mark["why"] for mark in got["marks"]] == ["AudioContext suspended"] * 2
    assert len(said) < 10, said  # a page's console is not filled at each poll


def test_an_element_is_measured_and_keeps_its_sound(page: Page) -> None:
    got = page.evaluate("""async () => {
        const said = new Said(), element = recording();
        const stop = watchOutput(said, element);
        await element.loaded;
        await element.play();
        await until(() => element.currentTime > 0.2);
        const zero = performance.now() - element.currentTime * 1000;
        await until(() => said.bounds.length === 2);
        const played = element.currentTime;
        await until(() => element.ended);
        await element.play();
        await until(() => said.bounds.length === 4);
        await until(() => element.ended);
        element.src = recording().src;
        await element.play();
        await until(() => said.bounds.length === 6);
        element.muted = true;
        await until(() => element.ended);
        await element.play();
        await until(() => element.ended);
        stop();
        const sourced = new AudioContext().createMediaElementSource(element).mediaElement === element;
        return { ...said, zero, played, sourced };
    }""")
    assert types(got["bounds"]) == ["agent_speech_start", "agent_speech_end"] * 3  # played, again, and another
    assert {bound["measured_by"] for bound in got["bounds"]} == {"playback"}
    start, end = got["bounds"][:2]
    assert near(start["at"], got["zero"] + 400, 100)
    assert near(end["at"], got["zero"] + 1000, 100)
    assert near(end["heard_ms"], 600, 80)
    assert got["played"] > 1
    assert got["sourced"]  # which an element allows once
    assert got["marks"] == []


def test_an_element_that_cannot_be_copied_is_unmeasured(page: Page) -> None:
    got = page.evaluate("""async () => {
        const said = new Said(), element = recording();
        element.captureStream = undefined;
        await element.loaded;
        watchOutput(said, element)();
        return { ...said };
    }""")
    assert got["marks"] == [{"name": "audio_unmeasured", "what": "output", "why": "no copy of an element's sound here"}]


def test_a_stream_is_measured_with_the_tracks_that_come_later(page: Page) -> None:
    got = page.evaluate("""async () => {
        const said = new Said(), context = await running(), stream = new MediaStream();
        const stop = watchInput(said, stream), other = watchInput(new Said(), stream);
        const tones = [[0.4, 0.8], [1.8, 2.2]].map(([from, to]) => {
            return streamOf(context, context.currentTime + from, context.currentTime + to);
        });
        for (const each of tones) stream.addTrack(each.stream.getAudioTracks()[0]);
        await until(() => said.bounds.length === 4);
        const states = () => contexts.map((each) => each.state);
        const two = states();
        stop();
        const one = states();
        other();
        await until(() => contexts.at(-1).state === "closed");
        return { ...said, expected: tones.flatMap(({ from, to }) => [from, to]), two, one };
    }""")
    assert types(got["bounds"]) == ["user_speech_start", "user_speech_end"] * 2
    assert {bound["measured_by"] for bound in got["bounds"]} == {"energy"}
    assert all(bound.get("heard_ms") is None for bound in got["bounds"])
    for bound, expected in zip(got["bounds"], got["expected"], strict=True):
        assert near(bound["at"], expected, NEAR_MS + 20), bound
    assert (got["two"], got["one"]) == (["running", "running"], ["running", "running"])


def test_of_a_peer_connection_the_stream_is_measured(page: Page) -> None:
    got = page.evaluate("""async () => {
        const said = new Said(), context = await running(), element = new Audio();
        const here = new RTCPeerConnection(), there = new RTCPeerConnection();
        here.onicecandidate = ({ candidate }) => candidate && there.addIceCandidate(candidate);
        there.onicecandidate = ({ candidate }) => candidate && here.addIceCandidate(candidate);
        there.ontrack = ({ streams }) => { element.srcObject = streams[0]; element.play(); };
        const from = context.currentTime + 1.5, { stream, ...expected } = streamOf(context, from, from + 0.8);
        stream.getTracks().forEach((track) => here.addTrack(track, stream));
        const stop = watchOutput(said, element);
        await here.setLocalDescription();
        await there.setRemoteDescription(here.localDescription);
        await there.setLocalDescription();
        await here.setRemoteDescription(there.localDescription);
        await until(() => said.bounds.length === 2);
        stop();
        here.close();
        there.close();
        return { ...said, ...expected };
    }""")
    assert types(got["bounds"]) == ["agent_speech_start", "agent_speech_end"]
    assert {bound["measured_by"] for bound in got["bounds"]} == {"energy"}
    # It was on the way for a while, and a receiver short of packets stretches what it has.
    assert got["bounds"][0]["at"] > got["from"]
    assert got["bounds"][1]["heard_ms"] > 700


def test_a_microphone_gives_the_users_bounds(page: Page) -> None:
    got = page.evaluate("""async () => {
        const said = new Said();
        const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
        const stream = await navigator.mediaDevices.getUserMedia({ audio });
        const stop = watchInput(said, stream);
        await until(() => said.bounds.length);
        const began = performance.now();
        await until(() => performance.now() > began + 700);
        stop();
        stream.getTracks().forEach((track) => track.stop());
        return { ...said };
    }""")
    assert types(got["bounds"])[:2] == ["user_speech_start", "user_speech_end"]
    assert {bound["measured_by"] for bound in got["bounds"]} == {"energy"}
    assert (got["lostBy"], got["marks"]) == ([], [])


def test_a_microphone_that_is_taken_away_is_lost_and_one_that_is_stopped_is_not(page: Page) -> None:
    page.evaluate("""async () => {
        window.lost = new Said();
        window.stopped = new Said();
        const [one, other] = await Promise.all([0, 1].map(() => navigator.mediaDevices.getUserMedia({ audio: true })));
        watchInput(lost, one);
        watchInput(stopped, other);
        other.getTracks().forEach((track) => track.stop());
    }""")
    page.context.clear_permissions()
    page.wait_for_function("lost.lostBy.length")
    assert page.evaluate("[lost.lostBy, stopped.lostBy]") == [["microphone_lost"], []]
