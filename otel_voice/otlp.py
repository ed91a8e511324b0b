"""Span records -> OTLP bytes, once. Encoded requests concatenate, so a sender joins them without decoding.

The bytes are written here, field by field as opentelemetry-proto numbers them: messages of that package take five times
as long to fill. `tests/test_otlp.py` holds them equal to the official encoder's.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import lru_cache
from struct import Struct
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan

from otel_voice.spans import Span

SCOPE = "otel_voice"
_KINDS = {"INTERNAL": b"\x30\x01", "CLIENT": b"\x30\x03"}
_ERROR = b"\x18\x02"
_OF_SPAN, _OF_RESOURCE = b"\x4a", b"\x0a"
_SAMPLED = b"\x85\x01\x01\x00\x00\x00"
_INT64 = range(-(2**63), 2**63)
_LATEST = 2**64 - 1
_fixed64 = Struct("<Q").pack
_double = Struct("<d").pack
# Values that many spans repeat are encoded once; longer ones are a call's own.
_REPEATED = 64


class Encoder:
    """Encodes spans under one resource and this library's scope."""

    def __init__(self, resource: Mapping[str, object], version: str) -> None:
        attributes = b"".join(_attribute(_OF_RESOURCE, key, value) for key, value in sorted(resource.items()))
        self._resource = _field(b"\x0a", attributes)
        self._scope = _field(b"\x0a", _text(b"\x0a", SCOPE) + _text(b"\x12", version))

    def request(self, span: Span) -> bytes:
        """An ExportTraceServiceRequest with one span. The same span gives the same bytes."""
        scope_spans = self._scope + _field(b"\x12", _span(span))
        return _field(b"\x0a", self._resource + _field(b"\x12", scope_spans))


def first_span(body: bytes) -> ProtoSpan:
    """The span of an encoded request that holds one. Raises google.protobuf.message.DecodeError."""
    return ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans[0]


def as_json(body: bytes) -> dict[str, Any]:
    """An encoded request in OTLP's JSON, whose ids are hex. Raises google.protobuf.message.DecodeError."""
    document = json_format.MessageToDict(ExportTraceServiceRequest.FromString(body), use_integers_for_enums=True)
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


def _span(span: Span) -> bytes:
    fields = [
        b"\x0a\x10" + bytes.fromhex(span.trace_id),
        b"\x12\x08" + bytes.fromhex(span.span_id),
        b"\x22\x08" + bytes.fromhex(span.parent_span_id) if span.parent_span_id else b"",
        _text(b"\x2a", span.name),
        _KINDS[span.kind],
        _time(b"\x39", span.start_time_unix_nano),
        _time(b"\x41", span.end_time_unix_nano),
    ]
    for key, value in span.attributes.items():
        if isinstance(value, str) and len(value) <= _REPEATED:
            fields.append(_repeated(_OF_SPAN, key, value))
        else:
            fields.append(_attribute(_OF_SPAN, key, value))
    for traceparent in span.links:
        fields.append(_field(b"\x6a", _link(traceparent)))
    status = _text(b"\x12", span.status_message)
    fields += (_field(b"\x7a", status + _ERROR if span.status == "ERROR" else status), _SAMPLED)
    return b"".join(fields)


def _attribute(tag: bytes, key: str, value: object) -> bytes:
    encoded = _any_value(value)
    return _field(tag, _key(key) + _size(len(encoded)) + encoded)


_repeated = lru_cache(4096)(_attribute)


def _time(tag: bytes, nanos: int) -> bytes:
    """OTLP knows no time before 1970; a clock that says so is not worth a lost span."""
    if nanos <= 0:
        return b""
    return tag + _fixed64(nanos if nanos < _LATEST else _LATEST)


def _link(traceparent: str) -> bytes:
    _, trace_id, span_id, _ = traceparent.split("-")
    return b"\x0a\x10" + bytes.fromhex(trace_id) + b"\x12\x08" + bytes.fromhex(span_id)


@lru_cache(1024)
def _key(key: str) -> bytes:
    """An attribute up to its value's size."""
    return _text(b"\x0a", key) + b"\x12"


def _any_value(value: object) -> bytes:
    if isinstance(value, str):
        return _field(b"\x0a", value.encode())
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int) and value in _INT64:
        return b"\x18" + _size(value & _LATEST)
    if isinstance(value, float):
        return b"\x21" + _double(value)
    if isinstance(value, list | tuple):
        return _field(b"\x2a", b"".join([_field(b"\x0a", _any_value(item)) for item in value]))
    return _field(b"\x0a", str(value).encode())


# What a message is made of. A field of a type that has a default is left out where it has that.


def _field(tag: bytes, body: bytes) -> bytes:
    """A field with a length."""
    size = len(body)
    return tag + (_SIZES[size] if size < _LISTED else _varint(size)) + body


def _text(tag: bytes, text: str) -> bytes:
    return _field(tag, text.encode()) if text else b""


def _size(number: int) -> bytes:
    return _SIZES[number] if number < _LISTED else _varint(number)


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)


_LISTED = 4096
_SIZES = [_varint(number) for number in range(_LISTED)]
