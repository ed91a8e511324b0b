"""The decoder: what each event type takes, and the sentence that says what is wrong."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from otel_voice import bodies
from otel_voice import events as e

NEEDED: dict[str, dict[str, Any]] = {
    "turn_start": {"turn_id": "t"},
    "turn_complete": {"turn_id": "t"},
    "tool_call": {"call_id": "c", "name": "n"},
    "tool_result": {"call_id": "c"},
    "provider_message": {"provider": "gemini-live", "dir": "sent", "message": {}},
    "transcript": {"role": "user", "text": "hi"},
    "user_speech_start": {},
    "user_speech_end": {},
    "agent_speech_start": {},
    "agent_speech_end": {},
    "response_start": {},
    "response_end": {},
    "interrupted": {},
    "error": {"message": "m"},
    "mark": {"name": "n"},
    "session_start": {},
    "session_end": {},
}
TYPES = {str(type_.__struct_config__.tag): type_ for type_ in e.WireEvent.__args__}
FIELDS = [(name, field) for name, type_ in TYPES.items() for field in msgspec.structs.fields(type_)]
FREE = {"arguments", "result", "error"}  # any JSON


def decoded(type_: str, **fields: Any) -> e.WireEvent:
    return e.decode_event(json.dumps({"type": type_, **NEEDED[type_], **fields}).encode())


def refusal(type_: str, **fields: Any) -> str:
    with pytest.raises(bodies.Refused) as refused:
        decoded(type_, **fields)
    return str(refused.value)


def test_every_type_of_the_contract_is_known() -> None:
    assert set(TYPES) == set(NEEDED)


@pytest.mark.parametrize("type_", NEEDED)
def test_an_event_is_whole_with_what_its_type_needs(type_: str) -> None:
    assert isinstance(decoded(type_), TYPES[type_])


@pytest.mark.parametrize(("type_", "field"), [(name, field) for name, needed in NEEDED.items() for field in needed])
def test_a_missing_field_is_named(type_: str, field: str) -> None:
    body = {"type": type_, **NEEDED[type_]}
    del body[field]
    with pytest.raises(bodies.Refused, match=f"^{field}: it is missing$"):
        e.decode_event(json.dumps(body).encode())


@pytest.mark.parametrize("wrong", [[[]], {"a": {"b": []}}, -1e30], ids=["a list", "an object", "a number"])
@pytest.mark.parametrize(("type_", "field"), [(n, f.name) for n, f in FIELDS], ids=lambda value: str(value))
def test_a_field_of_the_wrong_type_is_named(type_: str, field: str, wrong: Any) -> None:
    if (type_, field) in (("response_end", "error"),) or field not in FREE:
        if field in ("usage", "attributes", "message") and isinstance(wrong, dict):
            wrong = {"input_tokens": "many", "a": []} if field != "message" else 5
        said = refusal(type_, **{field: wrong})
        assert said.startswith((f"{field}: ", f"{field}.", f"{field}["))
        assert "\n" not in said


@pytest.mark.parametrize("seq", [-1, 2**53 + 1, 10**30, 1.5, "1", True, [1]])
def test_a_number_that_counts_nothing_is_refused(seq: Any) -> None:
    assert refusal("mark", seq=seq).startswith("seq: ")


@pytest.mark.parametrize(("seq", "counted"), [(3, 3), (-1, None), (2**70, None), ("3", None)])
def test_of_a_refused_event_the_number_counts_where_it_is_one(seq: Any, counted: int | None) -> None:
    assert e.seq_of(json.dumps({"type": "wish", "seq": seq}).encode()) == counted


@pytest.mark.parametrize("ts", [-1, -1e300, 1e14, 1e308, 10**400, "now", True, []])
def test_a_time_that_no_clock_shows_is_refused(ts: Any) -> None:
    assert refusal("mark", ts=ts).startswith("ts: ")


@pytest.mark.parametrize(
    ("type_", "fields", "begins"),
    [
        ("turn_start", {"turn_id": ""}, "turn_id: "),
        ("turn_start", {"turn_id": "x" * 257}, "turn_id: "),
        ("turn_complete", {"usage": {"input_tokens": -1}}, "usage.input_tokens: "),
        ("turn_complete", {"usage": {"output_tokens": 2**60}}, "usage.output_tokens: "),
        ("turn_complete", {"end_reason": "bored"}, "end_reason: "),
        ("turn_complete", {"user_text": "x" * 262_145}, "user_text: "),
        ("transcript", {"role": "narrator"}, "role: "),
        ("agent_speech_end", {"heard_ms": -1}, "heard_ms: "),
        ("provider_message", {"provider": "acme"}, "provider: "),
        ("provider_message", {"dir": "up"}, "dir: "),
        ("provider_message", {"message": []}, "message: "),
        ("mark", {"attributes": {"a": {"b": 1}}}, "attributes[...]: "),
        ("mark", {"attributes": {"a": "x" * 4_097}}, "attributes[...]: "),
        ("mark", {"attributes": {str(n): n for n in range(129)}}, "attributes: "),
        ("mark", {"attributes": {"": 1}}, "attributes: "),
        ("session_end", {"last_seq": -1}, "last_seq: "),
        ("tool_call", {"name": ""}, "name: "),
    ],
)
def test_a_value_out_of_bounds_is_named(type_: str, fields: dict[str, Any], begins: str) -> None:
    assert refusal(type_, **fields).startswith(begins)


@pytest.mark.parametrize("number", [b"1e400", b"-1e400", b"9" * 5_000])
def test_a_number_that_nothing_holds_is_refused(number: bytes) -> None:
    with pytest.raises(bodies.Refused, match=r"^arguments"):
        e.decode_event(b'{"type": "tool_call", "call_id": "c", "name": "n", "arguments": {"a": ' + number + b"}}")


@pytest.mark.parametrize("number", [2**63, 2**64, 10**30, -(10**30), 1e308])
def test_a_large_number_in_arguments_stays_as_it_is(number: float) -> None:
    event = decoded("tool_call", arguments={"a": number})
    assert isinstance(event, e.ToolCall)
    assert event.arguments == {"a": number}
    assert msgspec.json.decode(e.encode(event))["arguments"] == {"a": number}


@pytest.mark.parametrize("raw", [b"5", b"[]", b"null", b'"mark"', b"true"])
def test_what_is_no_object_is_no_event(raw: bytes) -> None:
    with pytest.raises(bodies.Refused, match=r"^event: expected `object`"):
        e.decode_event(raw)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"{}", "type: it is missing"),
        (b'{"type": 5}', "type: expected `str`"),
        (b'{"type": null}', "type: expected `str`"),
        (b'{"type": "Mark"}', "type: invalid value 'Mark'"),
        (b'{"type": "session_facts"}', "type: invalid value 'session_facts'"),
        (b'{"type": "wish", "type": "mark", "name": "n"}', "type: invalid value 'wish'"),
        (b'{"type": "mark", "name": "\xff"}', "event: it is not UTF-8"),
    ],
)
def test_an_unknown_type_is_named(raw: bytes, said: str) -> None:
    with pytest.raises(bodies.Refused) as refused:
        e.decode_event(raw)
    assert str(refused.value) == said


def test_of_a_field_said_twice_the_last_one_counts() -> None:
    event = e.decode_event(b'{"type": "mark", "name": "a", "seq": 1, "name": "b", "seq": 2}')
    assert (getattr(event, "name"), event.seq) == ("b", 2)  # noqa: B009


def test_fields_that_are_not_known_do_no_harm() -> None:
    assert decoded("mark", mood="good", nested={"a": [1]}) == decoded("mark")


def test_a_whole_emoji_is_left_alone() -> None:
    body = rb'{"events": [{"type": "mark", "name": "\ud83d\ude00 \\ud83d"}]}'
    (raw,) = e.decode_envelope(body).events
    assert bytes(raw) == rb'{"type": "mark", "name": "\ud83d\ude00 \\ud83d"}'


def test_a_batch_may_have_a_thousand_events_and_not_one_more() -> None:
    body = b'{"events": [' + b",".join([b"0"] * 1_000) + b"]}"
    assert len(e.decode_envelope(body).events) == 1_000
    with pytest.raises(bodies.TooMany, match=r"^events: at most 1000 in a batch, got 1001$"):
        e.decode_envelope(body.replace(b"[0", b"[0,0"))


def nested(levels: int) -> bytes:
    return b'{"type": "mark", "name": "]]] \\" [", "junk": ' + b"[" * levels + b"]" * levels + b"}"


@pytest.mark.parametrize(("levels", "fine"), [(0, True), (63, True), (64, False), (900, False)])
def test_an_event_nests_no_deeper_than_a_stack_can_bear(levels: int, fine: bool) -> None:
    if fine:
        bodies.check(nested(levels))
        return
    with pytest.raises(bodies.Refused, match=r"^event: it nests deeper than 64 levels$"):
        bodies.check(nested(levels))


def test_an_event_is_no_larger_than_a_span_can_be() -> None:
    bodies.check(b'"' + b"x" * (2**20 - 2) + b'"')
    with pytest.raises(bodies.Refused, match=r"^event: at most 1048576 bytes$"):
        bodies.check(b'"' + b"x" * (2**20 - 1) + b'"')


def test_many_brackets_side_by_side_are_not_deep() -> None:
    bodies.check(b'{"junk": [' + b"[]," * 1_000 + b"[]]}")


def test_an_event_that_nests_too_deeply_for_the_decoder_leaves_its_neighbours_whole() -> None:
    good = b'{"type": "mark", "name": "a [ b"}'
    events = e.decode_envelope(b'{"events": [' + good + b"," + nested(5_000) + b"," + good + b"]}").events
    assert [bytes(events[0]), bytes(events[2])] == [good, good]
    with pytest.raises(bodies.Refused, match="deeper"):
        bodies.check(events[1])


def test_what_was_logged_comes_back_as_it_was() -> None:
    raw = b'{"type":"mark","name":"n","seq":3,"mood":"good"}'
    record = e.Accepted([Raw(raw)], "page", e.Clock(12.5), [4])
    back = e.decode_record(e.encode(record))
    assert isinstance(back, e.Accepted)
    assert (bytes(back.events[0]), back.source, back.clock, back.refused) == (raw, "page", e.Clock(12.5), [4])
