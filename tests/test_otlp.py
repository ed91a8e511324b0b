"""The bytes that leave: whole, joinable, the same each time, and what the official encoder would have written."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from otel_voice.otlp import SCOPE, Encoder
from otel_voice.spans import Span

RESOURCE: dict[str, str | int] = {"service.name": "shop", "service.instance.id": 7}
VERSION = "1.2.3"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "00f067aa0ba902b7"
ENCODER = Encoder(RESOURCE, VERSION)

# Short ones, and those whose length takes two or three bytes.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.builds(
    lambda text, times: text * times,
    st.sampled_from(["a", "ß", "語"]),
    st.sampled_from([64, 65, 127, 128, 1365, 4096, 16384]),
)
int64 = st.integers(-(2**63), 2**63 - 1)
values = texts | st.booleans() | int64 | st.floats(allow_nan=False) | st.lists(texts, max_size=3)
nanos = st.integers(0, 2**63)
span_ids = st.integers(1, 2**64 - 1).map(lambda number: f"{number:016x}")
spans = st.builds(
    Span,
    name=texts,
    trace_id=st.integers(1, 2**128 - 1).map(lambda number: f"{number:032x}"),
    span_id=span_ids,
    parent_span_id=st.just("") | span_ids,
    start_time_unix_nano=nanos,
    end_time_unix_nano=nanos,
    kind=st.sampled_from(["INTERNAL", "CLIENT"]),
    attributes=st.dictionaries(texts.filter(bool), values, max_size=5),
    status=st.sampled_from(["UNSET", "ERROR"]),
)


def span(number: int = 1, **fields: Any) -> Span:
    given = {"start_time_unix_nano": 1, "end_time_unix_nano": 2} | fields
    return Span(name=f"span {number}", trace_id=TRACE, span_id=f"{number:016x}", **given)


def decoded(body: bytes) -> list[ProtoSpan]:
    request = ExportTraceServiceRequest.FromString(body)
    return [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]


def value_of(value: object) -> AnyValue:
    (attribute,) = decoded(ENCODER.request(span(attributes={"key": value})))[0].attributes
    return attribute.value


def official(span: Span) -> ExportTraceServiceRequest:
    """The same span through the SDK's classes and the exporter's own encoder."""

    def context(span_id: str) -> SpanContext:
        return SpanContext(int(span.trace_id, 16), int(span_id, 16), False, TraceFlags(1))

    links = [traceparent.split("-") for traceparent in span.links]
    readable = ReadableSpan(
        name=span.name,
        context=context(span.span_id),
        parent=context(span.parent_span_id) if span.parent_span_id else None,
        resource=Resource(RESOURCE),
        attributes={key: tuple(value) if isinstance(value, list) else value for key, value in span.attributes.items()},
        links=[Link(SpanContext(int(link[1], 16), int(link[2], 16), True)) for link in links],
        kind=SpanKind[span.kind],
        status=Status(StatusCode[span.status], span.status_message or None),
        start_time=span.start_time_unix_nano,
        end_time=span.end_time_unix_nano,
        instrumentation_scope=InstrumentationScope(SCOPE, VERSION),
    )
    return encode_spans([readable])


@given(st.lists(spans, min_size=1, max_size=8))
def test_requests_one_after_the_other_are_one_request_with_all_spans_in_order(records: list[Span]) -> None:
    found = decoded(b"".join(ENCODER.request(record) for record in records))
    assert [each.span_id.hex() for each in found] == [record.span_id for record in records]
    assert [each.name for each in found] == [record.name for record in records]


@given(spans)
def test_the_same_span_gives_the_same_bytes_in_every_process(record: Span) -> None:
    assert ENCODER.request(record) == Encoder(dict(reversed(RESOURCE.items())), VERSION).request(record)


@given(spans)
def test_a_span_is_what_the_official_encoder_makes_of_it(record: Span) -> None:
    ours, theirs = ExportTraceServiceRequest.FromString(ENCODER.request(record)), official(record)
    (resource,), (expected_resource,) = ours.resource_spans, theirs.resource_spans
    (scope,), (expected_scope,) = resource.scope_spans, expected_resource.scope_spans
    (found,), (expected,) = scope.spans, expected_scope.spans
    # The official encoder also says whether the parent is remote; here nobody knows.
    expected.flags = found.flags
    assert found == expected
    assert scope.scope == expected_scope.scope
    assert sorted(map(str, resource.resource.attributes)) == sorted(map(str, expected_resource.resource.attributes))


def test_a_caller_is_linked_as_the_official_encoder_links() -> None:
    record = span(links=[f"00-{TRACE}-{PARENT}-01", f"00-{PARENT}{PARENT}-{PARENT}-01"])
    (found,), (expected,) = decoded(ENCODER.request(record)), decoded(official(record).SerializeToString())
    links = [[(link.trace_id, link.span_id) for link in each.links] for each in (found, expected)]
    assert links[0] == links[1] and len(links[0]) == 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", AnyValue(string_value="text")),
        ("", AnyValue(string_value="")),
        (True, AnyValue(bool_value=True)),
        (0, AnyValue(int_value=0)),
        (-(2**63), AnyValue(int_value=-(2**63))),
        (2**63 - 1, AnyValue(int_value=2**63 - 1)),
        (2**63, AnyValue(string_value="9223372036854775808")),
        (10**400, AnyValue(string_value="1" + "0" * 400)),
        (1.5, AnyValue(double_value=1.5)),
        (math.inf, AnyValue(double_value=math.inf)),
    ],
)
def test_a_value_keeps_its_type_and_a_number_too_big_becomes_its_digits(value: object, expected: AnyValue) -> None:
    assert value_of(value) == expected


def test_a_list_keeps_its_items_and_their_order() -> None:
    assert [item.string_value for item in value_of(["b", "a"]).array_value.values] == ["b", "a"]


def test_a_failed_span_says_so_with_its_message() -> None:
    (found,) = decoded(ENCODER.request(span(status="ERROR", status_message="the tool is away")))
    assert (found.status.code, found.status.message) == (found.status.STATUS_CODE_ERROR, "the tool is away")


def test_a_root_has_no_parent_and_every_span_is_marked_as_sampled() -> None:
    (found,) = decoded(ENCODER.request(span()))
    assert (found.parent_span_id, found.flags) == (b"", 1)


def test_a_time_that_OTLP_cannot_say_costs_no_span() -> None:
    (found,) = decoded(ENCODER.request(span(start_time_unix_nano=-(10**18), end_time_unix_nano=10**30)))
    assert (found.start_time_unix_nano, found.end_time_unix_nano) == (0, 2**64 - 1)
