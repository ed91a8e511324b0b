"""The read API, with the real app: summaries, pages of them, spans so far, metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.running import API_KEY, SESSION, START_S, App, mark, running, until

pytestmark = pytest.mark.anyio
START_MS = START_S * 1000
KEY = {"authorization": f"Bearer {API_KEY}"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def app(tmp_path: Path, anyio_backend: str) -> AsyncIterator[App]:
    async with running(tmp_path) as app:
        yield app


@pytest.fixture
async def keyed(tmp_path: Path, anyio_backend: str) -> AsyncIterator[App]:
    async with running(tmp_path, api_key=API_KEY) as app:
        yield app


SUMMARY = {
    "session_id",
    "trace_id",
    "status",
    "end_reason",
    "started_at",
    "ended_at",
    "duration_ms",
    "turn_count",
    "interruption_count",
    "tool_call_count",
    "tool_error_count",
    "tool_cancelled_count",
    "user_bot_latency_ms",
    "tokens",
    "events_received",
    "events_lost",
    "events_duplicate",
}


async def test_a_summary_has_all_its_keys_from_the_start(app: App) -> None:
    await app.client.post("/v1/sessions", json={"session_id": SESSION})
    summary = await app.summary()
    assert set(summary) >= SUMMARY
    assert set(summary["user_bot_latency_ms"]) == {"p50", "p95", "max"}
    assert (summary["status"], summary["end_reason"], summary["ended_at"]) == ("open", None, None)
    assert summary["started_at"] == START_MS


async def test_a_summary_counts_what_came(app: App) -> None:
    usage = {"input_tokens": 10, "output_tokens": 5}
    await app.post(
        {"type": "user_speech_start", "ts": START_MS, "turn_id": "t"},
        {"type": "user_speech_end", "ts": START_MS + 1000, "turn_id": "t"},
        {"type": "tool_call", "ts": START_MS + 1100, "call_id": "a", "name": "n", "turn_id": "t"},
        {"type": "tool_call", "ts": START_MS + 1100, "call_id": "b", "name": "n", "turn_id": "t"},
        {"type": "tool_result", "ts": START_MS + 1200, "call_id": "a", "error": "no"},
        {"type": "tool_result", "ts": START_MS + 1200, "call_id": "b", "cancelled": True},
        {"type": "agent_speech_start", "ts": START_MS + 1500, "turn_id": "t"},
        {"type": "interrupted", "ts": START_MS + 1700, "turn_id": "t"},
        {"type": "turn_complete", "ts": START_MS + 2000, "turn_id": "t", "usage": usage},
    )
    summary = await app.summary()
    counts = ("turn_count", "interruption_count", "tool_call_count", "tool_error_count", "tool_cancelled_count")
    assert [summary[name] for name in counts] == [1, 1, 2, 1, 1]
    assert summary["user_bot_latency_ms"] == {"p50": 500, "p95": 500, "max": 500}
    assert summary["tokens"] == usage
    assert (summary["duration_ms"], summary["events_received"]) == (2000, 9)


async def test_a_page_may_read_its_own_summary_and_no_other(keyed: App) -> None:
    await keyed.post(mark())
    await keyed.post(mark(), session_id="other")
    page = {"authorization": f"Bearer {keyed.token()}"}
    own = await keyed.client.get(f"/v1/sessions/{SESSION}", headers=page)
    other = await keyed.client.get("/v1/sessions/other", headers=page)
    assert (own.status_code, own.json()["session_id"], other.status_code) == (200, SESSION, 403)
    for path in ("", f"/{SESSION}/spans"):
        assert (await keyed.client.get(f"/v1/sessions{path}", headers=page)).status_code == 403
    assert (await keyed.client.delete(f"/v1/sessions/{SESSION}", headers=page)).status_code == 403


async def test_a_token_that_is_shown_is_looked_at_even_where_none_is_needed(app: App) -> None:
    await app.post(mark())
    url = f"/v1/sessions/{SESSION}"
    for token, status in ((app.token(), 200), (app.token("other"), 403), ("nonsense", 401)):
        answer = await app.client.get(url, headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == status


async def test_an_unknown_session_is_404_and_stays_unknown(app: App) -> None:
    for path in ("", "/spans"):
        answer = await app.client.get(f"/v1/sessions/unknown{path}")
        assert (answer.status_code, answer.json()) == (404, {"error": "session unknown is not known"})
    assert (await app.client.get("/v1/sessions")).json() == {"sessions": [], "next": None}


# Pages


async def pages(app: App, limit: int, between: Any = None) -> list[str]:
    """The ids of all pages in order; `between` happens after each page."""
    found: list[str] = []
    before = ""
    while True:
        answer = await app.client.get(f"/v1/sessions?limit={limit}{before}")
        assert answer.status_code == 200
        page = answer.json()
        found += [summary["session_id"] for summary in page["sessions"]]
        if page["next"] is None:
            return found
        before = f"&before={page['next']}"
        if between is not None:
            await between()


async def made(app: App, *names: str) -> None:
    for name in names:
        app.clock.now += 1
        assert (await app.client.post("/v1/sessions", json={"session_id": name})).status_code == 201


async def test_sessions_are_listed_newest_first_with_their_summaries(app: App) -> None:
    await made(app, "a", "b", "c")
    assert await pages(app, 50) == ["c", "b", "a"]
    (first, *_) = (await app.client.get("/v1/sessions")).json()["sessions"]
    assert set(first) >= SUMMARY


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
async def test_pages_show_each_session_once(app: App, limit: int) -> None:
    names = [f"s{n}" for n in range(7)]
    await made(app, *names)
    assert await pages(app, limit) == names[::-1]


async def test_sessions_of_the_same_moment_are_all_shown(app: App) -> None:
    for name in "abcde":
        await app.client.post("/v1/sessions", json={"session_id": name})
    assert sorted(await pages(app, 2)) == list("abcde")


async def test_pages_miss_and_repeat_none_while_new_ones_come(app: App) -> None:
    await made(app, "a", "b", "c", "d", "e")
    news = iter("vwxyz")

    async def another() -> None:
        await made(app, next(news))

    assert await pages(app, 2, another) == ["e", "d", "c", "b", "a"]


@pytest.mark.parametrize("limit", ["0", "501", "-1", "x", "", "1.5", "9" * 5_000, "²"])
async def test_a_bad_limit_is_422_and_named(app: App, limit: str) -> None:
    answer = await app.client.get("/v1/sessions", params={"limit": limit})
    assert (answer.status_code, answer.json()) == (422, {"error": "limit: must be a number from 1 to 500"})


@pytest.mark.parametrize("before", ["", "x", "ä", "%00", "-1", "1.5", "²", "9" * 19, "9" * 5_000])
async def test_a_bad_cursor_is_422_and_named(app: App, before: str) -> None:
    answer = await app.client.get("/v1/sessions", params={"before": before})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("before: ")


# Spans


async def test_spans_that_are_not_final_are_marked_open(app: App) -> None:
    await app.post(
        {"type": "turn_complete", "turn_id": "t1", "ts": START_MS},
        {"type": "turn_start", "turn_id": "t2", "ts": START_MS + 5_000},
    )
    app.clock.now += 20
    shown = {span["name"]: span for span in await app.spans() if span.get("open")}
    final = [span for span in await app.spans() if not span.get("open")]
    assert set(shown) == {"invoke_agent", "voice_session"}
    assert [span["name"] for span in final] == ["invoke_agent"]
    assert final[0]["span_id"] != shown["invoke_agent"]["span_id"]


async def test_spans_of_a_session_that_has_ended_are_all_final_and_in_one_trace(app: App) -> None:
    await app.post({"type": "turn_complete", "turn_id": "t1"}, {"type": "session_end"})
    app.clock.now += 60
    answer = (await app.client.get(f"/v1/sessions/{SESSION}/spans")).json()
    assert (answer["session_id"], answer["trace_id"]) == (SESSION, SESSION.replace("-", ""))
    assert {span["trace_id"] for span in answer["spans"]} == {answer["trace_id"]}
    assert [span["name"] for span in answer["spans"] if span.get("open")] == []
    assert [span["name"] for span in answer["spans"]] == ["invoke_agent", "voice_session"]


# The machine's own


async def test_health_and_readiness_are_open_to_anybody_who_may_reach_it(keyed: App) -> None:
    for path in ("/healthz", "/readyz"):
        answer = await keyed.client.get(path)
        assert (answer.status_code, answer.text) == (200, "ok\n")


def value(metrics: str, name: str) -> float:
    (line,) = [line for line in metrics.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


async def test_metrics_count_what_was_accepted_refused_and_made(app: App) -> None:
    await app.post(mark(), mark(), {"type": "wish"}, {"type": "session_end"})
    app.clock.now += 60
    await until(lambda: app.rows("SELECT 1 FROM outbox"))
    answer = await app.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert value(answer.text, "otel_voice_events_accepted_total") == 3
    assert value(answer.text, "otel_voice_events_refused_total") == 1
    kinds = ("pending", "dead_letter")
    waiting = [value(answer.text, f"otel_voice_spans_{kind}") for kind in kinds]
    gone = [value(answer.text, f"otel_voice_spans_{kind}_total") for kind in ("delivered", "dropped")]
    assert value(answer.text, "otel_voice_spans_made_total") == 3 == sum(waiting + gone)


async def test_the_list_knows_what_came_a_moment_ago(app: App) -> None:
    made = (await app.client.post("/v1/sessions", json={"session_id": "now"})).json()
    lines = [{"type": "turn_complete", "turn_id": "t1"}]
    await app.client.post("/v1/sessions/now/events", json={"events": lines, "token": made["token"]})
    (listed,) = (await app.client.get("/v1/sessions")).json()["sessions"]
    assert (listed["turn_count"], listed["events_received"]) == (1, 1)
