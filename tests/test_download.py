"""Downloads: a session as recording lines that give the same session again, and as OTLP JSON; files looked at."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from otel_voice import events as e
from otel_voice.recording import BadRecording, Recording
from otel_voice.replay import replay
from otel_voice.viewer import LOG_BYTES, VIEWED_BYTES
from tests.facts import RECORDINGS, everything
from tests.real import Receiver
from tests.running import SESSION, START_S, App, Line, listening, running, until

pytestmark = pytest.mark.anyio
START_MS = START_S * 1000
NEW = {"session_id": SESSION, "agent_name": "support", "user_id": "ada", "metadata": {"tier": "gold"}}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def app(tmp_path: Path, anyio_backend: str) -> AsyncIterator[App]:
    async with running(tmp_path) as app:
        yield app


async def call(app: App) -> None:
    """Two pages with clocks of their own, provider messages and events by hand, a loss, a refusal, an interruption."""
    recording = Recording(RECORDINGS / "openai_tool_round.jsonl", "openai-realtime")
    first = [json.loads(e.encode(event)) for event in recording.moved_to(START_MS - 30_000)]
    await app.client.post("/v1/sessions", json=NEW)
    await app.post(*first, source="first", clock={"offset": 12.3, "uncertainty": 4.5})
    app.clock.now += 1
    await app.post(
        {"type": "turn_start", "turn_id": "hand", "ts": START_MS - 9_000, "seq": 0},
        {
            "type": "transcript",
            "role": "user",
            "text": "and now \u00e4",
            "final": True,
            "ts": START_MS - 8_000,
            "seq": 2,
        },
        {"type": "wish", "seq": 3},
        {"type": "interrupted", "source": "programmatic", "ts": START_MS - 7_000, "seq": 4},
        {"type": "mark", "name": "unstamped", "attributes": {"source": "mine", "at": 1}},
        source="second",
        clock={"offset": -70_000.25},
    )


async def lines(app: App) -> list[Line]:
    answer = await app.client.get(f"/v1/sessions/{SESSION}/events")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert answer.headers["content-disposition"] == f'attachment; filename="{SESSION}.jsonl"'
    return [json.loads(line) for line in answer.text.splitlines()]


async def looked(app: App) -> Line:
    found: Line = (await app.client.get(f"/v1/sessions/{SESSION}/spans")).json()
    return found


async def viewed(app: App) -> Line:
    body = (await app.client.get(f"/v1/sessions/{SESSION}/events")).content
    answer = await app.client.post("/v1/view", content=body)
    assert answer.status_code == 200, answer.text
    found: Line = answer.json()
    return found


async def test_an_event_is_a_line_with_its_source_its_arrival_and_its_time_by_this_clock(app: App) -> None:
    await call(app)
    found = {line["type"]: line for line in await lines(app)}
    transcript = {"type": "transcript", "role": "user", "text": "and now ä", "final": True, "seq": 2}
    arrived = {"source": "second", "at": START_MS + 1_000, "clock": {"offset": -70_000.25, "uncertainty": None}}
    assert found["transcript"] == {**transcript, **arrived, "ts": START_MS - 8_000 - 70_000.25}
    assert (found["interrupted"]["source"], found["interrupted"]["interruption_source"]) == ("second", "programmatic")
    assert found["mark"]["ts"] == START_MS + 1_000 and found["mark"]["attributes"] == {"source": "mine", "at": 1}
    assert found["provider_message"]["source"] == "first"
    assert found["session_created"]["session"] == {key: value for key, value in NEW.items() if key != "session_id"}
    assert found["events_refused"]["seqs"] == [3]
    assert all({"type", "ts", "at"} <= set(line) for line in found.values())


@pytest.mark.parametrize("later_s", [0, 3, 40, 3 * 3600])
async def test_a_download_that_is_looked_at_is_the_session_as_it_was_at_that_moment(app: App, later_s: float) -> None:
    await call(app)
    app.clock.now += later_s
    there, here = await viewed(app), await looked(app)
    assert there["links"] == {"jaeger": None, "langfuse": None}
    assert {**there, "links": None} == {**here, "links": None}
    assert here["summary"]["events_lost"] == 1
    assert any(span["open"] for span in here["spans"]) is (later_s < 3600)


async def test_an_end_that_was_said_outside_the_events_is_a_line_too(app: App) -> None:
    await call(app)
    await app.client.post(f"/v1/sessions/{SESSION}/end", json={"reason": "agent_hangup"})
    app.clock.now += 60
    assert (await lines(app))[-2]["type"] == "session_ended"
    assert await viewed(app) == await looked(app)


async def test_a_view_knows_when_the_session_was_made(app: App) -> None:
    """It is over at the latest so long after that, and not after its first event."""
    await app.client.post("/v1/sessions", json={**NEW, "idle_timeout_s": 86_400})
    app.clock.now += 6 * 3600
    await app.post({"type": "turn_complete", "turn_id": "t", "user_text": "hello"})
    app.clock.now += 6 * 3600 + 60
    there, here = await viewed(app), await looked(app)
    assert here["summary"]["end_reason"] == "max_duration"
    assert {**there, "links": None} == {**here, "links": None}


@pytest.mark.parametrize("ends", [False, True])
async def test_a_session_in_which_nothing_happened_is_viewed_too(app: App, ends: bool) -> None:
    await app.client.post("/v1/sessions", json=NEW)
    app.clock.now += 7
    if ends:
        await app.client.post(f"/v1/sessions/{SESSION}/end", json={"reason": "user_hangup"})
        app.clock.now += 60
    there, here = await viewed(app), await looked(app)
    assert there["summary"]["agent_name"] == "support" and there["summary"]["started_at"] == START_MS
    assert {**there, "links": None} == {**here, "links": None}


async def test_nothing_of_a_file_that_is_looked_at_is_stored(app: App) -> None:
    body = (RECORDINGS / "gemini_barge_in.jsonl").read_bytes()
    assert (await app.client.post("/v1/view?provider=gemini-live", content=body)).status_code == 200
    assert app.rows("SELECT * FROM sessions") == app.rows("SELECT * FROM log") == []


@pytest.mark.parametrize(("provider", "path"), everything()[::6], ids=lambda value: getattr(value, "stem", value))
async def test_a_provider_is_told_from_its_frames(app: App, provider: str, path: Path) -> None:
    content = path.read_bytes()  # noqa: ASYNC240
    named = await app.client.post(f"/v1/view?provider={provider}", content=content)
    told = await app.client.post("/v1/view", content=content)
    assert (named.status_code, named.json()) == (200, told.json())


EVENT = '{"type":"mark","name":"a","ts":1790000000000}'


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("", "no message"),
        ("{", "line 1"),
        (f"{EVENT}\n{{", "line 2"),
        (f'{EVENT}\n{{"type":"wish"}}', "line 2: type"),
        ('{"type":"mark","name":"a"}', "line 1: ts"),
        ('{"type":"mark","name":"a","ts":5}', "line 1: ts"),
        ('{"type":"mark","name":"a","at":"soon"}', "line 1: at"),
        ('{"type":"mark","name":"a","ts":1790000000000,"source":""}', "line 1: source"),
        ('{"type":"downloaded","ts":1,"at":1,"session_id":"a b"}', "line 1: session_id"),
        ('{"type":"downloaded","ts":1,"at":1,"session_id":"a"}', "no event"),
        (f'{EVENT}\n{{"type":"mark","name":"a","ts":1790000000000,"x":{"[" * 99}{"]" * 99}}}', "line 2: event"),
    ],
)
async def test_a_file_that_is_none_is_422_and_its_line_is_named(app: App, body: str, says: str) -> None:
    answer = await app.client.post("/v1/view", content=body.encode())
    assert answer.status_code == 422
    assert says in answer.json()["error"]


async def test_a_file_may_be_larger_than_a_batch_and_has_its_limit(app: App) -> None:
    many = "\n".join(EVENT for _ in range(40_000)).encode()
    assert len(many) > 1.5 * 2**20
    assert (await app.client.post("/v1/view", content=many)).status_code == 200
    assert (await app.client.post("/v1/view", content=b" " * (VIEWED_BYTES[0] + 1))).status_code == 413
    assert (await app.client.post("/v1/view?provider=siri", content=many)).status_code == 422


async def test_final_spans_are_OTLP_in_JSON(app: App) -> None:
    await call(app)
    await app.post({"type": "turn_start", "turn_id": "later", "ts": START_MS + 60_000})
    app.clock.now += 62
    answer = await app.client.get(f"/v1/sessions/{SESSION}/otlp")
    assert answer.headers["content-disposition"] == f'attachment; filename="{SESSION}.json"'
    (resource,) = answer.json()["resourceSpans"]
    (scope,) = resource["scopeSpans"]
    final = [span for span in await app.spans() if not span["open"]]
    assert [span["spanId"] for span in scope["spans"]] == [span["span_id"] for span in final] != []
    assert {span["kind"] for span in scope["spans"]} == {1, 3}


async def test_a_download_comes_by_pages_and_without_its_last_line_where_the_session_is_erased_meanwhile(
    app: App,
) -> None:
    for n in range(8):
        note = {"type": "mark", "name": "long", "attributes": {"text": "x" * 4_000}, "ts": START_MS + n}
        assert (await app.post(*[note] * 60)).status_code == 204
    path = f"/v1/sessions/{SESSION}/events"
    async with listening(app, path) as whole:
        await until(lambda: whole.ended)
    assert len(whole.sizes) >= 8 and max(whole.sizes) < 2 * LOG_BYTES
    assert json.loads(whole.text.splitlines()[-1])["type"] == "downloaded"
    async with listening(app, path, slow=True) as cut:
        await app.client.delete(f"/v1/sessions/{SESSION}")
        cut.go_on.set()
        await until(lambda: cut.ended)
    assert {json.loads(line)["type"] for line in cut.text.splitlines()} == {"mark"}


async def test_an_unknown_session_has_nothing_to_download(app: App) -> None:
    for path in ("events", "otlp"):
        assert (await app.client.get(f"/v1/sessions/unknown/{path}")).status_code == 404


# Over HTTP, into another receiver

ITS_OWN = ("session.id", "gen_ai.conversation.id", "session.previous_id", "langfuse.observation.completion_start_time")


def shape(spans: list[dict[str, Any]]) -> list[Any]:
    """Without what another session has of its own: its ids and the moment of its start. Microseconds are rounded."""
    start = min(span["start_time_unix_nano"] for span in spans)
    keyed = {span["span_id"]: span["name"] for span in spans}
    told = []
    for span in spans:
        times = [round((span[f"{name}_time_unix_nano"] - start) / 10_000) for name in ("start", "end")]
        attributes = {
            key: round(value, 2) if isinstance(value, float) else value
            for key, value in span["attributes"].items()
            if key not in ITS_OWN
        }
        told.append((times[0], span["name"], times[1], keyed.get(span["parent_span_id"]), json.dumps(attributes)))
    return sorted(told)


@pytest.mark.parametrize("name", ["openai_tool_round", "gemini_barge_in"])
def test_a_download_is_replayed_into_an_empty_receiver_and_is_the_same_call(
    receiver: Callable[..., Receiver], tmp_path: Path, name: str
) -> None:
    url = receiver().url
    first = Recording(RECORDINGS / f"{name}.jsonl")
    id_ = replay(first, url, None, None, lambda _: None, agent_name="support").session_id
    file = tmp_path / "download.jsonl"
    file.write_bytes(httpx.get(f"{url}/v1/sessions/{id_}/events").content)
    download = Recording(file)
    summary = replay(download, url, None, None, lambda _: None)
    assert (summary.session_id != id_, summary.agent_name, summary.end_reason) == (True, "support", "recording_ended")
    there, here = (httpx.get(f"{url}/v1/sessions/{each}/spans").json()["spans"] for each in (id_, summary.session_id))
    roots = [[span for span in spans if not span["parent_span_id"]] for spans in (there, here)]
    assert [len(root) for root in roots] == [1, 1]
    # A root runs to the end that was said, which came a moment later each time.
    for (root,) in roots:
        root["end_time_unix_nano"] = root["start_time_unix_nano"]
    assert shape(there) == shape(here)


def test_a_session_in_which_nothing_happened_is_replayed_too(receiver: Callable[..., Receiver], tmp_path: Path) -> None:
    url = receiver().url
    made = httpx.post(f"{url}/v1/sessions", json={"agent_name": "support"}).json()
    end = f"{url}/v1/sessions/{made['session_id']}/end"
    httpx.post(end, json={"reason": "user_hangup", "token": made["token"]}).raise_for_status()
    file = tmp_path / "download.jsonl"
    file.write_bytes(httpx.get(f"{url}/v1/sessions/{made['session_id']}/events").content)
    summary = replay(Recording(file), url, None, None, lambda _: None)
    assert (summary.agent_name, summary.end_reason, summary.turn_count) == ("support", "user_hangup", 0)


def test_several_sources_keep_their_names_and_numbers(receiver: Callable[..., Receiver], tmp_path: Path) -> None:
    told = [
        {"type": "turn_start", "turn_id": "t", "ts": START_MS, "seq": 0, "source": "a"},
        {"type": "mark", "name": "b's", "ts": START_MS + 500, "seq": 7, "source": "b", "clock": {"offset": 100.5}},
        {"type": "turn_complete", "turn_id": "t", "user_text": "hi", "ts": START_MS + 900, "seq": 1, "source": "a"},
        {"type": "session_end", "reason": "user_hangup", "ts": START_MS + 1_000, "seq": 2, "source": "a"},
    ]
    file = tmp_path / "by_hand.jsonl"
    file.write_text("\n".join(map(json.dumps, told)))
    url = receiver().url
    summary = replay(Recording(file), url, None, None, lambda _: None)
    assert (summary.end_reason, summary.turn_count, summary.events_received) == ("user_hangup", 1, 4)
    found = httpx.get(f"{url}/v1/sessions/{summary.session_id}/events").text.splitlines()
    events = [json.loads(line) for line in found]
    named = [(line.get("source"), line.get("seq")) for line in events if "seq" in line]
    assert named == [("a", 0), ("b", 7), ("a", 1), ("a", 2)]
    times = {line["type"]: line["ts"] for line in events}
    assert times["mark"] - times["turn_start"] == pytest.approx(500, abs=0.01)


def test_lines_in_any_order_are_told_in_the_order_of_their_arrival(tmp_path: Path) -> None:
    marks = [f'{{"type":"mark","name":"{n}","ts":{START_MS + n},"seq":{n},"source":"a"}}' for n in (3, 1, 2)]
    found = Recording.of("\n".join(marks).encode(), "marks")
    assert [event.seq for event in found.events] == [1, 2, 3]
    with pytest.raises(BadRecording, match="marks, line 2"):
        Recording.of(f"{marks[0]}\n{{".encode(), "marks")
