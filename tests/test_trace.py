"""Spans as Langfuse and the conventions read them, and every recording there is through the whole mapping."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from otel_voice import events as e
from otel_voice import semconv as s
from otel_voice.chat import TEXT_LIMIT, text_of
from otel_voice.recording import Recording
from otel_voice.session import Session
from otel_voice.spans import Span
from otel_voice.usage import disjoint
from tests.facts import RECORDINGS, everything

ALL = [pytest.param(provider, path, id=path.stem) for provider, path in everything()]


def spans_of(provider: Any, path: Path) -> list[Span]:
    return Recording(path, provider).session().take()


def own(name: str) -> list[Span]:
    provider = "openai-realtime" if name.startswith("openai") else "gemini-live"
    return spans_of(provider, RECORDINGS / f"{name}.jsonl")


def started(spans: list[Span], name: str) -> list[Span]:
    return sorted((span for span in spans if span.name.startswith(name)), key=lambda span: span.start_time_unix_nano)


# Usage


def test_openai_tokens_are_counted_once_for_langfuse() -> None:
    usage = e.Usage(
        input_tokens=100,
        output_tokens=50,
        input_text_tokens=60,
        input_audio_tokens=40,
        cached_tokens=30,
        cached_text_tokens=20,
        cached_audio_tokens=10,
        output_text_tokens=15,
        output_audio_tokens=35,
        reasoning_tokens=5,
    )
    assert disjoint(usage, "openai") == {
        "input_text_tokens": 40,
        "input_audio_tokens": 30,
        "input_cached_text_tokens": 20,
        "input_cached_audio_tokens": 10,
        "output_text_tokens": 15,
        "output_audio_tokens": 35,
    }


def test_cached_tokens_that_are_neither_text_nor_audio_are_of_images() -> None:
    usage = e.Usage(
        input_tokens=1000,
        input_text_tokens=200,
        input_audio_tokens=300,
        input_image_tokens=500,
        cached_tokens=640,
        cached_text_tokens=128,
        cached_audio_tokens=256,
    )
    details = disjoint(usage, "openai")
    assert (details["input_image_tokens"], details["input_cached_image_tokens"]) == (244, 256)
    assert sum(details.values()) == 1000


def test_geminis_thoughts_are_text_that_lies_outside_the_details() -> None:
    usage = e.Usage(
        input_tokens=1131, input_text_tokens=1131, output_tokens=50, output_audio_tokens=26, reasoning_tokens=24
    )
    assert disjoint(usage, "gcp.gemini") == {"input_text": 1131, "output_text": 24, "output_audio": 26}


def test_tokens_that_no_detail_explains_are_not_dropped() -> None:
    assert disjoint(e.Usage(input_tokens=10, input_text_tokens=4), "gcp.gemini") == {"input_text": 4, "input": 6}
    assert disjoint(e.Usage(input_tokens=10, output_tokens=2), "openai") == {"input": 10, "output": 2}


_count = st.none() | st.integers(0, 10**6)


@given(st.builds(e.Usage, **{name: _count for name in s.USAGE_KEYS}), st.sampled_from(["openai", "gcp.gemini", ""]))
def test_langfuse_gets_whole_numbers_that_are_not_negative(usage: e.Usage, provider: str) -> None:
    for count in disjoint(usage, provider).values():
        assert isinstance(count, int) and count > 0


@given(st.integers(0, 999), st.integers(0, 999), st.integers(0, 999), st.integers(0, 999), st.data())
def test_the_disjoint_counts_add_up_to_the_totals(
    text: int, audio: int, out_text: int, out_audio: int, data: Any
) -> None:
    cached_text, cached_audio = data.draw(st.integers(0, text)), data.draw(st.integers(0, audio))
    usage = e.Usage(
        input_tokens=text + audio,
        output_tokens=out_text + out_audio,
        input_text_tokens=text,
        input_audio_tokens=audio,
        cached_tokens=cached_text + cached_audio,
        cached_text_tokens=cached_text,
        cached_audio_tokens=cached_audio,
        output_text_tokens=out_text,
        output_audio_tokens=out_audio,
    )
    assert sum(disjoint(usage, "openai").values()) == text + audio + out_text + out_audio


def test_usage_is_on_the_response_and_its_sum_on_the_root_but_not_for_langfuse() -> None:
    spans = own("openai_tool_round")
    responses, (root,) = started(spans, "generate_content"), started(spans, "voice_session")
    details = [json.loads(str(span.attributes[s.OBSERVATION_USAGE])) for span in responses]
    assert len(details) == 2 and all(details)
    assert root.attributes[s.INPUT_TOKENS] == sum(int(str(span.attributes[s.INPUT_TOKENS])) for span in responses)
    assert s.OBSERVATION_USAGE not in root.attributes and s.OPERATION_NAME not in root.attributes
    for turn in started(spans, "invoke_agent"):
        assert s.INPUT_TOKENS not in turn.attributes and s.REQUEST_MODEL not in turn.attributes


# Kinds and names


@pytest.mark.parametrize(
    ("name", "kind", "operation", "type_"),
    [
        ("voice_session", "INTERNAL", None, "span"),
        ("invoke_agent", "INTERNAL", "invoke_agent", "agent"),
        ("generate_content gpt-realtime", "CLIENT", "generate_content", "generation"),
        ("execute_tool ", "INTERNAL", "execute_tool", "tool"),
        ("user_speech", "INTERNAL", None, "span"),
    ],
)
def test_each_span_is_what_the_conventions_and_langfuse_take_it_for(
    name: str, kind: str, operation: str | None, type_: str
) -> None:
    for span in started(own("openai_tool_round") + own("openai_spoken_turn"), name):
        assert span.kind == kind
        assert span.attributes.get(s.OPERATION_NAME) == operation
        assert span.attributes[s.OBSERVATION_TYPE] == type_


def test_a_barge_in_over_webrtc_says_how_much_was_heard() -> None:
    (first, second) = started(own("openai_barge_in_while_playing"), "invoke_agent")
    assert first.attributes[s.INTERRUPTION_SOURCE] == "user_speech"
    assert first.attributes[s.AGENT_END_REASON] == "interrupted"
    assert 0 < float(str(first.attributes[s.PLAYOUT_POSITION])) < 10
    assert second.attributes[s.AGENT_END_REASON] == "completed"


def test_latency_over_webrtc_ends_when_the_playback_begins() -> None:
    spans = own("openai_spoken_turn")
    (turn,), (speech,), playback = (
        started(spans, "invoke_agent"),
        started(spans, "user_speech"),
        started(spans, "agent_speech"),
    )
    heard = playback[0].start_time_unix_nano if playback else None
    if heard is not None:
        assert turn.attributes[s.LATENCY] == pytest.approx((heard - speech.end_time_unix_nano) / 1e9)


def test_latency_of_push_to_talk_begins_where_the_input_was_committed() -> None:
    (turn,) = started(own("openai_push_to_talk"), "invoke_agent")
    assert 0 < float(str(turn.attributes[s.LATENCY])) < 10


def test_words_that_come_turns_later_reach_their_turn_and_make_it_no_longer() -> None:
    spans = own("openai_words_turns_later")
    turns = started(spans, "invoke_agent")
    said = [json.loads(str(turn.attributes.get(s.OBSERVATION_INPUT, "[{}]")))[0].get("content") for turn in turns]
    assert said == ["First?", None, "Third?"]
    for turn, following in pairwise(turns):
        assert turn.end_time_unix_nano <= following.start_time_unix_nano
    (root,) = started(spans, "voice_session")
    messages = json.loads(str(root.attributes[s.OBSERVATION_INPUT]))
    assert [message["content"] for message in messages] == ["First?", "Answer 1.", "Answer 2.", "Third?"]


def test_a_failed_response_says_what_failed() -> None:
    failed = [span for span in started(own("openai_failed_and_asked_again"), "generate_content") if span.status_message]
    assert [(span.attributes[s.ERROR_TYPE], span.attributes[s.FINISH_REASONS]) for span in failed] == [
        ("rate_limit_exceeded", ["error"])
    ] * 2


def test_what_happens_between_turns_is_the_sessions() -> None:
    spans = own("gemini_connected_again")
    during, between = started(spans, "go_away")
    (root,), turns = started(spans, "voice_session"), started(spans, "invoke_agent")
    assert (during.parent_span_id, between.parent_span_id) == (turns[0].span_id, root.span_id)


def test_the_constants_are_langfuses_own() -> None:
    attributes = pytest.importorskip("langfuse").LangfuseOtelSpanAttributes
    theirs = {value for name, value in vars(attributes).items() if name.isupper() and isinstance(value, str)}
    ours = {value for value in vars(s).values() if isinstance(value, str) and value.startswith("langfuse.")}
    assert ours <= theirs


def test_no_text_makes_a_span_larger_than_a_receiver_takes() -> None:
    assert len(text_of("x" * 10**6)) < TEXT_LIMIT + 100
    assert text_of({"a": 1}) == '{"a":1}'


def test_an_error_code_is_cut_however_long_a_provider_makes_it() -> None:
    failed = {"type": "error", "error": {"message": "No.", "code": "c" * 10**6}}
    said = {"type": "provider_message", "provider": "openai-realtime", "dir": "received", "message": failed}
    session = Session("s")
    session.apply(e.Accepted([Raw(json.dumps(said).encode())]), at=0.0)
    session.advance(float("inf"))
    (error,) = started(session.take(), "error")
    assert len(str(error.attributes[s.ERROR_TYPE])) < TEXT_LIMIT + 100


# Every recording


@pytest.mark.parametrize(("provider", "path"), ALL)
def test_a_recording_is_one_tree_of_spans_with_ids_of_their_own(provider: Any, path: Path) -> None:
    spans = spans_of(provider, path)
    ids = {span.span_id for span in spans}
    assert len(ids) == len(spans)
    assert [span.name for span in spans if not span.parent_span_id] == ["voice_session"]
    assert {span.parent_span_id for span in spans} <= ids | {""}
    for span in spans:
        assert span.start_time_unix_nano <= span.end_time_unix_nano


@pytest.mark.parametrize(("provider", "path"), ALL)
def test_a_recordings_messages_are_chats_of_role_and_content(provider: Any, path: Path) -> None:
    allowed = {"role", "content", "tool_calls", "tool_call_id"}
    for span in spans_of(provider, path):
        if span.name.split()[0] in ("voice_session", "invoke_agent", "generate_content"):
            for key in (s.OBSERVATION_INPUT, s.OBSERVATION_OUTPUT):
                for message in json.loads(str(span.attributes.get(key, "[]"))):
                    assert message.keys() <= allowed and {"role", "content"} <= message.keys()


@pytest.mark.parametrize(("provider", "path"), ALL)
def test_a_recording_in_any_order_within_the_settle_time_gives_the_same_spans(provider: Any, path: Path) -> None:
    recording = Recording(path, provider)
    expected = sorted(recording.session().take(), key=lambda span: span.span_id)
    luck = random.Random(7)
    log: list[tuple[float, e.Record]] = [
        ((event.ts or 0) + luck.uniform(0, 1_999), e.Accepted([Raw(e.encode(event))], source="replay"))
        for event in recording.events
        for _ in "ab"
    ]
    log.append((recording.end, e.Ended("recording_ended", len(recording.events) - 1, "replay")))
    session = Session(recording.id)
    for at, record in sorted(log, key=lambda arrival: arrival[0]):
        session.apply(record, at)
    session.advance(float("inf"))
    assert sorted(session.take(), key=lambda span: span.span_id) == expected


def test_spans_of_a_session_that_runs_are_those_so_far_marked_open() -> None:
    recording = Recording(RECORDINGS / "openai_tool_round.jsonl", "openai-realtime")
    session = Session("live")
    half = recording.events[: len(recording.events) // 2]
    session.apply(e.Accepted([Raw(e.encode(event)) for event in half], source="page"), at=half[-1].ts or 0)
    before = msgspec.json.encode(session.so_far())
    spans, summary = session.so_far()
    assert summary.status == "open" and all(span.open for span in spans)
    assert msgspec.json.encode(session.so_far()) == before, "looking changes nothing"


# What a span may hold, and what a turn's spans may together


def spans_told(*lines: Any) -> list[Span]:
    session = Session("long")
    session.apply(e.Accepted([Raw(msgspec.json.encode({"seq": n, **line})) for n, line in enumerate(lines)]), at=1e12)
    session.advance(float("inf"))
    return session.take()


def tools(n: int, result: str) -> list[Any]:
    calls = [{"type": "tool_call", "call_id": f"c{i}", "name": "look", "turn_id": "t"} for i in range(n)]
    return calls + [{"type": "tool_result", "call_id": f"c{i}", "result": result} for i in range(n)]


def test_a_response_that_answers_many_tools_tells_of_the_last_ones() -> None:
    spans = spans_told(*tools(120, "x" * 60_000), {"type": "response_start", "response_id": "r", "turn_id": "t"})
    (response,) = started(spans, "generate_content")
    given = str(response.attributes[s.OBSERVATION_INPUT])
    assert len(given) < 512 * 1024
    assert json.loads(given)[-1]["tool_call_id"] == "c119"


def test_a_response_that_calls_many_tools_tells_of_the_last_ones() -> None:
    called = [{**line, "arguments": "y" * 60_000} for line in tools(120, "x")[:120]]
    spans = spans_told({"type": "response_start", "response_id": "r", "turn_id": "t"}, *called)
    (response,) = started(spans, "generate_content")
    assert len(str(response.attributes[s.OUTPUT_MESSAGES])) < 512 * 1024


def test_a_single_tool_is_told_of_however_long_it_is() -> None:
    spans = spans_told(*tools(1, "\x00" * 100_000), {"type": "response_start", "response_id": "r", "turn_id": "t"})
    (response,) = started(spans, "generate_content")
    assert "\\u0000" in str(response.attributes[s.OBSERVATION_INPUT])


def test_what_the_responses_of_a_turn_repeat_is_bounded() -> None:
    responses = [{"type": "response_start", "response_id": f"r{i}", "turn_id": "t"} for i in range(900)]
    asked = {"type": "transcript", "role": "user", "text": "x" * 60_000, "turn_id": "t"}
    said = {"type": "transcript", "role": "agent", "text": "Yes.", "turn_id": "t", "response_id": "r899"}
    spans = started(spans_told(asked, *responses, said), "generate_content")
    assert len(spans) == 900
    assert s.OBSERVATION_INPUT in spans[0].attributes
    assert "Yes." in str(spans[-1].attributes[s.OBSERVATION_OUTPUT])
    assert sum(len(str(span.attributes)) for span in spans) < 6 * 1024 * 1024
