"""Recordings played through the providers' own clients in Chromium end in the spans that `otel-voice replay` makes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from otel_voice.recording import Recording
from otel_voice.replay import replay
from tests.browsing import Site, final_spans
from tests.components.browser import PACKAGES, PAGES
from tests.conftest import binary_of
from tests.facts import Frame, everything, frames
from tests.real import Program, Receiver, free_port

# A client's first test plays all its recordings.
pytestmark = pytest.mark.timeout(300)
# So many pages play at a time.
AT_ONCE = 6
# Here time decides what belongs together; all others are played as fast as they go.
IN_REAL_TIME = ("gemini_connected_again", "gemini_no_turn_complete")
# Times are the run's own; that there is one is compared.
TIMES = (
    "langfuse.observation.completion_start_time",
    "voice.playout.position",
    "voice.speech.heard",
    "voice.user_bot_latency",
    "voice.user_bot_latency.max",
    "voice.user_bot_latency.p50",
    "voice.user_bot_latency.p95",
)
# Ids, what follows them, and what only a page can say.
OF_THE_RUN = (
    "gen_ai.conversation.id",
    "gen_ai.response.id",
    "session.id",
    "voice.clock.offset",
    "voice.clock.uncertainty",
)


@dataclass(frozen=True)
class Client:
    """A way to a provider: the module of tests/browser that plays the app, and what cannot be played so, and why."""

    way: str
    app: str
    provider: Any
    cannot: dict[str, str] = field(default_factory=dict, hash=False)
    # What it says beside the recording, of its own accord.
    adds: dict[str, int] = field(default_factory=dict, hash=False)

    def files(self) -> list[Path]:
        found = [path for provider, path in everything() if provider == self.provider]
        # What takes long begins first.
        return sorted(
            (path for path in found if path.stem not in self.cannot), key=lambda path: path.stem not in IN_REAL_TIME
        )


CLIENTS = (
    Client(
        "genai",
        "gemini",
        "gemini-live",
        {
            "gemini_snake_case": "it does not know an answer to its setup that is spelt so",
            "gemini_tool_results_without_ids": "it refuses a tool's result without an id",
        },
    ),
    Client("websocket", "openai", "openai-realtime"),
    Client("data_channel", "openai", "openai-realtime"),
    # It cancels the running response by itself when the user speaks.
    Client(
        "agents",
        "agents",
        "openai-realtime",
        adds={"openai_barge_in_while_generating": 1, "openai_generated_in_full_then_cancelled": 1},
    ),
)
CASES = [(client, path) for client in CLIENTS for path in client.files()]


class ProviderServer(Program):
    """The provider's side of recordings, over WebSocket."""

    def __init__(self, folder: Path) -> None:
        self.address = f"127.0.0.1:{(port := free_port())}"
        super().__init__("provider", ["node", str(PAGES / "provider_server.mjs"), str(port)], folder, {})
        self.wait_until_answers(f"http://{self.address}/")

    def bring(self, name: str, steps: list[Frame]) -> None:
        httpx.post(f"http://{self.address}/{name}", json=steps).raise_for_status()

    def state(self, name: str) -> str:
        """What is left to say, and what was said that is not in the recording."""
        return httpx.get(f"http://{self.address}/{name}").raise_for_status().text


@dataclass(frozen=True)
class Played:
    """The two sessions, and what went wrong in the page."""

    session_id: str
    replayed: str
    failed: str | None


class Stage:
    """Where recordings are played: each in a page of its own, to its end, and as a replay."""

    def __init__(self, receiving: Receiver, providers: ProviderServer, context: BrowserContext) -> None:
        self.receiving, self.providers, self.context = receiving, providers, context
        self.site = Site(receiving.url)

    def play(self, client: Client) -> dict[Path, Played]:
        files, played = client.files(), dict[Path, Played]()
        for first in range(0, len(files), AT_ONCE):
            pages = {path: self._begin(client, path) for path in files[first : first + AT_ONCE]}
            replays = {path: self._replay(client, path) for path in pages}
            played |= {path: self._end(page, replays[path]) for path, page in pages.items()}
        return played

    def _replay(self, client: Client, path: Path) -> str:
        recording = Recording(path, client.provider)
        return replay(recording, self.receiving.url, None, None, on_progress=lambda count: None).session_id

    def _begin(self, client: Client, path: Path) -> Page:
        name, steps = f"{client.way}-{path.parent.name}-{path.stem}", steps_of(path)
        self.providers.bring(name, steps)
        page = self.context.new_page()
        page.goto(f"{self.site.url}/?trace")
        page.wait_for_function("window.ready")
        page.evaluate(
            """([app, ...given]) => {
              const late = new Promise((resolve) => setTimeout(resolve, 30_000, "it did not come to its end"));
              const run = import(`/${app}_app.js`).then(({ run }) => run(trace, ...given)).then(() => null, String);
              window.failed = Promise.race([run, late]);
            }""",
            [client.app, steps, f"{self.providers.address}/{name}", client.way, path.stem],
        )
        return page

    def _end(self, page: Page, replayed: str) -> Played:
        played = Played(page.evaluate("trace.sessionId"), replayed, page.evaluate("failed"))
        page.close()
        return played


def steps_of(path: Path) -> list[Frame]:
    """A recording's frames, how long after the one before they come (ms), and where its connections begin."""
    steps: list[Frame] = []
    at = None
    for frame in frames(path):
        message = frame["message"]
        if "setup" in message or message.get("type") == "session.created" or (not steps and "type" in message):
            steps.append({"dir": "open", "setup": message.get("setup")})
        # No two things happen at the same time.
        after = frame["ts"] - at if path.stem in IN_REAL_TIME and at else 1
        at = frame.get("ts")
        if "type" in message and frame["dir"] == "received":
            # The provider numbers what it says, which not every recording has kept.
            message = {"event_id": f"event_{len(steps)}"} | message
        steps.append({"dir": frame["dir"], "message": message, "after": after})
    return steps


def table(spans: list[dict[str, Any]], beside: int = 0) -> str:
    """Each span under its ancestors' names with its attributes, without what depends on times and ids.

    `beside`: how many of the events are not of the recording."""
    by_id = {span["span_id"]: span for span in spans}

    def path(span: dict[str, Any]) -> str:
        parent = span.get("parent_span_id")
        return f"{path(by_id[parent])} > {span['name']}" if parent else str(span["name"])

    def row(span: dict[str, Any]) -> str:
        kept = {key: value for key, value in span["attributes"].items() if key not in OF_THE_RUN}
        kept |= {key: "a time" for key in TIMES if key in kept}
        if "voice.events.received" in kept:
            kept["voice.events.received"] -= beside
        lines = [f"  {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in sorted(kept.items())]
        return "\n".join([f"{path(span)} {span['kind']} {span.get('status', '')}", *lines])

    return "\n".join(sorted(map(row, spans)))


@pytest.fixture(scope="module")
def receiving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    folder = tmp_path_factory.mktemp("receiver")
    program = Receiver(folder / "data", folder, {})
    yield program
    program.kill()


@pytest.fixture(scope="module")
def played(
    receiving: Receiver, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Client], dict[Path, Played]]]:
    """Plays all that a client can play, once."""
    binary_of(PACKAGES)
    providers = ProviderServer(tmp_path_factory.mktemp("provider"))
    stage = Stage(receiving, providers, browser.new_context())
    yield cache(stage.play)
    stage.context.close()
    stage.site.close()
    providers.kill()


@pytest.mark.parametrize(("client", "path"), CASES, ids=[f"{client.way}-{path.stem}" for client, path in CASES])
def test_a_recording_played_in_a_page_has_the_spans_of_its_replay(
    client: Client, path: Path, receiving: Receiver, played: Callable[[Client], dict[Path, Played]]
) -> None:
    here = played(client)[path]
    assert here.failed is None
    # A page says its end by an event, a replay by a call.
    beside = 1 + client.adds.get(path.stem, 0)
    seen, foretold = final_spans(receiving.url, here.session_id), final_spans(receiving.url, here.replayed)
    assert table(seen, beside) == table(foretold)
