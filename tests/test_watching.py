"""Server-sent events: a session as it grows, the list as it changes; resumed, limited, and over at once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from otel_voice.edge import COOKIE
from otel_voice.logins import COOKIE_S
from otel_voice.recording import Recording
from otel_voice.replay import replay
from otel_voice.watching import STREAMS
from tests.facts import RECORDINGS
from tests.real import Receiver
from tests.running import API_KEY, SESSION, START_S, App, Listener, listening, mark, running, until

pytestmark = pytest.mark.anyio
START_MS = START_S * 1000
TURN = {"type": "turn_complete", "turn_id": "t1", "user_text": "hello", "ts": START_MS}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def app(tmp_path: Path, anyio_backend: str) -> AsyncIterator[App]:
    async with running(tmp_path) as app:
        yield app


async def test_the_first_message_has_all_and_later_ones_what_is_new(app: App) -> None:
    await app.post(TURN, {"type": "turn_start", "turn_id": "t2", "ts": START_MS + 5_000})
    app.clock.now += 20
    async with listening(app, f"/v1/sessions/{SESSION}/stream") as heard:
        (event, id_, data) = heard.events[0]
        assert (event, id_.partition("-")[2]) == ("session", "1")
        assert [span["name"] for span in data["spans"]] == ["invoke_agent"]
        assert {span["name"] for span in data["open"]} == {"invoke_agent", "voice_session"}
        assert data["summary"]["turn_count"] == 2
        await app.post(mark(ts=START_MS + 6_000, turn_id="t2"))
        await until(lambda: heard.events[1:])
        _, _, data = heard.events[1]
        assert data["spans"] == [] and "here" in {span["name"] for span in data["open"]}
        await app.post({"type": "session_end", "ts": START_MS + 7_000})
        app.clock.now += 60
        await until(lambda: heard.ended)
    final = [span["name"] for _, _, data in heard.events[1:] for span in data.get("spans", [])]
    assert sorted(final) == ["here", "invoke_agent", "voice_session"]
    assert heard.events[-1][0] == "end"
    assert heard.events[-2][2]["open"] == []


async def test_nothing_is_said_while_nothing_comes(app: App) -> None:
    await app.post(TURN)
    app.clock.now += 3
    async with listening(app, f"/v1/sessions/{SESSION}/stream") as heard:
        await asyncio.sleep(1.2)
        assert len(heard.events) == 1


async def test_who_comes_back_gets_what_is_new_to_him(app: App) -> None:
    await app.post(TURN, {"type": "session_end", "ts": START_MS + 1})
    app.clock.now += 60
    path = f"/v1/sessions/{SESSION}/stream"
    async with listening(app, path) as whole:
        id_ = whole.events[0][1]
    assert id_.partition("-")[2] == "2"
    for seen, names in (
        (id_, []),
        (id_.replace("-2", "-1"), ["voice_session"]),
        ("9999-2", ["invoke_agent", "voice_session"]),
        ("nonsense", ["invoke_agent", "voice_session"]),
    ):
        async with listening(app, path, last_event_id=seen) as heard:
            assert [span["name"] for span in heard.events[0][2]["spans"]] == names
        async with listening(app, f"{path}?seen={seen}") as heard:
            assert [span["name"] for span in heard.events[0][2]["spans"]] == names


async def test_the_stream_of_a_session_that_is_erased_ends(app: App) -> None:
    await app.post(TURN)
    async with listening(app, f"/v1/sessions/{SESSION}/stream") as heard:
        await app.client.delete(f"/v1/sessions/{SESSION}")
        await until(lambda: heard.ended)
    assert [event for event, _, _ in heard.events] == ["session", "end"]


async def test_the_list_hears_of_sessions_that_change_and_of_no_others(app: App) -> None:
    async with listening(app, "/v1/sessions/stream") as first:
        await app.post(TURN, session_id="before")
        await until(lambda: first.events)
    async with listening(app, "/v1/sessions/stream") as heard:
        await app.post(TURN, session_id="now")
        await until(lambda: heard.events)
        event, id_, data = heard.events[0]
    assert (event, [summary["session_id"] for summary in data["sessions"]]) == ("sessions", ["now"])
    app.clock.now += 10
    await app.post(TURN, session_id="meanwhile")
    await until(lambda: app.rows("SELECT 1 FROM calls WHERE changed_at > 0 AND id = 'meanwhile'"))
    async with listening(app, "/v1/sessions/stream", last_event_id=id_) as again:
        await until(lambda: again.events)
        told = {summary["session_id"] for _, _, data in again.events for summary in data["sessions"]}
    assert "meanwhile" in told and "before" not in told


async def test_who_comes_back_hears_of_each_change_once_however_close_they_were(app: App) -> None:
    def names(of: Listener) -> list[str]:
        return [summary["session_id"] for _, _, data in of.events for summary in data["sessions"]]

    app.clock.now += 0.000_7
    async with listening(app, "/v1/sessions/stream") as first:
        await app.post(TURN, session_id="one")
        await until(lambda: first.events)
    written = "SELECT 1 FROM calls WHERE changed_at > 0 AND id = '{}'"
    # In the same moment, and a part of a millisecond later.
    await app.post(TURN, session_id="two")
    await until(lambda: app.rows(written.format("two")))
    app.clock.now += 0.000_1
    await app.post(TURN, session_id="three")
    await until(lambda: app.rows(written.format("three")))
    async with listening(app, "/v1/sessions/stream", last_event_id=first.events[-1][1]) as again:
        await until(lambda: again.events)
    assert (names(first), names(again)) == (["one"], ["three", "two"])
    async with listening(app, "/v1/sessions/stream", last_event_id=again.events[-1][1]) as last:
        await app.post(TURN, session_id="four")
        await until(lambda: last.events)
    assert names(last) == ["four"]


async def test_a_stream_is_kept_by_nobody_and_says_so_now_and_then(app: App) -> None:
    app.state.streams.comment_s = 0.0
    async with listening(app, "/v1/sessions/stream") as heard:
        assert heard.headers["cache-control"] == "no-store"
        assert heard.headers["content-type"].startswith("text/event-stream")
        assert heard.headers["x-content-type-options"] == "nosniff"
        assert heard.text.startswith("retry: ")
        await until(lambda: "\n: " in heard.text)


async def test_there_are_no_more_streams_than_may_be_and_a_place_is_given_back(app: App) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(STREAMS - 1):
            await stack.enter_async_context(listening(app, "/v1/sessions/stream"))
        async with listening(app, "/v1/sessions/stream") as last:
            refused = await app.client.get("/v1/sessions/stream")
            assert (last.status, refused.status_code, refused.headers["retry-after"]) == (200, 503, "5")
        async with listening(app, "/v1/sessions/stream") as again:
            assert again.status == 200


async def test_whoever_does_not_read_loses_his_place(app: App) -> None:
    app.state.streams.send_s = 0.05
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(STREAMS):
            await stack.enter_async_context(listening(app, "/v1/sessions/stream", slow=True))
        app.state.streams.send_s = 10.0
        await asyncio.sleep(0.1)
        async with listening(app, "/v1/sessions/stream") as heard:
            assert heard.status == 200


@pytest.mark.parametrize("path", ["/v1/sessions/stream", f"/v1/sessions/{SESSION}/stream"])
@pytest.mark.parametrize("by", ["logout", "time"])
async def test_a_stream_ends_with_the_cookie_that_opened_it(tmp_path: Path, path: str, by: str) -> None:
    secret = "a-viewer-token-for-tests"
    async with running(tmp_path, api_key=API_KEY, viewer_token=secret) as keyed:
        await keyed.post(TURN)
        await keyed.client.post("/v1/viewer/login", json={"token": secret})
        cookie = f"{COOKIE}={keyed.client.cookies[COOKIE]}"
        async with listening(keyed, path, cookie=cookie) as heard:
            assert heard.status == 200
            if by == "logout":
                await keyed.client.post("/v1/viewer/logout")
            else:
                keyed.clock.now += COOKIE_S + 1
            await until(lambda: heard.ended)
        assert [event for event, _, _ in heard.events if event == "end"] == []
        async with listening(keyed, path, cookie=cookie) as again:
            assert again.status == 401


async def test_when_the_server_stops_all_streams_end_at_once(app: App) -> None:
    async with listening(app, "/v1/sessions/stream") as heard:
        begun = time.monotonic()
        app.state.streams.end()
        await until(lambda: heard.ended)
        assert time.monotonic() - begun < 5


async def test_a_stream_needs_what_other_reads_need(tmp_path: Path, app: App) -> None:
    assert (await app.client.get("/v1/sessions/unknown/stream")).status_code == 404
    assert (await app.client.head("/v1/sessions/stream")).status_code == 200
    async with running(tmp_path / "keyed", api_key=API_KEY) as keyed:
        for path in ("/v1/sessions/stream", f"/v1/sessions/{SESSION}/stream"):
            assert (await keyed.client.get(path)).status_code == 401
            page = {"authorization": f"Bearer {keyed.token()}"}
            assert (await keyed.client.get(path, headers=page)).status_code == 403


def test_a_real_call_is_heard_while_it_runs_and_the_server_stops_with_a_listener(
    receiver: Callable[..., Receiver],
) -> None:
    receiving = receiver()
    recording = Recording(RECORDINGS / "openai_tool_round.jsonl", "openai-realtime")
    id_ = replay(recording, receiving.url, None, None, on_progress=lambda _: None).session_id
    heard = []
    with httpx.stream("GET", f"{receiving.url}/v1/sessions/{id_}/stream", timeout=30) as stream:
        for line in stream.iter_lines():
            heard += [line.removeprefix("event: ")] if line.startswith("event: ") else []
    assert heard[0] == "session" and heard[-1] == "end"
    with httpx.stream("GET", f"{receiving.url}/v1/sessions/stream", timeout=30) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("retry: ")
        begun = time.monotonic()
        receiving.process.send_signal(signal.SIGTERM)
        list(lines)
        assert time.monotonic() - begun < 2.5  # requests that go on are given 3 s
        assert receiving.process.wait(10) == 0
