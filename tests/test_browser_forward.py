"""The page's provider modules: they keep and forward what the server's own allow-list and Forward do."""

from __future__ import annotations

import copy
import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_voice.adapters.allow import ALLOW_LIST, Forward, reduce
from tests.facts import Frame, everything, frames

BROWSER = Path(__file__).parent / "browser"
MODULES = Path(__file__).parents[1] / "otel_voice" / "browser"
ALL = everything()

Ask = Callable[[Frame], Any]


@pytest.fixture(scope="module")
def node() -> str:
    if found := shutil.which("node"):
        return found
    if os.environ.get("CI") == "true":
        pytest.fail("CI has to run the browser's modules: install Node.js 20 or later", pytrace=False)
    pytest.skip("Node.js runs the browser's modules: install version 20 or later")


def as_browser(digits: str) -> int | float:
    """JavaScript writes a large number with digits, of which only the first are exact."""
    return int(digits) if abs(int(digits)) <= 2**53 else float(digits)


@pytest.fixture(scope="module")
def ask(node: str) -> Iterator[Ask]:
    """One Node process that answers a line of JSON with a line of JSON."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
    with subprocess.Popen([node, str(BROWSER / "forward.mjs")], **pipes) as process:  # type: ignore[call-overload]

        def ask(question: Frame) -> Any:
            process.stdin.write(f"{json.dumps(question)}\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline(), parse_int=as_browser)

        yield ask
        process.stdin.close()


def forwarded(provider: Any, recording: list[Frame]) -> list[list[Frame]]:
    forward = Forward(provider)
    # Copied at once, as a page sends it: what is held back goes on growing.
    kept = [copy.deepcopy(forward(frame["dir"], frame["message"])) for frame in recording]
    return [*kept, forward.flush()]


def test_the_allow_lists_are_the_same(ask: Ask) -> None:
    assert ask({"lists": True}) == ALLOW_LIST


@pytest.mark.parametrize(("provider", "path"), ALL, ids=[f"{provider}/{path.stem}" for provider, path in ALL])
def test_a_page_forwards_the_same_of_a_recording(ask: Ask, provider: str, path: Path) -> None:
    recording = frames(path)
    assert ask({"provider": provider, "frames": recording}) == forwarded(provider, recording)


def test_a_page_forwards_the_same_of_a_call_of_many_responses(ask: Ask) -> None:
    """More than are remembered, and the first ones again."""
    numbers = [*range(600), *range(600)]
    audio = [{"type": "response.audio.delta", "response_id": f"r{n}", "item_id": "a"} for n in numbers]
    recording = [{"dir": "received", "message": message} for message in audio]
    assert ask({"provider": "openai-realtime", "frames": recording}) == forwarded("openai-realtime", recording)


def test_a_page_forwards_the_same_of_a_call_of_many_texts_that_never_end(ask: Ask) -> None:
    spoken = "conversation.item.input_audio_transcription.delta"
    texts = [{"type": spoken, "item_id": f"i{n}", "delta": f"{n}"} for n in range(600) for _ in range(3)]
    recording = [{"dir": "received", "message": message} for message in texts]
    assert ask({"provider": "openai-realtime", "frames": recording}) == forwarded("openai-realtime", recording)


def test_characters_are_counted_alike(ask: Ask) -> None:
    """Those outside of the basic plane are two units to JavaScript."""
    face = "\N{GRINNING FACE}"
    for length in (1, 128, 255, 256, 257, 300, 10_000):
        message = {"setupComplete": {"sessionId": face * length}}
        assert ask({"provider": "gemini-live", "dir": "received", "message": message}) == reduce(
            "gemini-live", "received", message
        )
    chunk = {"type": "response.text.delta", "response_id": "r", "item_id": "a", "delta": face * 9}
    recording = [{"dir": "received", "message": chunk}] * 50
    assert ask({"provider": "openai-realtime", "frames": recording}) == forwarded("openai-realtime", recording)


# Any message

numbers = st.integers(-(2**53), 2**53) | st.sampled_from([2**53, 2**60, 86_400_000, 86_400_001, 1.5, -0.0, 3.0, 1e300])
leaves = st.none() | st.booleans() | numbers | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
anything = st.recursive(
    leaves | st.sampled_from([{}, [], "é" * 256, "é" * 257, "\N{GRINNING FACE}" * 256, "\N{GRINNING FACE}" * 257]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def snake(key: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key)


@st.composite
def like(draw: st.DrawFn, shape: Any) -> Any:
    """A value of a shape, or one that is not quite."""
    if draw(st.integers(0, 5)) == 0:
        return draw(anything)
    if isinstance(shape, list):
        return draw(st.lists(like(shape[0]), max_size=3) | like(shape[0]))
    if isinstance(shape, dict):
        keys = draw(st.lists(st.sampled_from(sorted(key for key in shape if key) or ["other"]), max_size=4))
        spelled = [draw(st.sampled_from([key, snake(key)])) for key in keys]
        return {said: draw(like(shape.get(key, "json"))) for said, key in zip(spelled, keys, strict=True)}
    fitting = {
        "string": st.text(max_size=8),
        "id": st.text(max_size=8),
        "boolean": st.booleans(),
        "alone": st.booleans(),
    }
    return draw(fitting.get(shape, numbers if shape in ("count", "millis") else anything))


@st.composite
def messages(draw: st.DrawFn, provider: str, dir: str) -> Any:
    listed = ALLOW_LIST[provider]
    if "keyed_by" not in listed:
        return draw(like(listed[dir]).filter(lambda message: isinstance(message, dict)))
    names = [*listed[dir], *listed["aliases"], "constructor", "__proto__", "other"]
    name = draw(st.sampled_from(names) | anything)
    shape = listed[dir].get(listed["aliases"].get(name, name), {}) if isinstance(name, str) else {}
    return draw(like(shape).filter(lambda message: isinstance(message, dict))) | {"type": name}


placed = st.sampled_from([(provider, dir) for provider in ALLOW_LIST for dir in ("sent", "received")])


@settings(max_examples=500, deadline=None)
@given(placed, st.data())
def test_any_message_is_reduced_alike(ask: Ask, place: Any, data: st.DataObject) -> None:
    provider, dir = place
    message = data.draw(messages(provider, dir))
    assert ask({"provider": provider, "dir": dir, "message": message}) == reduce(provider, dir, message)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(ALLOW_LIST)), st.data())
def test_any_messages_are_forwarded_alike(ask: Ask, provider: str, data: st.DataObject) -> None:
    frame = st.sampled_from(["sent", "received"]).flatmap(
        lambda dir: st.fixed_dictionaries({"dir": st.just(dir), "message": messages(provider, dir)})
    )
    recording = data.draw(st.lists(frame, max_size=12))
    assert ask({"provider": provider, "frames": recording}) == forwarded(provider, recording)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(ALL), st.data())
def test_any_order_loss_or_repetition_is_forwarded_alike(ask: Ask, one: Any, data: st.DataObject) -> None:
    provider, path = one
    recording = data.draw(st.lists(st.sampled_from(frames(path)), max_size=40))
    assert ask({"provider": provider, "frames": recording}) == forwarded(provider, recording)


@pytest.mark.parametrize("message", [None, 7, "text", [], True])
def test_what_is_no_message_is_dropped(ask: Ask, message: Any) -> None:
    for provider in ALLOW_LIST:
        assert ask({"provider": provider, "dir": "received", "message": message}) is None


# The modules


def test_the_wrappers_behave(node: str) -> None:
    run = subprocess.run([node, "--test", "providers.test.mjs"], cwd=BROWSER, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def squeezed(module: Path) -> int:
    """Bytes of a module as a page's bundler and web server would deliver it."""
    esbuild = BROWSER / "node_modules" / ".bin" / "esbuild"
    if not esbuild.exists():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("`npm ci` in tests/browser gives esbuild")
    return len(gzip.compress(subprocess.check_output([esbuild, "--minify", "--format=esm", module]), 9))


@pytest.mark.parametrize(
    ("name", "most", "most_as_it_stands"),
    [("allow", 850, 1_400), ("gemini-live", 2_000, 2_900), ("openai-realtime", 2_000, 2_900)],
)
def test_a_module_is_small(name: str, most: int, most_as_it_stands: int) -> None:
    module = MODULES / f"{name}.js"
    assert len(gzip.compress(module.read_bytes(), 9)) < most_as_it_stands
    assert squeezed(module) < most
