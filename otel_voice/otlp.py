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
        attributes = b"".join(_field(b"\x0a", _key_value(key, value)) for key, value in sorted(resource.items()))
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
        _bytes(b"\x0a", bytes.fromhex(span.trace_id)),
        _bytes(b"\x12", bytes.fromhex(span.span_id)),
        _bytes(b"\x22", bytes.fromhex(span.parent_span_id)),
        _text(b"\x2a", span.name),
        _KINDS[span.kind],
        _time(b"\x39", span.start_time_unix_nano),
        _time(b"\x41", span.end_time_unix_nano),
    ]
    for key, value in span.attributes.items():
        if isinstance(value, str):
            fields.append(_repeated(key, value) if len(value) <= _REPEATED else _string(key, value))
        else:
            fields.append(_attribute(key, _any_value(value)))
    fields += [_field(b"\x6a", _link(traceparent)) for traceparent in span.links]
    status = _text(b"\x12", span.status_message)
    fields += (_field(b"\x7a", status + _ERROR if span.status == "ERROR" else status), _SAMPLED)
    return b"".join(fields)


def _string(key: str, value: str) -> bytes:
    text = value.encode()
    return _attribute(key, b"\x0a" + _size(len(text)) + text)


_repeated = lru_cache(4096)(_string)


def _attribute(key: str, value: bytes) -> bytes:
    name, size = _key(key), len(value)
    if len(name) + size > _SHORT:
        return _field(b"\x4a", name + _field(b"\x12", value))
    sized = _SIZES[size]
    return b"".join((b"\x4a", _SIZES[len(name) + 1 + len(sized) + size], name, b"\x12", sized, value))


def _time(tag: bytes, nanos: int) -> bytes:
    """OTLP knows no time before 1970; a clock that says so is not worth a lost span."""
    return tag + _fixed64(min(nanos, _LATEST)) if nanos > 0 else b""


def _link(traceparent: str) -> bytes:
    _, trace_id, span_id, _ = traceparent.split("-")
    return _bytes(b"\x0a", bytes.fromhex(trace_id)) + _bytes(b"\x12", bytes.fromhex(span_id))


def _key_value(key: str, value: object) -> bytes:
    return _key(key) + _field(b"\x12", _any_value(value))


@lru_cache(1024)
def _key(key: str) -> bytes:
    return _text(b"\x0a", key)


def _any_value(value: object) -> bytes:
    match value:
        case str():
            return _field(b"\x0a", value.encode())
        case bool():
            return b"\x10\x01" if value else b"\x10\x00"
        case int() if value in _INT64:
            return b"\x18" + (_size(value) if value >= 0 else _varint(value & _LATEST))
        case float():
            return b"\x21" + _double(value)
        case list() | tuple():
            return _field(b"\x2a", b"".join(_field(b"\x0a", _any_value(item)) for item in value))
        case _:
            return _field(b"\x0a", str(value).encode())


# What a message is made of. A field of a type that has a default is left out where it has that.


def _field(tag: bytes, body: bytes) -> bytes:
    """A field with a length."""
    return tag + _size(len(body)) + body


def _bytes(tag: bytes, body: bytes) -> bytes:
    return _field(tag, body) if body else b""


def _text(tag: bytes, text: str) -> bytes:
    return _field(tag, text.encode()) if text else b""


def _size(number: int) -> bytes:
    return _SIZES[number] if number < len(_SIZES) else _varint(number)


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)


_SIZES = [_varint(number) for number in range(4096)]
# With what surrounds it, its size is still in the table.
_SHORT = len(_SIZES) - 16
