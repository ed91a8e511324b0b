"""What Langfuse gets of whole calls, field by field as version 4 reads it: receiver -> collector -> its path.

What is expected comes from the recordings, not from the mapping.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.calls import Chain, Played, chain, each_call
from tests.real import wait_for
from tests.test_collector_config import LANGFUSE
from tests.test_end_to_end import otel_voice, received

pytestmark = pytest.mark.components

CALLER = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
# What the app says of each session.
METADATA = {"plan": "gold", "seats": 3, "trial": False}
SESSION = {
    "user_id": "u-17",
    "agent_name": "concierge",
    "tags": ["voice", "beta"],
    "metadata": METADATA,
    "environment": "staging",
    "traceparent": CALLER,
}
RESOURCE = {"OTEL_RESOURCE_ATTRIBUTES": "service.version=1.4.0,langfuse.release=2026-11"}
TYPES = {
    "voice_session": "span",
    "invoke_agent": "agent",
    "generate_content": "generation",
    "execute_tool": "tool",
    "user_speech": "span",
    "agent_speech": "span",
}
OPERATIONS = {"agent": "invoke_agent", "generation": "generate_content", "tool": "execute_tool"}
OPENAI_USAGE = {
    "input_text_tokens",
    "input_audio_tokens",
    "input_cached_text_tokens",
    "input_cached_audio_tokens",
    "output_text_tokens",
    "output_audio_tokens",
}
GEMINI_USAGE = {"input_text", "input_audio", "output_text", "output_audio"}
# Where a provider tells no modality.
UNSPLIT_USAGE = {"input", "output"}


@pytest.fixture(scope="module")
def playing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with chain(tmp_path_factory.mktemp("langfuse"), RESOURCE, {"OTEL_VOICE_COLLECTOR_EXPORTERS": LANGFUSE}) as playing:
        yield playing


@pytest.fixture(scope="module")
def calls(playing: Chain) -> dict[Path, Played]:
    return playing.play_all(**SESSION)


@pytest.fixture
def call(calls: dict[Path, Played], file: Path) -> Played:
    return calls[file]


def told(span: Span) -> dict[str, Any]:
    return received(span).attributes


def of_type(call: Played, type_: str) -> list[Span]:
    """By start."""
    found = [span for span in call.spans if told(span)["langfuse.observation.type"] == type_]
    return sorted(found, key=lambda span: span.start_time_unix_nano)


def root_of(call: Played) -> Span:
    (root,) = [span for span in call.spans if not span.parent_span_id]
    return root


def ms(nanos: int) -> int:
    """As Langfuse cuts it."""
    return nanos // 1_000_000


# What a recording says


def frames(call: Played) -> list[tuple[float | None, dict[str, Any]]]:
    """A provider's messages with their times (ms), or a page's own events."""
    return [(line.get("ts"), line["message"] if "dir" in line else line) for line in call.lines]


def functions(message: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What Gemini calls, and what it is answered."""
    answers = message.get("toolResponse") or message.get("tool_response") or {}
    return message.get("toolCall", {}).get("functionCalls", []), answers.get("functionResponses", [])


def outcome_of(response: Any) -> Any:
    """An answer of Gemini's is an object, whose `error`, where there is one, is what went wrong."""
    return response.get("error", response) if isinstance(response, dict) else response


def tools_of(call: Played) -> dict[str, dict[str, Any]]:
    """By call id: the name, arguments, result and the times of both, as the recording has them."""
    tools: dict[str, dict[str, Any]] = {}
    for at, message in frames(call):
        item, (called, answered) = message.get("item", {}), functions(message)
        if message.get("type") in ("response.function_call_arguments.done", "tool_call"):
            arguments = message["arguments"]
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
            tools[message["call_id"]] = {"arguments": arguments, "from": at, "name": message.get("name")}
        if message.get("type") == "response.output_item.done" and message["item"]["type"] == "function_call":
            tools[item["call_id"]]["name"] = item["name"]
        if message.get("type") == "conversation.item.create" and item.get("type") == "function_call_output":
            tools[item["call_id"]] |= {"result": item["output"], "to": at}
        if message.get("type") == "tool_result":
            tools[message["call_id"]] |= {"result": message.get("result"), "to": at}
            tools[message["call_id"]]["cancelled"] = message.get("cancelled", False)
        for each in called:
            tools[each["id"]] = {"arguments": each["args"], "from": at, "name": each["name"]}
        for id_ in message.get("toolCallCancellation", {}).get("ids", []):
            tools[id_] |= {"cancelled": True, "to": at}
        for each in answered:
            failed = "error" in each["response"]
            tools[each["id"]] = {
                **{"result": outcome_of(each["response"]), "to": at, "failed": failed},
                **tools[each["id"]],
            }
    return tools


def user_texts(call: Played) -> list[str]:
    """Spoken and typed, as they came, in pieces or whole."""
    found: list[str | None] = []
    for _, message in frames(call):
        kind, item = message.get("type"), message.get("item", {})
        typed = message.get("clientContent") or message.get("client_content") or {}
        found += [part["text"] for turn in typed.get("turns", []) for part in turn["parts"]]
        found.append(message.get("realtimeInput", {}).get("text"))
        found.append(message.get("serverContent", {}).get("inputTranscription", {}).get("text"))
        if kind == "conversation.item.create" and item.get("role") == "user":
            found += [part["text"] for part in item["content"]]
        if kind == "conversation.item.input_audio_transcription.completed":
            found.append(message["transcript"])
        if kind == "transcript" and message["role"] == "user":
            found.append(message["text"])
    return [text for text in found if text]


def agent_texts(call: Played) -> list[str]:
    found: list[str | None] = []
    for _, message in frames(call):
        found.append(message.get("serverContent", {}).get("outputTranscription", {}).get("text"))
        for item in message["response"]["output"] if message.get("type") == "response.done" else []:
            found += [part.get("transcript") or part.get("text") for part in item.get("content", [])]
        if message.get("type") == "transcript" and message["role"] == "agent":
            found.append(message["text"])
    return [text for text in found if text]


def squeezed(texts: list[str]) -> str:
    """Pieces and wholes compare without their blanks, and without the mark of what was not heard any more."""
    return re.sub(r"[\s…]", "", "".join(texts))


def interruptions_in(call: Played) -> int:
    told = [message for _, message in frames(call)]
    gemini = [message for message in told if message.get("serverContent", {}).get("interrupted")]
    others = [message for message in told if message.get("type") in ("output_audio_buffer.cleared", "interrupted")]
    return len(gemini) + len(others)


def usage_of(call: Played) -> list[dict[str, int]]:
    """Of each response that told its tokens, in order: under the names that Langfuse prices, each token once."""
    found = []
    for _, message in frames(call):
        if message.get("type") == "response.done" and message["response"].get("usage"):
            found.append(openai_usage(message["response"]["usage"]))
        if "usageMetadata" in message:
            found.append(gemini_usage(message["usageMetadata"]))
        if message.get("type") == "response_end" and "usage" in message:
            usage = message["usage"]
            audio = {way: usage[f"{way}_audio_tokens"] for way in ("input", "output")}
            rest = {way: usage[f"{way}_tokens"] - audio[way] for way in ("input", "output")}
            found.append({"input_audio": audio["input"], "output_audio": audio["output"], **rest})
    return [{name: count for name, count in usage.items() if count} for usage in found]


def openai_usage(usage: dict[str, Any]) -> dict[str, int]:
    given, got = usage.get("input_token_details"), usage.get("output_token_details")
    if given is None or got is None:
        return {"input": usage["input_tokens"], "output": usage["output_tokens"]}
    cached = given["cached_tokens_details"]
    return {
        "input_text_tokens": given["text_tokens"] - cached["text_tokens"],
        "input_audio_tokens": given["audio_tokens"] - cached["audio_tokens"],
        "input_cached_text_tokens": cached["text_tokens"],
        "input_cached_audio_tokens": cached["audio_tokens"],
        "output_text_tokens": got["text_tokens"],
        "output_audio_tokens": got["audio_tokens"],
    }


def gemini_usage(usage: dict[str, Any]) -> dict[str, int]:
    """Thoughts are text, and lie outside the details and the response's total."""
    counted = Counter[str]()
    for way, name in (("input", "prompt"), ("output", "response")):
        for detail in usage.get(f"{name}TokensDetails", []):
            counted[f"{way}_{detail['modality'].lower()}"] += detail["tokenCount"]
        counted[way] += usage[f"{name}TokenCount"] - sum(n for key, n in counted.items() if key.startswith(way))
    counted["output_text"] += usage.get("thoughtsTokenCount", 0)
    return counted


# Whose it is


@each_call
def test_every_span_names_session_user_trace_tags_and_metadata(call: Played) -> None:
    for span in call.spans:
        attributes = told(span)
        assert span.trace_id.hex() == call.trace_id
        assert attributes["session.id"] == attributes["gen_ai.conversation.id"] == call.session_id
        assert attributes["user.id"] == "u-17"
        assert attributes["langfuse.trace.name"] == "concierge"
        assert attributes["langfuse.trace.tags"] == ["voice", "beta"]
        metadata = {key: value for key, value in attributes.items() if key.startswith("langfuse.trace.metadata.")}
        assert metadata == {f"langfuse.trace.metadata.{key}": value for key, value in METADATA.items()}


@each_call
def test_the_environment_is_one_that_langfuse_keeps(call: Played) -> None:
    for span in call.spans:
        environment = told(span)["langfuse.environment"]
        assert environment == "staging"
        assert re.fullmatch(r"[a-z0-9-_]{1,40}", environment)


def test_version_and_release_are_the_resources(calls: dict[Path, Played], playing: Chain) -> None:
    assert calls
    for request in playing.langfuse.requests:
        for resource in request.export.resource_spans:
            said = {each.key: each.value.string_value for each in resource.resource.attributes}
            assert said == {
                "service.name": "otel_voice",
                "service.version": "1.4.0",
                "langfuse.release": "2026-11",
            }


# What it is


@each_call
def test_each_span_has_its_type_in_lower_case_and_the_operation_that_means_the_same(call: Played) -> None:
    for span in call.spans:
        attributes = told(span)
        type_ = attributes["langfuse.observation.type"]
        assert type_ == TYPES.get(span.name.split()[0], "event")
        assert attributes.get("gen_ai.operation.name") == OPERATIONS.get(type_)


@each_call
def test_only_a_tool_is_named_by_a_tool_and_by_its_own(call: Played) -> None:
    tools = {span.name: told(span)["gen_ai.tool.name"] for span in of_type(call, "tool")}
    assert sorted(tools.values()) == sorted({tool["name"] for tool in tools_of(call).values()})
    assert all(name == f"execute_tool {tool}" for name, tool in tools.items())
    assert all("gen_ai.tool.name" not in told(span) for span in call.spans if span.name not in tools)


@each_call
def test_the_root_arrives_and_no_span_is_an_orphan(call: Played) -> None:
    assert root_of(call).name == "voice_session"
    ids = {span.span_id for span in call.spans}
    assert len(ids) == len(call.spans)
    assert all(span.parent_span_id in ids for span in call.spans if span.parent_span_id)


# What was said


@each_call
def test_every_value_is_a_plain_one(call: Played) -> None:
    """A dict or bytes would become raw OTLP JSON."""
    plain = {"string_value", "bool_value", "int_value", "double_value"}
    for span in call.spans:
        for attribute in span.attributes:
            kind = attribute.value.WhichOneof("value")
            kinds = {item.WhichOneof("value") for item in attribute.value.array_value.values} or {kind}
            assert kinds <= plain, attribute.key


@each_call
def test_what_is_said_is_chat_of_role_and_content_and_tool_calls_only(call: Played) -> None:
    seen = set()
    for span in call.spans:
        attributes = told(span)
        if attributes["langfuse.observation.type"] not in ("agent", "generation") and span != root_of(call):
            continue
        for key in ("langfuse.observation.input", "langfuse.observation.output"):
            for message in json.loads(attributes.get(key, "[]")):
                seen.add(message["role"])
                assert_is_chat(message)
    assert seen <= {"system", "user", "assistant", "tool"}
    assert seen >= {"tool"} or not any("result" in tool for tool in tools_of(call).values())


def assert_is_chat(message: dict[str, Any]) -> None:
    assert isinstance(message["content"], str)
    assert set(message) <= {"role", "content", "tool_calls", "tool_call_id"}
    for each in message.get("tool_calls", []):
        assert set(each) == {"id", "type", "function"}
        assert set(each["function"]) == {"name", "arguments"}
        assert all(isinstance(text, str) for text in [*each["function"].values(), each["id"]])
    assert isinstance(message.get("tool_call_id", ""), str)


@each_call
def test_the_root_tells_the_whole_conversation(call: Played) -> None:
    """It is the trace's input and output."""
    assert squeezed(said_by("user", [root_of(call)])) == squeezed(user_texts(call))
    assert said_by("assistant", [root_of(call)]) == said_by("assistant", of_type(call, "agent"))
    assert "langfuse.trace.input" not in told(root_of(call))


def said_by(role: str, spans: list[Span]) -> list[str]:
    """In their inputs and outputs."""
    keys = ("langfuse.observation.input", "langfuse.observation.output")
    messages = [each for span in spans for key in keys for each in json.loads(told(span).get(key, "[]"))]
    return [each["content"] for each in messages if each["role"] == role and each["content"]]


@each_call
def test_turns_and_responses_say_what_the_user_said_and_what_the_agent_answered(call: Played) -> None:
    assert squeezed(said_by("user", of_type(call, "agent"))) == squeezed(user_texts(call))
    for spans in (of_type(call, "agent"), of_type(call, "generation")):
        answers = said_by("assistant", spans)
        # Of an answer that was cut, only what was heard.
        assert all(squeezed([answer]) in squeezed(agent_texts(call)) for answer in answers)
        assert interruptions_in(call) or squeezed(answers) == squeezed(agent_texts(call))


@each_call
def test_a_tools_input_and_output_are_what_it_was_given_and_gave(call: Played) -> None:
    spans = {told(span)["gen_ai.tool.call.id"]: told(span) for span in of_type(call, "tool")}
    tools = tools_of(call)
    assert set(spans) == set(tools)
    for id_, tool in tools.items():
        assert json.loads(spans[id_]["langfuse.observation.input"]) == tool["arguments"]
        output: str | None = spans[id_].get("langfuse.observation.output")
        if tool.get("cancelled") or "result" not in tool:
            assert output is None
        elif isinstance(tool["result"], str):
            assert output == tool["result"]
        else:
            assert json.loads(output or "") == tool["result"]


# Tokens


@each_call
def test_each_response_carries_its_tokens_once_and_disjoint(call: Played) -> None:
    spans = [told(span) for span in of_type(call, "generation")]
    usage = [
        span["langfuse.observation.usage_details"] for span in spans if "langfuse.observation.usage_details" in span
    ]
    assert all(isinstance(counts, str) for counts in usage)
    assert [json.loads(counts) for counts in usage] == usage_of(call)
    for counts in map(json.loads, usage):
        assert all(type(count) is int and count > 0 for count in counts.values())
        assert set(counts) <= OPENAI_USAGE | UNSPLIT_USAGE or set(counts) <= GEMINI_USAGE | UNSPLIT_USAGE


@each_call
def test_the_tokens_of_all_responses_are_the_roots(call: Played) -> None:
    total = Counter[str]()
    for usage in usage_of(call):
        for key, count in usage.items():
            total[key.split("_")[0]] += count
    root = told(root_of(call))
    assert [root.get(f"gen_ai.usage.{way}_tokens", 0) for way in ("input", "output")] == [
        total["input"],
        total["output"],
    ]


@each_call
def test_nothing_but_a_response_carries_tokens_that_langfuse_would_count_again(call: Played) -> None:
    for span in call.spans:
        type_, keys = told(span)["langfuse.observation.type"], told(span).keys()
        assert type_ == "generation" or not keys & {
            "langfuse.observation.usage_details",
            "langfuse.observation.cost_details",
        }
        assert type_ == "generation" or not span.parent_span_id or not [key for key in keys if "gen_ai.usage" in key]


# When, and how it went


@each_call
def test_the_first_output_is_told_in_its_format_and_lies_within_its_response(call: Played) -> None:
    for span in call.spans:
        at = told(span).get("langfuse.observation.completion_start_time")
        assert at is None or told(span)["langfuse.observation.type"] == "generation"
        if at is not None:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", at)
            first = round(datetime.fromisoformat(at).timestamp() * 1000)
            assert ms(span.start_time_unix_nano) <= first <= ms(span.end_time_unix_nano)


@each_call
def test_times_cut_to_milliseconds_keep_every_span_in_the_session(call: Played) -> None:
    root = root_of(call)
    for span in call.spans:
        assert 0 < ms(root.start_time_unix_nano) <= ms(span.start_time_unix_nano) <= ms(span.end_time_unix_nano)
        assert ms(span.end_time_unix_nano) <= ms(root.end_time_unix_nano) or "voice.event.late" in told(span)


@each_call
def test_a_tool_takes_as_long_as_it_was_recorded(call: Played) -> None:
    spans = {told(span)["gen_ai.tool.call.id"]: span for span in of_type(call, "tool")}
    for id_, tool in tools_of(call).items():
        if tool["from"] is not None and "to" in tool:
            taken = ms(spans[id_].end_time_unix_nano) - ms(spans[id_].start_time_unix_nano)
            assert abs(taken - (tool["to"] - tool["from"])) <= 1


@each_call
def test_what_failed_or_was_cancelled_has_its_level_and_why(call: Played) -> None:
    tools = tools_of(call)
    for span in of_type(call, "tool"):
        attributes = told(span)
        tool = tools[attributes["gen_ai.tool.call.id"]]
        level = attributes.get("langfuse.observation.level"), attributes.get("langfuse.observation.status_message")
        failed = tool.get("failed") or "to" not in tool
        assert level == (("WARNING", "cancelled") if tool.get("cancelled") else (None, None))
        # Langfuse takes ERROR and the message from the status.
        assert (span.status.code == Status.STATUS_CODE_ERROR) is (failed and not tool.get("cancelled"))
        assert bool(span.status.message) is (span.status.code == Status.STATUS_CODE_ERROR)
        assert not tool.get("failed") or tool.get("cancelled") or span.status.message == tool["result"]


@each_call
def test_errors_are_observations_of_their_own_with_the_message(call: Played) -> None:
    said = [message for _, message in frames(call) if message.get("type") == "error"]
    recorded = sorted((message.get("error") or message)["message"] for message in said)
    errors = [span for span in of_type(call, "event") if span.name == "error"]
    assert sorted(span.status.message for span in errors) == recorded
    assert all(told(span)["langfuse.observation.level"] == "ERROR" for span in errors)


@each_call
def test_a_failed_response_says_why(call: Played) -> None:
    done = [message["response"] for _, message in frames(call) if message.get("type") == "response.done"]
    failed = {each["id"]: each["status_details"]["error"] for each in done if each["status"] == "failed"}
    spans = [span for span in of_type(call, "generation") if span.status.code == Status.STATUS_CODE_ERROR]
    assert {told(span)["gen_ai.response.id"]: span.status.message for span in spans} == {
        id_: error["message"] for id_, error in failed.items()
    }


# What Langfuse drops carries nothing alone


@each_call
def test_no_span_has_events_and_what_is_linked_is_an_attribute_too(call: Played) -> None:
    assert not any(span.events for span in call.spans)
    assert [span for span in call.spans if span.links] == [root_of(call)]
    (link,) = root_of(call).links
    assert told(root_of(call))["voice.caller.traceparent"] == CALLER
    assert (link.trace_id.hex(), link.span_id.hex()) == (CALLER[3:35], CALLER[36:52])


@each_call
def test_a_barge_in_is_an_attribute_of_the_turn_that_it_cut(call: Played) -> None:
    cut = [told(span) for span in of_type(call, "agent") if "voice.interruption.source" in told(span)]
    assert len(cut) == interruptions_in(call)
    for turn in cut:
        assert (turn["gen_ai.agent.invocation.end_reason"], turn["voice.interruption.source"]) == (
            "interrupted",
            "user_speech",
        )
    assert told(root_of(call))["voice.interruption.count"] == len(cut)


# How it comes


def test_langfuse_is_asked_as_it_wants_to_be_asked(calls: dict[Path, Played], playing: Chain) -> None:
    assert calls
    for request in playing.langfuse.requests:
        assert (request.path, request.status) == ("/api/public/otel/v1/traces", 200)
        assert base64.b64decode(request.authorization.removeprefix("Basic ")) == b"pk-lf-test:sk-lf-test"
        assert (request.ingestion_version, request.content_encoding) == ("4", "gzip")


@each_call
def test_a_resend_replaces_each_span_by_the_same_bytes(call: Played, playing: Chain) -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": playing.collector.otlp_http_endpoint}
    otel_voice("resend", call.session_id, "--data-dir", playing.receiver.data_dir, **endpoint, **RESOURCE)
    spans = wait_for(lambda: playing.arrived(call.session_id, 2 * len(call.spans)), what="every span again")
    first = {span.span_id: span.SerializeToString() for span in call.spans}
    again = {span.span_id: span.SerializeToString() for span in spans[len(call.spans) :]}
    assert again == first
