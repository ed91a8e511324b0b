"""Span records -> OTLP bytes, once. Encoded requests concatenate, so a sender joins them without decoding."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Status
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan

from otel_voice.spans import Span

SCOPE = "otel_voice"
_KINDS = {"INTERNAL": ProtoSpan.SPAN_KIND_INTERNAL, "CLIENT": ProtoSpan.SPAN_KIND_CLIENT}
_STATUS = {"UNSET": Status.STATUS_CODE_UNSET, "ERROR": Status.STATUS_CODE_ERROR}
_INT64 = range(-(2**63), 2**63)
_LATEST = 2**64 - 1


class Encoder:
    """Encodes spans under one resource and this library's scope."""

    def __init__(self, resource: Mapping[str, object], version: str) -> None:
        self._resource = Resource(attributes=[_key_value(key, value) for key, value in sorted(resource.items())])
        self._scope = InstrumentationScope(name=SCOPE, version=version)

    def request(self, span: Span) -> bytes:
        """An ExportTraceServiceRequest with one span. The same span gives the same bytes."""
        spans = ScopeSpans(scope=self._scope, spans=[_span(span)])
        request = ExportTraceServiceRequest(
            resource_spans=[ResourceSpans(resource=self._resource, scope_spans=[spans])]
        )
        return request.SerializeToString(deterministic=True)


def first_span(body: bytes) -> ProtoSpan:
    """The span of an encoded request that holds one. Raises google.protobuf.message.DecodeError."""
    return ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans[0]


def as_json(body: bytes) -> dict[str, Any]:
    """An encoded request in OTLP's JSON, whose ids are hex. Raises google.protobuf.message.DecodeError."""
    document = json_format.MessageToDict(ExportTraceServiceRequest.FromString(body))
    for resource in document.get("resourceSpans", []):
        for scope in resource.get("scopeSpans", []):
            for span in scope.get("spans", []):
                _with_hex_ids(span)
                for link in span.get("links", []):
                    _with_hex_ids(link)
    return document


def _with_hex_ids(message: dict[str, Any]) -> None:
    for key in ("traceId", "spanId", "parentSpanId"):
        if key in message:
            message[key] = base64.b64decode(message[key]).hex()


def _span(span: Span) -> ProtoSpan:
    return ProtoSpan(
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.span_id),
        parent_span_id=bytes.fromhex(span.parent_span_id),
        name=span.name,
        kind=_KINDS[span.kind],
        start_time_unix_nano=_time(span.start_time_unix_nano),
        end_time_unix_nano=_time(span.end_time_unix_nano),
        attributes=[_key_value(key, value) for key, value in span.attributes.items()],
        status=Status(code=_STATUS[span.status], message=span.status_message),
        links=[_link(span.link)] if span.link else [],
        flags=1,
    )


def _time(nanos: int) -> int:
    """OTLP knows no time before 1970; a clock that says so is not worth a lost span."""
    return min(max(nanos, 0), _LATEST)


def _link(traceparent: str) -> ProtoSpan.Link:
    _, trace_id, span_id, _ = traceparent.split("-")
    return ProtoSpan.Link(trace_id=bytes.fromhex(trace_id), span_id=bytes.fromhex(span_id))


def _key_value(key: str, value: object) -> KeyValue:
    return KeyValue(key=key, value=_any_value(value))


def _any_value(value: object) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int() if value in _INT64:
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case list() | tuple():
            return AnyValue(array_value=ArrayValue(values=[_any_value(item) for item in value]))
        case _:
            return AnyValue(string_value=str(value))
