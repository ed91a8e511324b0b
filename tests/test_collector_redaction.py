"""OTEL_VOICE_COLLECTOR_REDACT in the real collector: of whole calls no word leaves it, and everything else does."""

from __future__ import annotations

import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from otel_voice.recording import Recording
from otel_voice.semconv import CONTENT_KEYS, MARK, NO_RESULT, NOT_CAPTURED
from tests.calls import Played, chain, each_call
from tests.components.build import COLLECTOR
from tests.conftest import binary_of
from tests.real import COLLECTOR_CONFIG, Collector, Jaeger, JaegerSpan, LangfuseServer, wait_for
from tests.test_collector_config import BOTH, LANGFUSE, post
from tests.test_end_to_end import received

# Where a recording has what somebody said, what a tool was given or gave back, and why something failed.
TEXTS = frozenset({"text", "transcript", "delta", "output", "instructions", "message", "error"})
VALUES = frozenset({"args", "arguments", "functionResponses", "function_responses", "result"})
NAMES = frozenset({"id", "name", "scheduling"})
# Words of the mapping itself that somebody may say as well; so may somebody say a tool's name.
OWN = f"{NO_RESULT} function tool"

pytestmark = pytest.mark.components


@pytest.fixture(scope="module")
def calls(jaeger: Jaeger, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Path, Played]]:
    """Every call played through a receiver that captures all, and a collector that redacts for both backends."""
    chosen = {"OTEL_VOICE_COLLECTOR_REDACT": "true", "OTEL_VOICE_COLLECTOR_EXPORTERS": BOTH}
    there = {"OTEL_VOICE_JAEGER_ENDPOINT": jaeger.otlp_grpc_endpoint}
    with chain(tmp_path_factory.mktemp("redacted"), {}, chosen | there) as redacting:
        yield redacting.play_all()


def in_jaeger(jaeger: Jaeger, played: Played) -> list[JaegerSpan]:
    def whole() -> list[JaegerSpan] | None:
        spans = jaeger.trace(played.trace_id) or []
        return spans if len(spans) == len(played.made) else None

    return wait_for(whole, what="every span in Jaeger")


def words(text: str) -> set[str]:
    return set(re.findall(r"[^\W\d]{3,}", text.lower()))


def said_in(value: Any, is_content: bool = False) -> set[str]:
    """The words of a recording's line that are content."""
    if isinstance(value, dict):
        found = [
            said_in(each, is_content or key in VALUES or (key in TEXTS and isinstance(each, str)))
            for key, each in value.items()
            if key not in NAMES
        ]
    elif isinstance(value, list):
        found = [said_in(each, is_content) for each in value]
    else:
        found = [words(value)] if is_content and isinstance(value, str) else []
    return set[str]().union(*found)


def strings_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = [each for key, each in value.items() if key != "key"]
    if isinstance(value, list):
        for each in value:
            yield from strings_in(each)
    elif isinstance(value, str):
        yield value


@each_call
def test_no_word_of_a_call_leaves(calls: dict[Path, Played], jaeger: Jaeger, file: Path) -> None:
    said = said_in(calls[file].lines)
    assert len(said) > 3
    kept = [string for span in calls[file].spans for string in strings_in(json_format.MessageToDict(span))]
    for span in in_jaeger(jaeger, calls[file]):
        kept += [span.name, *strings_in([*span.tags.values()])]
    tools = [str(span["attributes"].get("gen_ai.tool.name")) for span in calls[file].made]
    assert said & words(" ".join(kept)) <= words(" ".join([OWN, *tools]))


@each_call
def test_what_is_no_content_stays_as_it_was_made(calls: dict[Path, Played], file: Path) -> None:
    played = calls[file]
    arrived = {span.span_id.hex(): span for span in played.spans}
    assert len(arrived) == len(played.spans) == len(played.made)
    for made in played.made:
        span = arrived[made["span_id"]]
        told = received(span)
        assert (told.parent, told.name) == (made["parent_span_id"], made["name"])
        assert span.start_time_unix_nano == made["start_time_unix_nano"]
        assert span.end_time_unix_nano == made["end_time_unix_nano"]
        assert (span.status.code == Status.STATUS_CODE_ERROR) is (made["status"] == "ERROR")
        assert told.attributes == redacted(made["attributes"])


def redacted(attributes: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in attributes.items() if key not in CONTENT_KEYS}
    texts = [key for key, value in kept.items() if key.startswith(f"{MARK}.") and isinstance(value, str)]
    return kept | dict.fromkeys(texts, NOT_CAPTURED)


@each_call
def test_what_leaves_is_what_a_receiver_that_captures_no_content_would_send(
    calls: dict[Path, Played], file: Path
) -> None:
    played = calls[file]
    session = Recording.of(played.log, file.name).session(played.session_id, capture_content=False)
    without = [msgspec.to_builtins(span) for span in session.take()]
    told = [(span["span_id"], span["attributes"], span["status_message"]) for span in without]
    left = [(span.span_id.hex(), received(span).attributes, span.status.message) for span in played.spans]
    assert sorted(left, key=str) == sorted(told, key=str)


# Every kind of content on one span


def value(of: str | bool | int) -> AnyValue:
    if isinstance(of, bool):
        return AnyValue(bool_value=of)
    return AnyValue(string_value=of) if isinstance(of, str) else AnyValue(int_value=of)


def request(*spans: tuple[dict[str, Any], str]) -> ExportTraceServiceRequest:
    made = [
        Span(
            trace_id=uuid.uuid4().bytes,
            span_id=number.to_bytes(8, "big"),
            name=f"span {number}",
            start_time_unix_nano=1,
            end_time_unix_nano=2,
            attributes=[KeyValue(key=key, value=value(each)) for key, each in attributes.items()],
            status=Status(message=message, code=Status.STATUS_CODE_ERROR),
        )
        for number, (attributes, message) in enumerate(spans, 1)
    ]
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=made)])])


CONTENT = dict.fromkeys(sorted(CONTENT_KEYS), '[{"role":"user","content":"the secret"}]')
OTHER = {"session.id": "s1", "gen_ai.tool.name": "look_up", "gen_ai.usage.input_tokens": 7}
MARKED = {
    "voice.mark.note": "one\nsecret",
    "voice.mark.blank": " ",
    "voice.mark.count": 1234567,
    "voice.mark.new": True,
}


def test_with_the_variable_set_content_leaves_from_no_span(
    collector: Callable[..., Collector], langfuse_server: LangfuseServer
) -> None:
    redacting = collector(
        OTEL_VOICE_COLLECTOR_REDACT="true", OTEL_VOICE_COLLECTOR_EXPORTERS=LANGFUSE, **langfuse_server.env
    )
    post(redacting, request((OTHER | CONTENT | MARKED, "the secret"), (OTHER | CONTENT, NO_RESULT), (OTHER, "")))
    spans = wait_for(lambda: langfuse_server.spans, what="the spans at Langfuse")
    assert [received(span).attributes for span in spans] == [
        OTHER | MARKED | {"voice.mark.note": NOT_CAPTURED},
        OTHER,
        OTHER,
    ]
    assert [span.status.message for span in spans] == [NOT_CAPTURED, NO_RESULT, ""]


@pytest.mark.parametrize("chosen", [None, "false"])
def test_without_it_everything_stays(
    collector: Callable[..., Collector], langfuse_server: LangfuseServer, chosen: str | None
) -> None:
    said = {"OTEL_VOICE_COLLECTOR_REDACT": chosen} if chosen else {}
    keeping = collector(OTEL_VOICE_COLLECTOR_EXPORTERS=LANGFUSE, **said, **langfuse_server.env)
    posted = request((OTHER | CONTENT | MARKED, "the secret"), (OTHER, NO_RESULT))
    post(keeping, posted)
    spans = wait_for(lambda: langfuse_server.spans, what="the spans at Langfuse")
    assert spans == list(posted.resource_spans[0].scope_spans[0].spans)


@pytest.mark.parametrize("chosen", ["True", "yes", "1", "on", ""])
def test_a_value_that_is_neither_true_nor_false_is_no_start(chosen: str) -> None:
    command = [str(binary_of(COLLECTOR)), "validate", "--config", str(COLLECTOR_CONFIG)]
    env = {"OTEL_VOICE_COLLECTOR_REDACT": chosen}
    answer = subprocess.run(command, env=env, capture_output=True, text=True)
    assert answer.returncode != 0
    assert f'condition "({chosen})"' in answer.stderr


def test_the_configuration_names_the_content_keys_and_no_others() -> None:
    assert set(re.findall(r'delete_key\(span\.attributes, "(.+)"\)', COLLECTOR_CONFIG.read_text())) == CONTENT_KEYS
