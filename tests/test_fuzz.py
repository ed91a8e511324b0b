"""Anything at all as a batch: the answer is one of the contract's, and whatever was taken can be mapped and read.

FUZZ_EXAMPLES=100000 looks longer than the suite does.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import msgspec
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_voice import events as e
from otel_voice.adapters.allow import ALLOW_LIST
from otel_voice.mapped import made_spans
from otel_voice.otlp import Encoder
from otel_voice.store import Reader
from tests.facts import everything, frames
from tests.running import START_S, App, mark, running

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
CONTRACT = {200, 204, 400, 401, 403, 413, 415, 422}
LARGEST_SPAN = 4 * 2**20  # what a gRPC receiver takes
NOW_MS = START_S * 1000
ENCODER = Encoder({"service.name": "fuzz"}, "0")

texts = st.one_of(
    st.text(max_size=20),
    st.text(st.characters(categories=["Cs", "Cc", "Co"]), max_size=4),
    st.sampled_from(["", "a" * 300, "\x00", "\ud800", "😀", "\r\n\x1b[31m", "1.5s", "9" * 30, "{", '{"a": 1e400}']),
    st.sampled_from(['{"n": ' + "9" * 40 + "}", "[" * 500 + "]" * 500, "[" * 40 + "]" * 40]),
)
numbers = st.one_of(
    st.integers(-5, 5),
    st.integers(-(10**40), 10**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([2**53, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 0.5, 1e308, -0.0, 10**309]),
)
junk = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
ids = st.sampled_from(["a", "b", "c", "page:1", "page:2/1"])
times = st.one_of(
    st.none(),
    st.integers(0, 60).map(lambda second: NOW_MS + second * 1000),
    st.integers(-(10**13), 10**13),
    st.floats(-1e6, 1e6).map(lambda ms: NOW_MS + ms),
)


# The typed events: each of its type's fields holds what it should, or anything

USAGE = st.dictionaries(
    st.sampled_from([field.name for field in msgspec.structs.fields(e.Usage)]), st.integers(0, 2**53), max_size=5
)
PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "seq": st.none() | st.integers(0, 12),
    "ts": times,
    "usage": USAGE,
    "role": st.sampled_from(["user", "agent", "assistant"]),
    "final": st.booleans(),
    "typed": st.booleans(),
    "cancelled": st.booleans(),
    "heard_ms": st.none() | st.integers(0, 10_000),
    "end_reason": st.sampled_from(["completed", "interrupted", "session_closed"]),
    "source": st.sampled_from(["user_speech", "tool_response", "programmatic"]),
    "reason": st.sampled_from(["user_hangup", "page_closed", "error"]),
    "last_seq": st.none() | st.integers(0, 20),
    "attributes": st.dictionaries(texts, texts | numbers | st.booleans() | st.none(), max_size=3),
    "arguments": junk,
    "result": junk,
    "error": junk,
}


def typed(type_: type[e.Event]) -> st.SearchStrategy[Any]:
    fields = {field.name: PLAUSIBLE.get(field.name, ids) for field in msgspec.structs.fields(type_)}
    said = st.fixed_dictionaries({}, optional=fields)
    odd = st.dictionaries(st.sampled_from(sorted(fields)) | texts, junk, max_size=1)
    tag = {"type": type_.__struct_config__.tag}
    return st.tuples(said, st.just({}) | odd).map(lambda parts: {**parts[0], **parts[1], **tag})


# Provider messages: of the allow-list's shapes, and the recorded ones with something exchanged

LEAVES: dict[str, st.SearchStrategy[Any]] = {
    "string": texts | ids | st.sampled_from(["user", "model", "assistant", "function_call", "message", "completed"]),
    "id": ids,
    "boolean": st.booleans(),
    "count": st.integers(0, 2**53),
    "millis": st.integers(0, 100_000),
    "json": junk | texts,
    "marker": st.just({}),
    "alone": st.booleans(),
}
WORDS = {
    "status": st.sampled_from(["completed", "cancelled", "failed", "incomplete", "in_progress"]),
    "reason": st.sampled_from(["turn_detected", "client_cancelled", "max_output_tokens"]),
    "type": st.sampled_from(["message", "function_call", "function_call_output", "mcp_call"]),
    "role": st.sampled_from(["user", "model", "assistant", "system"]),
    "voiceActivityType": st.sampled_from(["ACTIVITY_START", "ACTIVITY_END"]),
    "scheduling": st.sampled_from(["INTERRUPT", "WHEN_IDLE", "SILENT"]),
    "conversation": st.sampled_from(["none", "auto"]),
}


def shaped(shape: Any) -> st.SearchStrategy[Any]:
    if isinstance(shape, str):
        return st.one_of(LEAVES[shape], LEAVES[shape], LEAVES[shape], junk)
    if isinstance(shape, list):
        return st.lists(shaped(shape[0]), max_size=3) | shaped(shape[0])
    fields = {key: WORDS[key] if key in WORDS else shaped(inner) for key, inner in shape.items() if key}
    bare = [fields[shape[""]]] if "" in shape else []
    return st.one_of(st.fixed_dictionaries({}, optional=fields), junk, *bare) if fields else st.just({}) | junk


def said(provider: str, dir_: str) -> st.SearchStrategy[Any]:
    listed = ALLOW_LIST[provider]
    if provider == "gemini-live":
        messages = [shaped({key: shape}) for key, shape in listed[dir_].items()]
        both = st.tuples(st.one_of(messages), st.one_of(messages)).map(
            lambda two: {**two[0], **two[1]} if all(isinstance(each, dict) for each in two) else two[0]
        )
        return st.one_of([*messages, both])
    names = [*listed[dir_], *(alias for alias, name in listed["aliases"].items() if name in listed[dir_])]
    return st.one_of([named(name, shaped(listed[dir_][listed["aliases"].get(name, name)])) for name in names])


def named(name: str, messages: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return messages.map(lambda message: {**message, "type": name} if isinstance(message, dict) else message)


def provided(provider: str, dir_: str) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {"message": said(provider, dir_)}, optional={"seq": st.none() | st.integers(0, 12), "ts": times}
    ).map(lambda event: {"type": "provider_message", "provider": provider, "dir": dir_, **event})


RECORDED = [(provider, frame) for provider, path in everything() for frame in frames(path)]


def paths(value: Any) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [()] + [(key, *rest) for key, each in inner for rest in paths(each)]


def exchanged(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    if not path:
        return by
    copied = value.copy()
    copied[path[0]] = exchanged(value[path[0]], path[1:], by)
    return copied


@st.composite
def recorded(draw: Callable[..., Any]) -> Any:
    provider, frame = draw(st.sampled_from(RECORDED))
    message = frame["message"]
    for _ in range(draw(st.integers(0, 2))):
        if isinstance(message, dict):
            message = exchanged(message, draw(st.sampled_from(paths(message))), draw(junk | ids))
    return {"type": "provider_message", "provider": provider, "dir": frame["dir"], "message": message}


@st.composite
def stretch(draw: Callable[..., Any]) -> Any:
    """A few frames of one recording in a row, some left out, some exchanged."""
    provider, path = draw(st.sampled_from(everything()))
    lines = frames(path)
    first = draw(st.integers(0, len(lines) - 1))
    events = []
    for n, frame in enumerate(lines[first : first + draw(st.integers(1, 25))]):
        message = frame["message"]
        if draw(st.integers(0, 5)) == 0 and isinstance(message, dict):
            message = exchanged(message, draw(st.sampled_from(paths(message))), draw(junk | ids))
        dir_ = frame["dir"]
        events.append({"type": "provider_message", "provider": provider, "dir": dir_, "message": message, "seq": n})
    return events


EVENTS = st.one_of(
    *[typed(type_) for type_ in e.WireEvent.__args__ if type_ is not e.ProviderMessage],
    *[provided(provider, dir_) for provider in ALLOW_LIST for dir_ in ("sent", "received")],
    recorded(),
)
BATCHES = st.fixed_dictionaries(
    {"events": st.lists(EVENTS | junk, max_size=12) | st.lists(EVENTS, min_size=3, max_size=25) | stretch()},
    optional={
        "source": st.sampled_from(["page", "other"]) | texts,
        "clock": st.fixed_dictionaries({"offset": st.integers(-(10**13), 10**13)}) | st.just({"offset": 1500}),
        "sent_at": times,
    },
)


@st.composite
def damaged(draw: Callable[..., Any]) -> bytes:
    """A batch's bytes with a few of them exchanged, or cut off."""
    body = bytearray(json.dumps(draw(BATCHES)).encode())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 3))] = draw(
            st.binary(max_size=3) | st.sampled_from([b'"', b"[", b"]", b"}", b",", b"\xff"])
        )
    return bytes(body[: draw(st.integers(0, len(body)))] if draw(st.booleans()) else body)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BlockingPortal, App]]:
    with start_blocking_portal() as portal:
        data_dir = tmp_path_factory.mktemp("data")
        with portal.wrap_async_context_manager(running(data_dir, synchronous="NORMAL")) as app:
            yield portal, app


class Session:
    """A session of its own, told to the app, then read in every way there is."""

    def __init__(self, portal: BlockingPortal, app: App) -> None:
        self.portal, self.app, self.id = portal, app, str(uuid.uuid4())
        # So that time does all it does to a session to those before it.
        app.clock.now += 60

    def post(self, body: bytes, **headers: str) -> int:
        token = f"Bearer {self.app.token(self.id)}"
        answer = self.portal.call(lambda: self.app.raw(body, self.id, authorization=token, **headers))
        assert answer.status_code in CONTRACT, answer.text
        if answer.status_code >= 400 and answer.status_code != 422:
            assert isinstance(answer.json()["error"], str)
        return answer.status_code

    def read(self) -> None:
        assert self.post(json.dumps({"source": "last", "events": [mark()]}).encode()) == 204
        assert self.portal.call(lambda: self.app.summary(self.id))["session_id"] == self.id
        spans = self.portal.call(lambda: self.app.spans(self.id))
        assert len([span for span in spans if not span.get("parent_span_id")]) == 1
        with closing(Reader(self.app.data_dir)) as reader:
            assert all(len(ENCODER.request(span)) < LARGEST_SPAN for span in made_spans(reader, self.id, True) or [])


bounded = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


@bounded
@given(body=st.binary(max_size=200) | damaged(), zipped=st.sampled_from(["no", "yes", "lie"]))
def test_any_bytes_get_an_answer_of_the_contract_and_do_the_session_no_harm(
    app: tuple[BlockingPortal, App], caplog: pytest.LogCaptureFixture, body: bytes, zipped: str
) -> None:
    session = Session(*app)
    if zipped == "no":
        session.post(body)
    else:
        session.post(gzip.compress(body) if zipped == "yes" else body, content_encoding="gzip")
    session.read()
    assert not loud(caplog)


@bounded
@given(batches=st.lists(BATCHES, min_size=1, max_size=3))
def test_whatever_is_taken_can_be_mapped(
    app: tuple[BlockingPortal, App], caplog: pytest.LogCaptureFixture, batches: list[Any]
) -> None:
    session = Session(*app)
    for batch in batches:
        session.post(json.dumps(batch).encode())
    session.read()
    assert not loud(caplog)


def loud(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
