"""The read API, with the real app: summaries, pages of them, spans so far, metrics."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from otel_voice.store import FILE
from tests.running import API_KEY, SESSION, START_S, App, Line, mark, running, until

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


async def test_metrics_say_since_when_the_oldest_span_waits(app: App) -> None:
    name = "otel_voice_spans_pending_oldest_timestamp_seconds"
    assert f"{name} " not in re.sub("#.*", "", (await app.client.get("/metrics")).text)
    await app.post({"type": "session_end"})
    app.clock.now += 60
    made = app.clock.now
    await until(lambda: app.rows("SELECT 1 FROM outbox"))
    app.clock.now += 600
    assert value((await app.client.get("/metrics")).text, name) == made


async def test_the_list_has_a_session_at_once_and_its_figures_when_they_are_written(app: App) -> None:
    new = {"session_id": "now", "agent_name": "concierge"}
    assert (await app.client.post("/v1/sessions", json=new)).status_code == 201
    (listed,) = (await app.client.get("/v1/sessions")).json()["sessions"]
    assert (listed["session_id"], listed["agent_name"], listed["turn_count"]) == ("now", "concierge", 0)
    await app.post({"type": "turn_complete", "turn_id": "t1"}, session_id="now")
    app.clock.now += 3
    await until(lambda: app.rows("SELECT 1 FROM calls WHERE turns = 1"))
    (listed,) = (await app.client.get("/v1/sessions")).json()["sessions"]
    assert (listed["turn_count"], listed["events_received"]) == (1, 1)


async def test_a_list_of_many_live_calls_holds_nobody_up(app: App) -> None:
    """What waits to be told would cost a copy of each."""
    turns = [{"type": "turn_complete", "turn_id": f"t{n}", "user_text": "well " * 20} for n in range(40)]
    for n in range(100):
        assert (await app.post(*turns, session_id=f"s{n}")).status_code == 204
    await until(lambda: app.rows("SELECT count(*) FROM sessions WHERE summary IS NOT NULL") == [(100,)])
    one = await took(lambda: app.client.get("/v1/sessions/s1"))
    assert await took(lambda: app.client.get("/v1/sessions?limit=100")) < 10 * one


async def took(ask: Callable[[], Awaitable[httpx.Response]]) -> float:
    """Seconds, the least of some."""
    found = []
    for _ in range(5):
        begun = time.perf_counter()
        assert (await ask()).status_code == 200
        found.append(time.perf_counter() - begun)
    return min(found)


@pytest.mark.parametrize("was_told", [True, False])
async def test_a_call_that_cannot_be_mapped_is_listed_with_what_is_known_of_it(tmp_path: Path, was_told: bool) -> None:
    async with running(tmp_path) as app:
        new = {"session_id": SESSION, "agent_name": "concierge", "user_id": "ada"}
        await app.client.post("/v1/sessions", json=new)
        await app.post({"type": "turn_complete", "turn_id": "t", "ts": START_MS})
    with closing(sqlite3.connect(tmp_path / FILE)) as db, db:
        # An event that only a later version knows.
        db.execute("UPDATE log SET body = CAST(replace(CAST(body AS TEXT), 'turn_complete', 'wish') AS BLOB)")
        if not was_told:
            db.execute("UPDATE sessions SET summary = x'7b7d', status = 'broken', due = 0")
    sentence = f"session {SESSION} cannot be mapped by this version; its events are kept"
    async with running(tmp_path) as app:
        for path in ("", "/spans", "/otlp", "/stream"):
            answer = await app.client.get(f"/v1/sessions/{SESSION}{path}")
            assert (answer.status_code, answer.json()) == (500, {"error": sentence})
        app.clock.now += 60
        await until(lambda: app.rows("SELECT 1 FROM calls WHERE status = 'broken'"))
        for query in ("", "?status=broken"):
            (listed,) = (await app.client.get(f"/v1/sessions{query}")).json()["sessions"]
            assert set(listed) >= SUMMARY
            known = ("status", "session_id", "agent_name", "user_id", "started_at")
            assert [listed[name] for name in known] == ["broken", SESSION, "concierge", "ada", START_MS]
            assert listed["turn_count"] == int(was_told)
        answer = await app.client.get(f"/v1/sessions/{SESSION}/spans")
        assert (answer.status_code, answer.json()) == (500, {"error": sentence})
        assert "wish" in (await app.client.get(f"/v1/sessions/{SESSION}/events")).text


# Filters


def call(n: int, *more: Line, **fields: Any) -> list[Line]:
    """A call of one turn that begins n minutes after the first."""
    t = START_MS + n * 60_000
    speech = [
        {"type": "user_speech_start", "ts": t, "turn_id": "t", **fields},
        {"type": "user_speech_end", "ts": t + 1_000, "turn_id": "t"},
        {"type": "agent_speech_start", "ts": t + 1_000 + (n + 1) * 300, "turn_id": "t"},
    ]
    return [*speech, *({"ts": t + 5_000, "turn_id": "t"} | line for line in more)]


@pytest.fixture
async def calls(app: App) -> App:
    """Three that are over and one that goes on."""
    said = {"type": "turn_complete", "user_text": "I want my money back", "agent_text": "Of course, Zo\u00eb"}
    tool = {"type": "tool_call", "call_id": "c", "name": "refund"}
    failed = {"type": "tool_result", "call_id": "c", "error": "no"}
    usage = {"input_tokens": 900, "output_tokens": 100}
    about = {
        "ada": ({"user_id": "ada", "agent_name": "Support", "model": "gpt-realtime"}, call(0, said)),
        "bob": (
            {"user_id": "bob", "agent_name": "Sales"},
            call(1, tool, failed, {"type": "turn_complete", "usage": usage}),
        ),
        "eve": (
            {"user_id": "eve_1", "agent_name": "Sales"},
            call(2, {"type": "interrupted"}, {"type": "turn_complete"}),
        ),
        "now": ({"user_id": "ada"}, call(3)),
    }
    for name, (new, events) in about.items():
        await app.client.post("/v1/sessions", json={"session_id": name, **new})
        end = {"type": "session_end", "reason": "user_hangup" if name != "bob" else "page_closed", "seq": 9}
        over = [{**end, "ts": events[-1]["ts"] + 1}] if name != "now" else []
        await app.post(*({"seq": n, **event} for n, event in enumerate(events)), *over, session_id=name)
    app.clock.now += 400
    await until(lambda: app.rows("SELECT count(*) FROM calls WHERE status = 'ended'") == [(3,)])
    await until(lambda: app.rows("SELECT turns FROM calls WHERE id = 'now'") == [(1,)])
    return app


async def found(app: App, query: str) -> str:
    answer = await app.client.get(f"/v1/sessions?{query}")
    assert answer.status_code == 200, answer.text
    return " ".join(summary["session_id"] for summary in answer.json()["sessions"])


FOUND = [
    ("", "now eve bob ada"),
    ("user=ada", "now ada"),
    ("user=ADA", ""),
    ("user=", "now eve bob ada"),
    ("agent=Sales", "eve bob"),
    ("model=gpt-realtime", "ada"),
    ("end_reason=user_hangup", "eve ada"),
    ("status=open", "now"),
    ("status=ended&agent=Sales", "eve bob"),
    (f"from={START_MS + 60_000}", "now eve bob"),
    (f"to={START_MS + 60_000}", "ada"),
    ("min_duration=5002", ""),
    ("min_duration=5001", "eve bob ada"),
    ("min_turns=1", "now eve bob ada"),
    ("min_turns=2", ""),
    ("min_interruptions=1", "eve"),
    ("min_tools=1", "bob"),
    ("min_errors=1", "bob"),
    ("min_p50=600", "now eve bob"),
    ("min_p95=900.5", "now"),
    ("min_tokens=1000", "bob"),
    ("min_tokens=1001", ""),
    ("min_lost=1", "eve bob ada"),
    ("q=money", "ada"),
    ("q=MONEY+back", "ada"),
    ("q=back+money", "ada"),
    ("q=mon", "ada"),
    ("q=mon+back", ""),
    ("q=zoe", "ada"),
    ("q=money+refund", ""),
    ("q=sales", "eve bob"),
    ("q=supp", "ada"),
    ("q=realtime", "ada"),
    ("q=eve_", "eve"),
    ("q=ev%25", ""),
    ("q=bo", "bob"),
    ("q=+", "now eve bob ada"),
    ("q=money&user=bob", ""),
]


async def test_a_filter_lets_through_what_it_says(calls: App) -> None:
    assert [(query, await found(calls, query)) for query, _ in FOUND] == FOUND


async def test_no_query_is_an_error(calls: App) -> None:
    odd = ['"', "money AND", "NEAR(", "*", "a:b", "-money", "^", "\x00money", "''", "%", "x" * 256]
    for q in odd:
        for path in ("", "/plots"):
            assert (await calls.client.get(f"/v1/sessions{path}", params={"q": q})).status_code == 200, q


async def test_pages_of_what_a_filter_finds_follow_each_other(calls: App) -> None:
    first = (await calls.client.get("/v1/sessions?status=ended&limit=2")).json()
    second = (await calls.client.get(f"/v1/sessions?status=ended&limit=2&before={first['next']}")).json()
    names = [summary["session_id"] for page in (first, second) for summary in page["sessions"]]
    assert (names, second["next"]) == (["eve", "bob", "ada"], None)


@pytest.mark.parametrize("path", ["", "/plots"])
@pytest.mark.parametrize("query", ["min_turns=x", "min_turns=-1", "from=nan", "to=inf", "min_p95=1e999"])
async def test_a_bad_filter_is_422_and_named(app: App, path: str, query: str) -> None:
    answer = await app.client.get(f"/v1/sessions{path}?{query}")
    name = query.partition("=")[0]
    assert (answer.status_code, answer.json()) == (422, {"error": f"{name}: must be a number from 0 on"})
    answer = await app.client.get(f"/v1/sessions{path}?user={'x' * 257}")
    assert (answer.status_code, answer.json()) == (422, {"error": "user: must have at most 256 characters"})


async def test_words_that_were_not_captured_are_not_found(tmp_path: Path) -> None:
    async with running(tmp_path, capture="off") as app:
        line = {"type": "turn_complete", "turn_id": "t", "user_text": "secret", "ts": START_MS}
        await app.post(line, {"type": "session_end", "ts": START_MS + 1})
        app.clock.now += 60
        await until(lambda: app.rows("SELECT 1 FROM calls WHERE status = 'ended'"))
        assert await found(app, "q=secret") == ""
        assert app.rows("SELECT * FROM words") == []


# Plots


async def test_plots_count_what_the_filter_lets_through(calls: App) -> None:
    plots = (await calls.client.get("/v1/sessions/plots")).json()
    assert plots["count"] == 4
    time = plots["over_time"]
    assert [n for n, count in enumerate(time["counts"]) for _ in range(count)] == [
        (START_MS + n * 60_000 - time["from"]) // time["bin_ms"] for n in range(4)
    ]
    latency = plots["latency"]
    assert [n * latency["bin_ms"] for n, count in enumerate(latency["p95"]) if count] == [300, 600, 900, 1200]
    assert latency["p50"] == latency["p95"]
    assert plots["end_reasons"] == [["user_hangup", 2], ["page_closed", 1]]
    some = (await calls.client.get("/v1/sessions/plots?agent=Sales")).json()
    assert (some["count"], some["end_reasons"]) == (2, [["page_closed", 1], ["user_hangup", 1]])


async def test_plots_of_nothing_are_empty(app: App) -> None:
    assert (await app.client.get("/v1/sessions/plots")).json() == {
        "count": 0,
        "over_time": {"from": 0, "bin_ms": 1000, "counts": []},
        "latency": {"bin_ms": 10, "p50": [], "p95": []},
        "end_reasons": [],
    }


# Links


async def test_spans_come_with_their_summary_and_where_else_to_look(tmp_path: Path) -> None:
    there = {"jaeger_url": "http://127.0.0.1:16686", "langfuse_url": "https://cloud.langfuse.com/project/p"}
    async with running(tmp_path, **there) as app:
        await app.post(mark())
        looked = (await app.client.get(f"/v1/sessions/{SESSION}/spans")).json()
        assert looked["summary"] == await app.summary()
        assert looked["links"] == {
            "jaeger": f"http://127.0.0.1:16686/trace/{looked['trace_id']}",
            "langfuse": f"https://cloud.langfuse.com/project/p/traces/{looked['trace_id']}",
        }


async def test_without_addresses_there_are_no_links(app: App) -> None:
    await app.post(mark())
    looked = (await app.client.get(f"/v1/sessions/{SESSION}/spans")).json()
    assert looked["links"] == {"jaeger": None, "langfuse": None}


async def test_what_one_page_claims_keeps_no_session_from_being_written(tmp_path: Path) -> None:
    async with running(tmp_path) as app:
        usage = {"input_tokens": 2**53, "output_tokens": 2**53}
        claims = [{"type": "turn_complete", "turn_id": f"t{n}", "usage": usage} for n in range(600)]
        assert (await app.post(*claims)).status_code == 204
        other = "6f1c2b3a-0000-4000-8000-0000000000cc"
        await app.post(mark(), {"type": "session_end"}, session_id=other)
        app.clock.now += 60
        await until(lambda: app.rows(f"SELECT 1 FROM sessions WHERE id = '{other}' AND status = 'ended'"))
        assert (await app.client.get("/v1/sessions?min_tokens=1000000")).json()["sessions"]


async def test_a_page_of_another_site_asks_nothing_but_may_link_here(tmp_path: Path) -> None:
    """An image or a script says no origin, and how long its answer takes would tell something."""
    async with running(tmp_path) as app:
        foreign = {"sec-fetch-site": "cross-site"}
        assert (await app.client.get("/v1/sessions?q=word", headers=foreign)).status_code == 403
        linked = await app.client.get("/", headers=foreign | {"sec-fetch-mode": "navigate"})
        assert linked.status_code == 200


async def test_a_file_that_is_looked_at_keeps_no_event_out(tmp_path: Path) -> None:
    async with running(tmp_path) as app:
        line = {"type": "mark", "name": "x", "ts": 1_790_000_000_000, "attributes": {"text": "y" * 4_000}}
        file = "\n".join(json.dumps(line | {"seq": n, "source": "s"}) for n in range(1_400))
        assert len(file) > 5 * 2**20
        viewing = asyncio.create_task(app.client.post("/v1/view", content=file))
        await until(lambda: app.state.load.bytes > 5 * 2**20)
        assert (await app.post(mark())).status_code == 204
        assert (await viewing).status_code == 200
