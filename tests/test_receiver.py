"""The HTTP contract of writing, row by row, with the real app; and what bad input gets."""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import resource
import socket
import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import jwt
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from otel_voice.app import EXCEPTIONS, create_app
from otel_voice.edge import BODY_BYTES, INFLATED_BYTES, SESSION_REQUESTS, Limits, Rejected
from otel_voice.events import MAX_EVENTS
from otel_voice.front import response_to
from otel_voice.receiver import LISTED
from otel_voice.settings import Settings
from otel_voice.spans import root_id, trace_id
from otel_voice.store import FILE, Damaged, Unavailable
from otel_voice.tokens import Tokens, kid_of
from tests.real import Receiver
from tests.running import API_KEY, SESSION, START_S, TOKEN_KEY, App, mark, running, until, zipped

pytestmark = pytest.mark.anyio
START_MS = START_S * 1000
KID = kid_of(TOKEN_KEY.encode())
COMPLETE = {"type": "turn_complete", "turn_id": "t1", "user_text": "hi", "agent_text": "hello"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def app(tmp_path: Path, anyio_backend: str, caplog: pytest.LogCaptureFixture) -> AsyncIterator[App]:
    """Without an API key, as on a developer's machine. Nothing that is sent makes it complain in the log."""
    async with running(tmp_path) as app:
        yield app
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture
async def keyed(tmp_path: Path, anyio_backend: str) -> AsyncIterator[App]:
    """With an API key and one allowed origin, as on a server."""
    async with running(tmp_path, api_key=API_KEY, allowed_origins=("https://app.example.com",)) as app:
        yield app


KEY = {"authorization": f"Bearer {API_KEY}"}


# POST /v1/sessions


async def test_a_new_session_answers_with_all_that_a_page_needs(app: App) -> None:
    answer = await app.client.post("/v1/sessions", json={"session_id": SESSION})
    made = answer.json()
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    assert made.pop("token").count(".") == 2
    assert made == {
        "session_id": SESSION,
        "trace_id": SESSION.replace("-", ""),
        "traceparent": f"00-{SESSION.replace('-', '')}-{root_id(SESSION.replace('-', ''))}-01",
        "events_url": f"http://127.0.0.1:8770/v1/sessions/{SESSION}/events",
        "expires_at": int(START_MS) + (12 + 24) * 3_600_000,
    }


async def test_pages_are_sent_to_the_public_address_however_the_backend_asks(tmp_path: Path) -> None:
    async with running(tmp_path, api_key=API_KEY, public_url="https://voice.example.com/otel") as app:
        headers = KEY | {"host": "receiver:8770", "x-forwarded-proto": "http"}
        made = (await app.client.post("/v1/sessions", json={"session_id": "call-17:a.b"}, headers=headers)).json()
        assert made["events_url"] == "https://voice.example.com/otel/v1/sessions/call-17:a.b/events"


async def test_a_session_without_an_id_gets_a_uuid(app: App) -> None:
    made = (await app.client.post("/v1/sessions")).json()
    assert str(uuid.UUID(made["session_id"])) == made["session_id"]
    assert made["trace_id"] == made["session_id"].replace("-", "")


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (SESSION.upper(), SESSION),
        (SESSION.replace("-", ""), SESSION),
        ("call-17:a.b_c", "call-17:a.b_c"),
        ("x" * 128, "x" * 128),
    ],
)
async def test_a_session_id_has_one_form(app: App, said: str, kept: str) -> None:
    made = (await app.client.post("/v1/sessions", json={"session_id": said})).json()
    assert (made["session_id"], made["trace_id"]) == (kept, trace_id(kept))


async def test_an_existing_session_gets_a_fresh_token_and_keeps_what_was_first_said_of_it(app: App) -> None:
    first = (await app.client.post("/v1/sessions", json={"session_id": SESSION, "user_id": "ann"})).json()
    app.clock.now += 60
    second = (await app.client.post("/v1/sessions", json={"session_id": SESSION, "user_id": "bob"})).json()
    assert second["expires_at"] == first["expires_at"] + 60_000
    assert first["token"] != second["token"]
    for token in (first["token"], second["token"]):
        assert (await app.post(mark(), token=token)).status_code == 204
    assert (await app.summary())["user_id"] == "ann"


async def test_what_the_app_says_of_a_session_is_on_its_spans(app: App) -> None:
    new = {
        "session_id": SESSION,
        "previous_session_id": "the-one-before",
        "user_id": "ann",
        "agent_name": "weather",
        "provider": "openai-realtime",
        "model": "gpt-realtime",
        "tags": ["beta"],
        "metadata": {"tenant": "t1", "seats": 3},
        "environment": "staging",
        "idle_timeout_s": 60,
        "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
    }
    assert (await app.client.post("/v1/sessions", json=new)).status_code == 201
    (root,) = await app.spans()
    said = str(root)
    assert all(word in said for word in ("the-one-before", "ann", "weather", "gpt-realtime", "beta", "t1", "staging"))
    assert root["links"][0] == new["traceparent"]


BAD_SESSIONS: list[tuple[Any, str]] = [
    ({"session_id": ""}, "session_id: "),
    ({"session_id": "a/b"}, "session_id: "),
    ({"session_id": "../../etc/passwd"}, "session_id: "),
    ({"session_id": "x" * 129}, "session_id: "),
    ({"session_id": "a\n"}, "session_id: "),
    ({"session_id": "00000000-0000-0000-0000-000000000000"}, "session_id: "),
    ({"session_id": 5}, "session_id: "),
    ({"user_id": "x" * 201}, "user_id: "),
    ({"tags": "beta"}, "tags: "),
    ({"tags": [1]}, "tags[0]: "),
    ({"metadata": {"a": {"b": 1}}}, "metadata[...]: "),
    ({"metadata": {"a": "x" * 5_000}}, "metadata[...]: "),
    ({"metadata": {"langfuse.trace.name": "x"}}, "metadata: the name 'langfuse.trace.name' is reserved"),
    ({"environment": "langfuse-x"}, "environment: "),
    ({"environment": "prod\n"}, "environment: "),
    ({"idle_timeout_s": 0}, "idle_timeout_s: "),
    ({"idle_timeout_s": 1e9}, "idle_timeout_s: "),
    ({"traceparent": "00-zz"}, "traceparent: "),
    ({"traceparent": f"00-{'0' * 32}-{'b' * 16}-01"}, "traceparent: "),
    ({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01\n"}, "traceparent: "),
    ([], "body: "),
    (5, "body: "),
]


@pytest.mark.parametrize(("body", "begins"), BAD_SESSIONS, ids=str)
async def test_a_bad_session_is_refused_with_a_sentence_that_names_the_field(app: App, body: Any, begins: str) -> None:
    answer = await app.client.post("/v1/sessions", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(begins)
    assert app.rows("SELECT * FROM sessions") == []


async def test_a_session_that_is_no_json_is_400(app: App) -> None:
    answer = await app.client.post("/v1/sessions", content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("body: ")


# Who may come in


async def test_with_a_key_a_session_is_made_by_the_key_alone(keyed: App) -> None:
    page = {"authorization": f"Bearer {keyed.token()}"}
    answers = [
        await keyed.client.post("/v1/sessions", headers=headers)
        for headers in ({}, {"authorization": "Bearer wrong"}, page, {"authorization": f"Basic {API_KEY}"}, KEY)
    ]
    assert [answer.status_code for answer in answers] == [401, 401, 403, 401, 201]
    assert answers[0].headers["www-authenticate"] == "Bearer"
    assert all(API_KEY not in answer.text for answer in answers)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/sessions"),
        ("GET", f"/v1/sessions/{SESSION}"),
        ("GET", f"/v1/sessions/{SESSION}/spans"),
        ("DELETE", f"/v1/sessions/{SESSION}"),
        ("POST", f"/v1/sessions/{SESSION}/end"),
    ],
)
async def test_with_a_key_nothing_is_read_ended_or_erased_without_it(keyed: App, method: str, path: str) -> None:
    await keyed.post(mark())
    assert (await keyed.client.request(method, path)).status_code == 401
    assert (await keyed.client.request(method, path, headers={"authorization": "Bearer nonsense"})).status_code >= 401
    assert (await keyed.client.request(method, path, headers=KEY)).status_code in (200, 204)


async def test_a_key_outside_ascii_is_compared_as_the_bytes_it_came_as(tmp_path: Path) -> None:
    async with running(tmp_path, api_key="schlüssel-zum-hof") as app:
        headers = {b"authorization": "Bearer schlüssel-zum-hof".encode()}
        assert (await app.client.post("/v1/sessions", headers=headers)).status_code == 201


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8770", 201),
        ("127.0.0.1", 201),
        ("[::1]:8770", 201),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1@evil.example", 403),
        ("[", 403),
        ("", 403),
    ],
)
async def test_without_a_key_only_loopback_names_are_answered(app: App, host: str, status: int) -> None:
    answer = await app.client.post("/v1/sessions", headers={"host": host})
    assert answer.status_code == status
    assert status == 201 or answer.json()["error"].startswith("host: ")


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:5173", 204),
        ("http://127.0.0.1", 204),
        ("https://evil.example", 403),
        ("http://localhost@evil.example", 403),
        ("null", 403),
    ],
)
async def test_without_a_key_only_pages_of_this_machine_may_write(app: App, origin: str, status: int) -> None:
    body = json.dumps({"token": app.token(), "events": [mark()]}).encode()
    assert (await app.raw(body, origin=origin)).status_code == status


async def test_without_a_key_a_listed_origin_may_write(tmp_path: Path) -> None:
    async with running(tmp_path, allowed_origins=("https://app.example.com",)) as app:
        body = json.dumps({"token": app.token(), "events": [mark()]}).encode()
        assert (await app.raw(body, origin="https://app.example.com")).status_code == 204


async def test_with_a_key_any_host_is_answered(keyed: App) -> None:
    assert (await keyed.client.get("/healthz", headers={"host": "voice.example.com"})).status_code == 200


def preflight(origin: str) -> dict[str, str]:
    return {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,content-encoding",
    }


async def test_an_allowed_origin_passes_the_preflight_and_may_read_the_time(keyed: App) -> None:
    origin, path = "https://app.example.com", f"/v1/sessions/{SESSION}/events"
    answer = await keyed.client.options(path, headers=preflight(origin))
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)
    assert answer.headers["access-control-max-age"] == "7200"
    posted = await keyed.raw(b"{}", origin=origin)
    assert posted.headers["access-control-allow-origin"] == origin
    assert {"x-otel-voice-time", "retry-after"} <= set(posted.headers["access-control-expose-headers"].split(", "))


@pytest.mark.parametrize("origin", ["https://app.example.com", "https://evil.example"])
async def test_the_events_route_says_to_a_page_what_every_other_route_says(keyed: App, origin: str) -> None:
    posted = await keyed.raw(b"{}", origin=origin)
    other = await keyed.client.get(f"/v1/sessions/{SESSION}", headers={"origin": origin})
    assert (posted.status_code, other.status_code) == (401, 401)
    names = ("access-control-allow-origin", "access-control-expose-headers", "vary")
    assert [posted.headers.get(name) for name in names] == [other.headers.get(name) for name in names]


API_ANSWERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


@pytest.mark.parametrize(
    ("method", "path", "policy"),
    [
        ("GET", "/healthz", "same-origin"),
        ("GET", "/v1/sessions", "same-origin"),
        ("GET", "/nowhere", "same-origin"),
        ("POST", "/v1/sessions", "same-origin"),
        ("DELETE", f"/v1/sessions/{SESSION}/events", "same-origin"),
        ("POST", f"/v1/sessions/{SESSION}/events", "cross-origin"),
    ],
)
@pytest.mark.parametrize("host", ["127.0.0.1", "evil.example"])
async def test_every_answer_says_what_a_browser_must_not_do_with_it(
    app: App, method: str, path: str, policy: str, host: str
) -> None:
    answer = await app.client.request(method, path, headers={"host": host})
    assert {name: answer.headers[name] for name in API_ANSWERS} == API_ANSWERS
    assert answer.headers.get_list("cross-origin-resource-policy") == [policy]
    assert answer.headers.get_list("x-otel-voice-time") == [f"{START_MS:.3f}"]


async def test_a_defect_of_ours_is_answered_with_the_same_headers(tmp_path: Path) -> None:
    async def fail(request: Request) -> Response:
        raise RuntimeError

    inner = create_app(Settings(data_dir=tmp_path))
    inner.router.routes.append(Route("/fails", fail))
    transport = httpx.ASGITransport(inner, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answer = await client.get("/fails")
    assert (answer.status_code, answer.headers["x-content-type-options"]) == (500, "nosniff")


async def test_a_page_may_read_of_every_refusal_when_to_come_again(keyed: App) -> None:
    origin = "https://app.example.com"
    body = json.dumps({"token": keyed.token(), "events": [mark()]}).encode()
    answer = await limited(partial(limits_of(keyed).session, SESSION), partial(keyed.raw, body, origin=origin))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert answer.headers["access-control-allow-origin"] == origin
    assert {"x-otel-voice-time", "retry-after"} <= set(answer.headers["access-control-expose-headers"].split(", "))


@pytest.mark.parametrize("error", [Unavailable("full"), Damaged("no database"), Rejected(503, "too much")])
async def test_the_events_route_answers_an_error_by_its_kind_or_the_nearest_above(error: Exception) -> None:
    assert response_to(error, Request({"type": "http"}), EXCEPTIONS).status_code == 503


async def test_an_application_in_another_one_takes_events_there(tmp_path: Path) -> None:
    inner = create_app(Settings(data_dir=tmp_path, token_key=TOKEN_KEY))
    outer = Starlette(routes=[Mount("/voice", inner)])
    body = json.dumps({"token": Tokens(TOKEN_KEY.encode()).mint(SESSION, 2**40), "events": [mark()]}).encode()
    async with (
        inner.router.lifespan_context(inner),
        httpx.AsyncClient(transport=httpx.ASGITransport(outer), base_url="http://127.0.0.1") as client,
    ):
        path, type_ = f"/voice/v1/sessions/{SESSION}/events", {"content-type": "text/plain"}
        answers = [await client.post(path, content=content, headers=type_) for content in (body, b"{}")]
    assert [answer.status_code for answer in answers] == [204, 401]


@pytest.mark.parametrize("origin", ["https://evil.example", "https://app.example.com.evil.example", "http://localhost"])
async def test_no_other_origin_passes_the_preflight(keyed: App, origin: str) -> None:
    answer = await keyed.client.options(f"/v1/sessions/{SESSION}/events", headers=preflight(origin))
    assert answer.status_code == 400
    assert "access-control-allow-origin" not in answer.headers


# Tokens


async def test_a_token_is_taken_as_bearer_and_in_the_body(app: App) -> None:
    assert (await app.post(mark())).status_code == 204
    body = json.dumps({"events": [mark()]}).encode()
    assert (await app.raw(body, authorization=f"Bearer {app.token()}")).status_code == 204
    assert (await app.summary())["events_received"] == 2


async def test_a_token_outlives_its_session_by_a_day_and_not_more(app: App) -> None:
    made = (await app.client.post("/v1/sessions", json={"session_id": SESSION})).json()
    app.clock.now = made["expires_at"] / 1000 - 1
    assert (await app.post(mark(), token=made["token"])).status_code == 204
    app.clock.now += 1
    answer = await app.post(mark(), token=made["token"])
    assert (answer.status_code, answer.json()) == (
        401,
        {"error": "token: it has expired; ask for a new one with POST /v1/sessions"},
    )


def signed(key: str, algorithm: str = "HS256", **claims: Any) -> str:
    return unsafe({"sub": SESSION, "exp": int(START_S) + 60} | claims, key, algorithm)


def unsafe(claims: dict[str, Any], key: str = TOKEN_KEY, algorithm: str = "HS256", kid: str | None = KID) -> str:
    return jwt.encode(claims, key, algorithm, headers={"kid": kid} if kid else None)


BAD_TOKENS: dict[str, tuple[Any, int]] = {
    "missing": (None, 401),
    "empty": ("", 401),
    "no token": ("abc", 401),
    "three parts": ("a.b.c", 401),
    "control characters": ("\x00\r\n\x1b", 401),
    "outside ascii": ("ä.ö.ü", 401),
    "lone surrogate": ("\ud800", 401),
    "alg none": (unsafe({"sub": SESSION, "exp": 2**33}, "", "none"), 401),
    "of no key": (unsafe({"sub": SESSION, "exp": 2**33}, kid=None), 401),
    "of a key nobody knows": (unsafe({"sub": SESSION, "exp": 2**33}, kid="01234567"), 401),
    "another key": (signed("another key, which is as long as it"), 401),
    "another algorithm": (signed(TOKEN_KEY * 3, "HS512"), 401),
    "no expiry": (unsafe({"sub": SESSION}), 401),
    "no subject": (unsafe({"exp": 2**33}), 401),
    "an expiry that is a word": (unsafe({"sub": SESSION, "exp": "soon"}), 401),
    "an expiry without an end": (unsafe({"sub": SESSION, "exp": float("inf")}), 401),
    "a numeric subject": (unsafe({"sub": 5, "exp": 2**33}), 401),
    "expired": (signed(TOKEN_KEY, exp=int(START_S)), 401),
    "tampered": (signed(TOKEN_KEY)[:-3] + "abc", 401),
    "another session": (signed(TOKEN_KEY, sub="another"), 403),
    "another spelling": (signed(TOKEN_KEY, sub=SESSION.upper()), 403),
}


@pytest.mark.parametrize(("token", "status"), BAD_TOKENS.values(), ids=BAD_TOKENS.keys())
async def test_a_bad_token_stores_nothing(app: App, token: Any, status: int) -> None:
    answer = await app.post(mark(), token=token)
    assert answer.status_code == status
    assert answer.json()["error"].startswith("token: ")
    assert app.rows("SELECT * FROM log") == []


async def test_the_batchs_token_is_found_beside_another_in_a_tools_arguments(app: App) -> None:
    call = {"type": "tool_call", "call_id": "c", "name": "sign_in", "arguments": {"token": "a.b.c"}}
    body = json.dumps({"events": [call], "token": app.token()}).encode()
    assert (await app.raw(body)).status_code == 204


async def test_without_a_key_a_page_still_needs_its_token(app: App) -> None:
    assert (await app.raw(b'{"events": []}')).status_code == 401


async def test_a_valid_token_for_an_unknown_session_makes_it_anew(app: App) -> None:
    assert (await app.post(mark(), session_id="lost")).status_code == 204
    assert (await app.summary("lost"))["events_received"] == 1


# POST …/events


@pytest.mark.parametrize("type_", ["text/plain", "text/plain;charset=UTF-8", "application/json", "APPLICATION/JSON"])
@pytest.mark.parametrize("encoding", ["identity", "gzip", "GZIP"])
async def test_a_batch_is_taken_as_either_type_plain_and_zipped(app: App, type_: str, encoding: str) -> None:
    batch = {"token": app.token(), "events": [mark()]}
    body = json.dumps(batch).encode() if encoding == "identity" else zipped(batch)
    answer = await app.raw(body, type_=type_, content_encoding=encoding)
    assert (answer.status_code, answer.content) == (204, b"")


async def test_refused_events_are_named_by_their_index_and_their_neighbours_are_kept(app: App) -> None:
    answer = await app.post(mark("a", seq=0), {"type": "wish", "seq": 1}, mark("b", seq=2), {"type": "mark", "seq": 3})
    assert answer.status_code == 200
    assert answer.json() == {
        "accepted": 2,
        "rejected": [
            {"index": 1, "error": "type: invalid value 'wish'"},
            {"index": 3, "error": "name: it is missing"},
        ],
    }
    assert [span["name"] for span in await app.spans()] == ["a", "b", "voice_session"]


async def test_a_batch_of_which_nothing_can_be_taken_is_422_of_the_same_shape(app: App) -> None:
    answer = await app.post({"type": "wish"}, 5)
    assert answer.status_code == 422
    assert answer.json() == {
        "accepted": 0,
        "rejected": [
            {"index": 0, "error": "type: invalid value 'wish'"},
            {"index": 1, "error": "event: expected `object`, got `int`"},
        ],
    }


async def test_an_empty_batch_is_fine_and_makes_no_session(app: App) -> None:
    assert (await app.post()).status_code == 204
    assert app.rows("SELECT * FROM log") == []


async def test_what_is_answered_204_is_in_the_store(app: App) -> None:
    assert (await app.post(mark("kept"))).status_code == 204
    ((body,),) = app.rows("SELECT body FROM log")
    assert b'"kept"' in body


async def test_a_refused_event_is_no_lost_event(app: App) -> None:
    await app.post(mark(seq=0), {"type": "wish", "seq": 1}, mark(seq=2))
    summary = await app.summary()
    assert (summary["events_received"], summary["events_lost"]) == (2, 0)


@pytest.mark.parametrize("seq", [-1, -(2**70), 2**70, 10**30])
async def test_an_absurd_number_of_a_refused_event_does_not_count(app: App, seq: int) -> None:
    await app.post(mark(seq=0), mark(seq=seq))
    summary = await app.summary()
    assert (summary["events_received"], summary["events_lost"]) == (1, 0)


async def test_a_missing_number_is_a_lost_event(app: App) -> None:
    await app.post(mark(seq=0), mark(seq=2))
    assert (await app.summary())["events_lost"] == 1


async def test_the_same_events_again_are_counted_once_and_as_duplicates(app: App) -> None:
    for _ in range(3):
        assert (await app.post(mark(seq=0), mark(seq=1))).status_code == 204
    summary = await app.summary()
    assert (summary["events_received"], summary["events_duplicate"], summary["events_lost"]) == (2, 4, 0)
    assert len(await app.spans()) == 3


async def test_sources_number_their_events_apart(app: App) -> None:
    await app.post(mark(seq=0), source="a")
    await app.post(mark(seq=0), source="b")
    assert (await app.summary())["events_received"] == 2


async def test_without_numbers_nothing_is_a_repetition_and_nothing_is_lost(app: App) -> None:
    for _ in range(2):
        await app.post(mark(), source=None)
    summary = await app.summary()
    assert (summary["events_received"], summary["events_duplicate"], summary["events_lost"]) == (2, 0, 0)


async def test_without_a_time_the_arrival_counts(app: App) -> None:
    app.clock.now += 7
    await app.post(mark())
    assert (await app.spans())[0]["start_time_unix_nano"] == round((START_S + 7) * 1e9)


async def test_a_clock_that_is_wrong_by_decades_is_corrected_by_what_it_says_of_itself(app: App) -> None:
    answer = await app.post(mark(ts=1_000), clock={"offset": START_MS - 1_000, "uncertainty": 20})
    assert answer.status_code == 204
    assert (await app.spans())[0]["start_time_unix_nano"] == round(START_S * 1e9)


@pytest.mark.parametrize(
    ("ts", "offset", "said"),
    [
        (5, 0, "ts: it lies before the year 2000; it is in milliseconds since the epoch"),
        (START_S, 0, "ts: it lies before the year 2000; it is in milliseconds since the epoch"),
        (START_MS, -1e12, "ts: it lies before the year 2000; it is in milliseconds since the epoch"),
        (START_MS, -1e13, "ts: it lies before the year 2000; it is in milliseconds since the epoch"),
        (START_MS + 86_400_001, 0, "ts: it lies more than a day in the future"),
        (START_MS, 1e13, "ts: it lies more than a day in the future"),
        (-5, 0, "ts: expected `float` >= 0.0"),
    ],
)
async def test_an_absurd_time_is_refused_alone(app: App, ts: float, offset: float, said: str) -> None:
    answer = await app.post(mark(), mark(ts=ts), clock={"offset": offset})
    assert answer.json() == {"accepted": 1, "rejected": [{"index": 1, "error": said}]}
    assert len(await app.spans()) == 2


async def test_a_null_error_of_a_tool_is_no_error(app: App) -> None:
    call = {"type": "tool_call", "call_id": "c", "name": "weather"}
    await app.post(call, {"type": "tool_result", "call_id": "c", "result": 21, "error": None})
    assert (await app.summary())["tool_error_count"] == 0


async def test_fifty_posts_at_once_are_all_counted(app: App) -> None:
    async with anyio.create_task_group() as group:
        for seq in range(50):
            group.start_soon(app.post, mark(seq=seq))
    summary = await app.summary()
    assert (summary["events_received"], summary["events_lost"], summary["events_duplicate"]) == (50, 0, 0)


async def test_one_event_fifty_times_at_once_is_one_event(app: App) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(app.post, mark(seq=0))
    summary = await app.summary()
    assert (summary["events_received"], summary["events_duplicate"]) == (1, 49)
    assert len(await app.spans()) == 2


# POST …/end


async def test_end_answers_the_summary_and_says_the_same_again(app: App) -> None:
    await app.post(COMPLETE | {"seq": 0})
    url, end = f"/v1/sessions/{SESSION}/end", {"reason": "agent_hangup", "last_seq": 2, "source": "page"}
    first = await app.client.post(url, json=end)
    assert first.status_code == 200
    told = first.json()
    assert (told["status"], told["end_reason"], told["turn_count"], told["events_lost"]) == (
        "ended",
        "agent_hangup",
        1,
        2,
    )
    app.clock.now += 3600
    await until(lambda: app.rows("SELECT 1 FROM sessions WHERE due IS NULL"))
    assert (await app.client.post(url, json=end)).json() == told
    assert await app.summary() == told


async def test_a_page_ends_its_session_with_its_token_as_a_beacon_sends_it(keyed: App) -> None:
    await keyed.post(mark())
    url, body = f"/v1/sessions/{SESSION}/end", json.dumps({"token": keyed.token()}).encode()
    answer = await keyed.client.post(url, content=body, headers={"content-type": "text/plain"})
    assert (answer.status_code, answer.json()["end_reason"]) == (200, "user_hangup")


async def test_a_page_cannot_end_another_session(keyed: App) -> None:
    await keyed.post(mark())
    answer = await keyed.client.post(f"/v1/sessions/{SESSION}/end", json={"token": keyed.token("another")})
    assert answer.status_code == 403


async def test_the_end_of_an_unknown_session_is_404_for_the_app_and_makes_it_for_its_page(app: App) -> None:
    url = f"/v1/sessions/{SESSION}/end"
    assert (await app.client.post(url)).status_code == 404
    answer = await app.client.post(url, json={"token": app.token()})
    assert (answer.status_code, answer.json()["status"]) == (200, "ended")


@pytest.mark.parametrize("body", [{"reason": ""}, {"reason": 5}, {"last_seq": -1}, {"source": ""}], ids=str)
async def test_a_bad_end_names_the_field(app: App, body: dict[str, Any]) -> None:
    await app.post(mark())
    answer = await app.client.post(f"/v1/sessions/{SESSION}/end", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(f"{next(iter(body))}: ")


# DELETE


async def test_erasure_leaves_nothing_of_a_session(app: App) -> None:
    await app.post(COMPLETE, {"type": "session_end"})
    await app.post(mark(), session_id="neighbour")
    app.clock.now += 60
    await until(lambda: app.rows("SELECT 1 FROM outbox"))
    assert (await app.client.delete(f"/v1/sessions/{SESSION}")).status_code == 204
    assert app.rows("SELECT id FROM sessions") == [("neighbour",)]
    for table in ("log", "outbox", "dead_letters"):
        assert app.rows(f"SELECT 1 FROM {table} WHERE session NOT IN (SELECT no FROM sessions)") == []
    for path in ("", "/spans"):
        assert (await app.client.get(f"/v1/sessions/{SESSION}{path}")).status_code == 404
    assert (await app.client.delete(f"/v1/sessions/{SESSION}")).status_code == 404


# Every answer


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("GET", "/v1/sessions", 200),
        ("POST", "/v1/sessions", 201),
        ("GET", "/v1/sessions/unknown", 404),
        ("GET", "/nowhere", 404),
        ("PUT", "/v1/sessions", 405),
        ("POST", "/v1/sessions/x/events", 400),
        ("GET", "/v1/sessions/%0a", 422),
    ],
)
async def test_every_answer_says_what_time_it_is_here(app: App, method: str, path: str, status: int) -> None:
    app.clock.now += 0.25
    answer = await app.client.request(method, path)
    assert answer.status_code == status
    assert float(answer.headers["x-otel-voice-time"]) == START_MS + 250
    assert status < 400 or isinstance(answer.json()["error"], str)


async def test_a_stranger_is_told_the_time_too(app: App) -> None:
    assert "x-otel-voice-time" in (await app.client.get("/healthz", headers={"host": "evil.example"})).headers


# Too much


@contextmanager
def busy_disk(app: App) -> Iterator[None]:
    """Somebody else holds the database: nothing can be committed."""
    with closing(sqlite3.connect(app.data_dir / FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def limits_of(app: App) -> Limits:
    """The receiver's own: a minute's requests would take the tests as long."""
    inner: Any = app.client._transport
    limits: Limits = inner.app.front._receiver._limits
    return limits


async def limited(limit: Callable[[], None], call: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """The answer once the limit is used up; as it refills, that may have to be done again."""
    for _ in range(100):
        with contextlib.suppress(Rejected):
            while True:
                limit()
        if (answer := await call()).status_code == 429:
            break
    return answer


async def test_whoever_calls_too_often_is_refused_and_nothing_of_it_is_stored(app: App) -> None:
    assert (await app.post(mark(), session_id="busy")).status_code == 204
    before, limit = await app.summary("busy"), lambda: limits_of(app).session("busy")
    end, token = "/v1/sessions/busy/end", {"token": app.token("busy")}
    answer = await limited(limit, lambda: app.client.post(end, json=token | {"reason": "away"}))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert answer.json()["error"].startswith("this session has sent more than 600 requests in a minute")
    answer = await limited(limit, lambda: app.post(session_id="busy"))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert (await app.summary("busy"))["events_received"] == before["events_received"] == 1
    assert (await app.client.post("/v1/sessions/busy/end")).status_code == 200
    assert (await app.post(mark())).status_code == 204


async def test_a_stranger_cannot_use_up_a_sessions_calls(app: App) -> None:
    for _ in range(SESSION_REQUESTS + 50):
        assert (await app.post(mark(), token="no.token.x")).status_code == 401
    assert (await app.post(mark())).status_code == 204


async def test_an_address_that_calls_too_often_is_refused_before_anything_is_read(keyed: App) -> None:
    inner: Any = keyed.client._transport
    from_outside = httpx.ASGITransport(inner.app, client=("192.0.2.7", 5))
    async with httpx.AsyncClient(transport=from_outside, base_url="http://voice.example.com") as client:
        path = f"/v1/sessions/{SESSION}"
        assert (await client.post(f"{path}/events")).status_code == 400
        limit = partial(limits_of(keyed).address, ("192.0.2.7", 1))
        for name in ("events", "end"):
            answer = await limited(limit, partial(client.post, f"{path}/{name}"))
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
            assert answer.json()["error"].startswith("this address has sent more than 6000 requests in a minute")
        assert (await client.post("/v1/sessions", headers=KEY, json={"session_id": SESSION})).status_code == 201
        assert (await client.post(f"{path}/end", headers=KEY)).status_code == 200
    assert (await keyed.post(mark())).status_code == 204


RESERVED = ["langfuse.trace.name", "gen_ai.system", "voice.turn", "session.id", "user.id", "otel.status"]


@pytest.mark.parametrize("name", RESERVED)
async def test_a_reserved_name_is_refused_in_a_mark_and_its_neighbours_are_taken(app: App, name: str) -> None:
    answer = await app.post(mark("a"), mark("b", attributes={name: 1}), mark("c", attributes={f"my.{name}": 1}))
    assert answer.json()["accepted"] == 2
    (rejected,) = answer.json()["rejected"]
    assert rejected["index"] == 1
    assert rejected["error"].startswith(f"attributes: the name '{name}' is reserved")


async def test_too_many_requests_of_one_session_get_429_and_the_others_are_taken(app: App) -> None:
    await app.post(mark())
    answers: list[httpx.Response] = []

    async def post() -> None:
        answers.append(await app.post(mark()))

    async with anyio.create_task_group() as group:
        with busy_disk(app):
            for _ in range(70):
                group.start_soon(post)
            await until(lambda: len(answers) == 6)
    assert [answer.status_code for answer in answers] == [429] * 6 + [204] * 64
    assert answers[0].headers["retry-after"] == "1"
    assert (await app.summary())["events_received"] == 65


async def test_who_would_wait_too_long_is_told_so_early_and_what_was_accepted_before_is_taken(app: App) -> None:
    words = [{"type": "mark", "name": "x", "junk": "y" * 500_000}] * 2
    answers: list[int] = []

    async def post() -> None:
        answers.append((await app.post(*words)).status_code)

    async with anyio.create_task_group() as group:
        with busy_disk(app):
            for _ in range(5):
                group.start_soon(post)
            await until(lambda: app.state.load.is_too_much)
            late, ready = await app.post(mark()), await app.client.get("/readyz")
    assert (late.status_code, late.headers["retry-after"], ready.status_code) == (503, "1", 503)
    assert answers == [204] * 5
    assert (await app.post(mark())).status_code == 204
    assert (await app.client.get("/readyz")).status_code == 200


# Bad bodies: never a 500, and the session goes on


def deep(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def enveloped(events: bytes) -> bytes:
    return b'{"source": "page", "events": ' + events + b"}"


BAD_BODIES: dict[str, tuple[bytes, int]] = {
    "empty": (b"", 400),
    "blank": (b"  \n", 400),
    "no json": (b"hello", 400),
    "truncated": (enveloped(b'[{"type": "mark"')[:-3], 400),
    "two values": (enveloped(b"[]") * 2, 400),
    "trailing text": (enveloped(b"[]") + b" x", 400),
    "a byte order mark": (b"\xef\xbb\xbf" + enveloped(b"[]"), 400),
    "utf-16": (enveloped(b"[]").decode().encode("utf-16"), 400),
    "random bytes": (bytes(range(256)), 400),
    "a number": (b"5", 400),
    "a list": (b"[]", 400),
    "no events": (b'{"source": "page"}', 400),
    "events are null": (enveloped(b"null"), 400),
    "events are an object": (enveloped(b"{}"), 400),
    "events are a text": (enveloped(b'"[]"'), 400),
    "NaN": (enveloped(b'[{"type": "mark", "name": "x", "ts": NaN}]'), 400),
    "Infinity": (enveloped(b'[{"type": "mark", "name": "x", "ts": Infinity}]'), 400),
    "source is empty": (b'{"source": "", "events": []}', 400),
    "source is a number": (b'{"source": 5, "events": []}', 400),
    "source is long": (b'{"source": "' + b"x" * 129 + b'", "events": []}', 400),
    "source is not utf-8": (b'{"source": "\xff", "events": []}', 400),
    "sent_at is negative": (b'{"sent_at": -5, "events": []}', 400),
    "clock is a number": (b'{"clock": 5, "events": []}', 400),
    "clock is absurd": (b'{"clock": {"offset": 1e300}, "events": []}', 400),
    "clock is null": (b'{"clock": {"offset": null}, "events": []}', 400),
    "deep envelope": (deep(100_000), 400),
    "deep beside the events": (b'{"junk": ' + deep(60_000) + b', "events": []}', 400),
    "unclosed": (b"[" * 500_000, 400),
    "unclosed text": (b'"' + b'\\"' * 300_000, 400),
    "too many events": (enveloped(b"[" + b",".join([b"0"] * (MAX_EVENTS + 1)) + b"]"), 413),
    "too long": (enveloped(b"[]") + b" " * BODY_BYTES, 413),
}


@pytest.mark.parametrize(("body", "status"), BAD_BODIES.values(), ids=BAD_BODIES.keys())
async def test_a_bad_body_gets_one_sentence_and_leaves_the_session_alone(app: App, body: bytes, status: int) -> None:
    answer = await app.raw(body, authorization=f"Bearer {app.token()}")
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error.partition(":")[0].split(".")[0] in ("body", "events", "source", "sent_at", "clock")
    assert "\n" not in error
    assert (await app.post(mark())).status_code == 204
    assert (await app.summary())["events_received"] == 1


WHOLE = gzip.compress(enveloped(b"[]"))
BAD_ZIPS: dict[str, tuple[bytes, int]] = {
    "no gzip": (enveloped(b"[]"), 400),
    "truncated": (WHOLE[:-4], 400),
    "header only": (WHOLE[:10], 400),
    "damaged": (WHOLE[:12] + b"\x00\x00" + WHOLE[14:], 400),
    "wrong checksum": (WHOLE[:-8] + b"\x00" * 8, 400),
    "followed by garbage": (WHOLE + b"garbage", 400),
    "followed by another": (WHOLE + WHOLE, 400),
    "a bomb": (gzip.compress(b" " * (INFLATED_BYTES + 1)), 413),
    "a bomb in a bomb": (gzip.compress(gzip.compress(b" " * 50_000_000)), 400),
    "too long as it is": (b"\x1f\x8b" + b"x" * BODY_BYTES, 413),
}


@pytest.mark.parametrize(("body", "status"), BAD_ZIPS.values(), ids=BAD_ZIPS.keys())
async def test_a_bad_gzip_gets_one_sentence(app: App, body: bytes, status: int) -> None:
    answer = await app.raw(body, authorization=f"Bearer {app.token()}", content_encoding="gzip")
    assert answer.status_code == status
    assert answer.json()["error"].startswith("body: ")


async def test_the_largest_body_that_is_allowed_is_taken(app: App) -> None:
    body = json.dumps({"token": app.token(), "events": [mark()]}).encode()
    assert (await app.raw(body + b" " * (BODY_BYTES - len(body)))).status_code == 204
    full = gzip.compress(body + b" " * (INFLATED_BYTES - len(body)))
    assert (await app.raw(full, content_encoding="gzip")).status_code == 204


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"type_": "application/x-www-form-urlencoded"}, "content-type"),
        ({"type_": "multipart/form-data; boundary=x"}, "content-type"),
        ({"type_": ""}, "content-type"),
        ({"type_": "text/plain\x1b[31m"}, "content-type"),
        ({"content_encoding": "br"}, "content-encoding"),
        ({"content_encoding": "gzip, gzip"}, "content-encoding"),
    ],
)
async def test_an_unknown_type_or_encoding_is_415_and_names_the_header(app: App, headers: Any, field: str) -> None:
    body = json.dumps({"token": app.token(), "events": [mark()]}).encode()
    answer = await app.raw(body, **headers)
    assert answer.status_code == 415
    assert answer.json()["error"].startswith(f"{field}: ")


@pytest.mark.parametrize(
    "name", ["a%2Fb", "..%2f..%2fetc%2fpasswd", "a%00b", "%0d%0aset-cookie:x", "a%20b", "%ff", "x" * 129]
)
@pytest.mark.parametrize(("method", "rest"), [("POST", "/events"), ("POST", "/end"), ("GET", ""), ("DELETE", "")])
async def test_an_id_that_is_none_finds_nothing(app: App, name: str, method: str, rest: str) -> None:
    answer = await app.client.request(method, f"/v1/sessions/{name}{rest}")
    assert answer.status_code in (404, 405, 422)
    assert isinstance(answer.json()["error"], str)


async def test_half_an_emoji_costs_neither_its_event_nor_its_neighbours(app: App) -> None:
    texts = ["half \ud83d", "\udc00 half", "whole \U0001f600", r"written \ud83d out"]
    assert (await app.post(*[mark(text) for text in texts])).status_code == 204
    names = [span["name"] for span in await app.spans()]
    assert names == ["half \ufffd", "\ufffd half", "whole \U0001f600", r"written \ud83d out", "voice_session"]


async def test_text_that_is_not_utf_8_is_refused_alone(app: App) -> None:
    wrong = [b'{"type": "mark", "name": "\xff"}', b'{"type": "mark", "name": "x", "junk": "\xff"}']
    events = b"[" + b",".join([b'{"type": "mark", "name": "ok"}', *wrong]) + b"]"
    answer = await app.raw(enveloped(events), authorization=f"Bearer {app.token()}")
    assert answer.json() == {
        "accepted": 1,
        "rejected": [{"index": n, "error": "event: it is not UTF-8"} for n in (1, 2)],
    }


@pytest.mark.parametrize("levels", [70, 900, 1_100, 40_000])
@pytest.mark.parametrize(
    "event",
    [
        b'{"type": "tool_call", "seq": 1, "call_id": "c", "name": "n", "arguments": %s}',
        b'{"type": "tool_result", "seq": 1, "call_id": "c", "result": {"a": %s}}',
        b'{"type": "mark", "seq": 1, "name": "x", "junk": %s}',
        b'{"type": "provider_message", "seq": 1, "provider": "gemini-live", "dir": "received", "message":'
        b' {"toolCall": {"functionCalls": [{"id": "c", "name": "n", "args": {"a": %s}}]}}}',
        b"%s",
    ],
)
async def test_an_event_that_nests_deeply_is_refused_alone(app: App, event: bytes, levels: int) -> None:
    good = json.dumps(mark('ok \\" [[[ ]', seq=0)).encode()
    events = b"[" + good + b"," + event % deep(levels) + b"," + json.dumps(mark(seq=2)).encode() + b"]"
    answer = await app.raw(enveloped(events), authorization=f"Bearer {app.token()}")
    assert answer.json()["accepted"] == 2
    assert [refused["index"] for refused in answer.json()["rejected"]] == [1]
    assert (await app.summary())["events_lost"] == (1 if event == b"%s" else 0)


async def test_a_message_that_tells_of_too_many_things_is_refused_alone_and_long_arguments_are_none(app: App) -> None:
    def cancelled(count: int) -> dict[str, Any]:
        ids = [f"c{n}" for n in range(count)]
        message = {
            "toolCallCancellation": {"ids": ids},
            "toolCall": {"functionCalls": [{"id": "c", "args": {"x": ids}}]},
        }
        return {"type": "provider_message", "provider": "gemini-live", "dir": "received", "message": message}

    many = cancelled(LISTED + 1)
    arguments = {**many, "message": {"toolCall": many["message"]["toolCall"]}}
    answer = await app.post(cancelled(LISTED), many, arguments, mark())
    refused = {"index": 1, "error": f"message: it has a list of more than {LISTED}"}
    assert answer.json() == {"accepted": 3, "rejected": [refused]}


async def test_an_event_that_is_too_large_is_refused_alone(app: App) -> None:
    batch = {"token": app.token(), "events": [mark(seq=0), mark("x", junk="y" * 2**20, seq=1), mark(seq=2)]}
    answer = await app.raw(zipped(batch), content_encoding="gzip")
    assert answer.json() == {"accepted": 2, "rejected": [{"index": 1, "error": "event: at most 1048576 bytes"}]}


async def test_arguments_that_nest_as_far_as_is_allowed_can_be_mapped(app: App) -> None:
    call = b'{"type": "tool_call", "call_id": "c", "name": "n", "arguments": %s}' % deep(63)
    answer = await app.raw(enveloped(b"[" + call + b"]"), authorization=f"Bearer {app.token()}")
    assert answer.status_code == 204
    assert len(await app.spans()) == 3


async def test_control_characters_reach_no_log_line(app: App, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "otel_voice")
    nasty = "a\x00b\r\nforged line\x1b[31m\u2028\u202e"
    await app.post(mark(nasty), {"type": nasty}, source=nasty, session_id="s")
    await app.post(mark(), token=nasty, session_id="s")
    await app.raw(nasty.encode(), session_id="s")
    assert (await app.spans("s"))[0]["name"] == nasty
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("otel_voice")]
    assert not [line for line in ours if not line.isprintable()]


# Over a real socket


def test_a_page_that_goes_away_in_the_middle_of_a_request_does_no_harm(receiver: Callable[..., Receiver]) -> None:
    program = receiver()
    head = f"POST /v1/sessions/x/events HTTP/1.1\r\nHost: 127.0.0.1:{program.port}\r\nContent-Type: text/plain\r\n"
    for rest in ("Content-Length: 1000\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n400\r\nhalf"):
        with socket.create_connection(("127.0.0.1", program.port)) as page:
            page.sendall((head + rest).encode())
    assert httpx.get(f"{program.url}/healthz").status_code == 200
    program.stop()
    assert "Traceback" not in program.output.read_text()


def test_a_body_without_an_end_is_read_no_further_than_the_limit(receiver: Callable[..., Receiver]) -> None:
    program = receiver()
    with httpx.Client(base_url=program.url, trust_env=False) as client:
        made = client.post("/v1/sessions").json()
        headers = {"authorization": f"Bearer {made['token']}", "content-type": "application/json"}
        endless = (b" " * 65_536 for _ in range(400))
        answer = client.post(made["events_url"], content=endless, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (413, f"body: at most {BODY_BYTES} bytes")
        bomb = gzip.compress(b" " * (INFLATED_BYTES + 1))
        answer = client.post(made["events_url"], content=bomb, headers=headers | {"content-encoding": "gzip"})
        assert answer.status_code == 413
        assert client.post(made["events_url"], json={"events": [mark()]}, headers=headers).status_code == 204


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits another process's files")
def test_a_full_disk_is_503_and_heals_by_itself(receiver: Callable[..., Receiver]) -> None:
    program = receiver()
    with httpx.Client(base_url=program.url, trust_env=False) as client:
        made = client.post("/v1/sessions").json()

        def post() -> httpx.Response:
            return client.post(made["events_url"], json={"token": made["token"], "events": [mark("x" * 200)]})

        assert post().status_code == 204
        pid, limits = program.process.pid, resource.prlimit(program.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, limits[1]))
        refused = post()
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
        assert post().status_code == 204
        url = f"/v1/sessions/{made['session_id']}"
        assert client.get(url).json()["events_received"] == 2
