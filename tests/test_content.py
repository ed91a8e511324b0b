"""What is stored of a conversation: masked, or only that something was said."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otel_voice import events as e
from otel_voice.adapters.allow import ALLOW_LIST, reduce
from otel_voice.content import (
    ATTRIBUTE_CHARS,
    MASKED,
    NAMES,
    TEXT_CHARS,
    WITHHELD,
    Content,
    Treatment,
    kind_of,
    masked,
    masked_chunk,
    masked_value,
)
from otel_voice.recording import Recording
from otel_voice.semconv import NOT_CAPTURED
from otel_voice.spans import Span
from tests.facts import everything
from tests.running import SESSION, App, running

RECORDED = everything()
# A piece of a transcript ends with a number there, which could be half of one.
NUMBER_AT_AN_EDGE = {"recordings/gemini_code_and_text_answer.jsonl", "gemini-live/tool_call_round.jsonl"}


# Masked


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("write to bob.smith+x@example.com, please", "write to [email], please"),
        ("<bob@example.com>", "<[email]>"),
        ("bob@localhost or @bob", "[email] or [email]"),
        ("bob\uff20example.com", "[email]"),
        ("see you @ eight", "see you @ eight"),
        ("call +49 (151) 234-5678 now", "call [phone] now"),
        ("call 5551234.", "call [phone]."),
        ("call 0151\u00a0234\u20115678", "call [phone]"),
        ("\u0661\u0662\u0663\u0664\u0665\u0666\u0667", "[phone]"),
        ("card 4111 1111 1111 1111 ends", "card [card] ends"),
        ("4111-1111-1111-1112", "[number]"),
        ("378282246310005", "[card]"),
        ("a table for 2 at 19:30 for 45.50", "a table for 2 at 19:30 for 45.50"),
        ("room 123456", "room 123456"),
        ("", ""),
    ],
)
def test_addresses_and_long_numbers_are_masked_in_a_text(text: str, stored: str) -> None:
    assert masked(text) == stored


@pytest.mark.parametrize(
    ("chunk", "stored"),
    [
        ("my number is 555", "my number is [number]"),
        (" 12 34 and so on", " [number] and so on"),
        ("7", "[number]"),
        ("we are 4 people", "we are 4 people"),
        ("bob@", "[email]"),
        ("@example.com is it", "[email] is it"),
        (" @ ", " [email] "),
        ("555-", "[number]-"),
        ("- 1234 -", "- [number] -"),
        ("it is 5551234, yes", "it is [phone], yes"),
    ],
)
def test_of_a_piece_every_number_at_an_edge_is_masked(chunk: str, stored: str) -> None:
    assert masked_chunk(chunk) == stored


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ({"to": ["bob@example.com", 5, True, None, 1.5]}, {"to": ["[email]", 5, True, None, 1.5]}),
        ({"bob@example.com": 1}, {"[email]": 1}),
        ({"phone": 4915112345679, "card": 4111111111111111.0}, {"phone": "[phone]", "card": "[card]"}),
        ('{"phone": "0151 2345678", "n": [1, 2]}', '{"phone":"[phone]","n":[1,2]}'),
        ('{"phone": 4915112345679}', '{"phone":"[phone]"}'),
        ('{"mail": "bob\\u0040example.com"}', '{"mail":"[email]"}'),
        ('{"a": "{\\"phone\\": \\"0151 2345678\\"}"}', '{"a":"{\\"phone\\":\\"[phone]\\"}"}'),
        ('{"a": 4915112345679, "a": 1}', '{"a":1}'),
        ('{"note": "a \\"quiet\\" one"}', '{"note": "a \\"quiet\\" one"}'),
        ('{"phone": "0151 2345678', '{"phone": "[phone]'),
        ("[" * 100_000 + "0151 2345678", "[" * 100_000 + "[phone]"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_json_is_masked_at_any_depth_and_stays_json(value: Any, stored: Any) -> None:
    assert masked_value(value) == stored


@pytest.mark.parametrize(
    "text", ["a" * 262_144, "1" * 262_144, "1-" * 131_072, "@" * 262_144, "a@" * 131_072, "1 x" * 80_000]
)
def test_no_text_takes_long(text: str) -> None:
    began = time.process_time()
    masked(text), masked_chunk(text)
    assert time.process_time() - began < 2


def test_a_mask_that_is_longer_than_what_it_covers_still_fits_the_log() -> None:
    transcript = e.Transcript(role="user", text="a@b " * (TEXT_CHARS // 4), final=True)
    marked = e.Mark(name="m", attributes={"a": "a@b " * (ATTRIBUTE_CHARS // 4)})
    for event in (transcript, marked):
        Content(MASKED).treat(event)
        assert e.decode_event(e.encode(event)) == event


# Where content is


def leaves(shape: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    if isinstance(shape, str):
        yield shape, path
    elif isinstance(shape, list):
        yield from leaves(shape[0], path)
    else:
        for key, inner in shape.items():
            if key:
                yield from leaves(inner, (*path, key))


TEXTS = {"text", "transcript", "delta", "message", "instructions"}
VALUES = {"args", "arguments", "output", "error", "response"}


def test_every_leaf_of_the_allow_list_is_content_or_a_name() -> None:
    """A new key must be put on one of the lists."""
    for provider, listed in ALLOW_LIST.items():
        for leaf, path in [*leaves(listed["sent"]), *leaves(listed["received"])]:
            kind, where = kind_of(leaf, path), f"{provider}: {'.'.join(path)}"
            if leaf not in ("string", "json") or path[-1] in NAMES:
                assert kind is None, where
            elif leaf == "string":
                assert path[-1] in TEXTS, where
                assert kind in ("text", "chunk"), where
            else:
                assert path[-1] in VALUES, where
                assert kind in ("value", "answer"), where


NAMES_OF_EVENTS = {
    "call_id",
    "code",
    "dir",
    "end_reason",
    "error_type",
    "finish_reason",
    "item_id",
    "measured_by",
    "model",
    "name",
    "previous_session_id",
    "provider",
    "reason",
    "response_id",
    "role",
    "source",
    "turn_id",
}
NO_TEXTS = {"seq", "ts", "usage", "heard_ms", "last_seq", "final", "typed", "cancelled"}
SAID = "bob@example.com"
# What has a form of its own.
FORMS: dict[str, Any] = {
    "attributes": {"a": SAID},
    "message": SAID,
    "dir": "received",
    "role": "user",
    "source": "user_speech",
    "provider": "gemini-live",
    "end_reason": "completed",
}


@pytest.mark.parametrize("type_", get_args(e.WireEvent), ids=lambda type_: type_.__name__)
def test_every_field_of_an_event_is_content_or_a_name(type_: Any) -> None:
    """Whatever may hold a text and is no name is masked: a new field must be put on one of the lists."""
    fields = {field.name for field in msgspec.structs.fields(type_)} - NO_TEXTS
    event = type_(**{name: FORMS.get(name, "x" if name in NAMES_OF_EVENTS else SAID) for name in fields})
    if isinstance(event, e.ProviderMessage):
        event.message = {"error": {"message": SAID}}
    Content(MASKED).treat(event)
    assert SAID.encode() not in e.encode(event)


# The mapping


def mapped(path: Path, provider: Any, treatment: Treatment | None = None, capture_content: bool = True) -> list[Span]:
    recording = Recording(path, provider)
    if treatment is not None:
        for event in recording.events:
            Content(treatment).treat(event)
    return recording.session(capture_content=capture_content).take()


@pytest.mark.parametrize(("provider", "path"), RECORDED, ids=lambda value: getattr(value, "name", value))
def test_a_masked_recording_without_anybodys_data_makes_the_same_spans(provider: str, path: Path) -> None:
    plain, covered = mapped(path, provider), mapped(path, provider, MASKED)
    if f"{path.parent.name}/{path.name}" in NUMBER_AT_AN_EDGE:
        assert b"[number]" in msgspec.json.encode(covered)
        assert [tree(span) for span in plain] == [tree(span) for span in covered]
    else:
        assert plain == covered


@pytest.mark.parametrize(("provider", "path"), RECORDED, ids=lambda value: getattr(value, "name", value))
def test_a_recording_without_content_makes_the_same_tree(provider: str, path: Path) -> None:
    plain, empty = mapped(path, provider, capture_content=False), mapped(path, provider, WITHHELD, False)
    assert [tree(span) for span in plain] == [tree(span) for span in empty]


def tree(span: Span) -> list[Any]:
    """All but what was said: names, ids, times, counts, whether it failed."""
    said = re.compile(r"messages|observation\.(input|output)$|tool\.call\.(arguments|result)")
    attributes = {key: value for key, value in span.attributes.items() if not said.search(key)}
    times = [span.start_time_unix_nano, span.end_time_unix_nano]
    return [span.name, span.span_id, span.parent_span_id, *times, span.kind, span.status, attributes]


@pytest.mark.parametrize("scheduling", [{}, {"scheduling": "INTERRUPT"}])
def test_whether_a_function_failed_is_seen_without_content(scheduling: dict[str, str]) -> None:
    cases: list[tuple[dict[str, Any], bool]] = [({"error": "no table"}, True), ({"error": None, "ok": "yes"}, False)]
    for response, failed in cases:
        answers = {"functionResponses": [{"id": "c", "response": response | scheduling}]}
        event = e.ProviderMessage(provider="gemini-live", dir="sent", message={"toolResponse": answers})
        Content(WITHHELD).treat(event)
        (kept,) = event.message["toolResponse"]["functionResponses"]
        assert kept["id"] == "c"
        assert json.dumps(kept["response"]).count(NOT_CAPTURED) == (failed or not scheduling)
        assert not failed or kept["response"] == {"error": NOT_CAPTURED} | scheduling


# Nothing gets through, whatever it is and wherever it is cut


def luhn(digits: str) -> str:
    """The digits with the one that makes them a card's."""
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[::-2]]
    return digits + str(-(sum(doubled) + sum(map(int, digits[-2::-2]))) % 10)


SEPARATOR = st.sampled_from(["", " ", "-", ".", "/", " - ", "\u00a0", "\u2011", ") ", ", "])
CARDS = st.from_regex(r"[3-6][0-9]{11,17}", fullmatch=True).map(luhn)
PHONES = st.from_regex(r"\+?[0-9]{7,15}", fullmatch=True)


@st.composite
def grouped(draw: st.DrawFn) -> str:
    """A number as people write it: in groups."""
    number, parts = draw(CARDS | PHONES), list[str]()
    while number:
        size = draw(st.integers(1, 6))
        parts.append(number[:size])
        number = number[size:]
    return "".join(part + (draw(SEPARATOR) if n < len(parts) - 1 else "") for n, part in enumerate(parts))


WORDS = st.text("abc xyz.,!?äß\n", max_size=20)
PLANTED = st.emails() | grouped()


def digits_of(text: str) -> str:
    return "".join(each for each in text if each.isdecimal())


@given(PLANTED, WORDS, WORDS)
@example("4111 1111 1111 1111", "", "")
def test_nothing_planted_in_a_text_is_stored(secret: str, before: str, after: str) -> None:
    for stored in (masked(before + secret + after), str(masked_value({"a": [before + secret + after]}))):
        assert secret not in stored
        assert "@" not in stored
        assert "@" in secret or len(digits_of(stored)) < 7


@given(PLANTED, WORDS, WORDS, st.data())
def test_nothing_planted_in_two_pieces_is_stored(secret: str, before: str, after: str, data: st.DataObject) -> None:
    text = before + secret + after
    at = data.draw(st.integers(0, len(text)))
    stored = masked_chunk(text[:at]) + masked_chunk(text[at:])
    assert secret not in stored
    assert "@" not in stored
    assert "@" in secret or len(digits_of(stored)) < 7


PIECES: list[tuple[str, str, Any]] = [
    ("openai-realtime", "received", lambda t: {"type": "response.output_text.delta", "delta": t}),
    ("openai-realtime", "received", lambda t: {"type": "response.audio_transcript.delta", "delta": t}),
    (
        "openai-realtime",
        "received",
        lambda t: {"type": "conversation.item.input_audio_transcription.delta", "delta": t},
    ),
    ("gemini-live", "received", lambda t: {"serverContent": {"inputTranscription": {"text": t}}}),
    ("gemini-live", "received", lambda t: {"server_content": {"output_transcription": {"text": t}}}),
    ("gemini-live", "received", lambda t: {"serverContent": {"modelTurn": {"parts": [{"text": t}]}}}),
]


@pytest.mark.parametrize(("provider", "dir_", "message"), PIECES)
def test_providers_pieces_are_known_as_pieces(provider: Any, dir_: Any, message: Any) -> None:
    event = e.ProviderMessage(provider=provider, dir=dir_, message=reduce(provider, dir_, message("it is 555")) or {})
    Content(MASKED).treat(event)
    assert b"it is [number]" in e.encode(event)


# In the receiver


SPOKEN = [
    {"type": "transcript", "role": "user", "text": f"I am {SAID}", "final": True, "turn_id": "t", "note": SAID},
    {"type": "transcript", "role": "user", "text": "555 12", "turn_id": "t"},
    {"type": "tool_call", "call_id": "c", "name": "mail", "arguments": {"to": SAID}, "turn_id": "t"},
    {"type": "tool_result", "call_id": "c", "error": SAID},
    {"type": "turn_complete", "turn_id": "t", "user_text": SAID, "agent_text": SAID},
    {"type": "response_end", "error": SAID},
    {"type": "error", "message": SAID},
    {"type": "mark", "name": "m", "attributes": {"who": SAID}},
    {
        "type": "provider_message",
        "provider": "openai-realtime",
        "dir": "received",
        "message": {"type": "session.created", "session": {"id": "sess", "instructions": f"mail {SAID}"}},
    },
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def stored(app: App) -> tuple[str, str]:
    """What the log has of these events, and what the spans say."""
    assert (await app.post(*SPOKEN)).status_code == 204
    app.clock.now += 5
    return "".join(str(row) for row in app.rows("SELECT body FROM log")), await spans_of(app)


def files_in(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.iterdir()]


async def spans_of(app: App) -> str:
    answer = await app.client.get(f"/v1/sessions/{SESSION}/spans")
    assert answer.status_code == 200
    return answer.text


@pytest.mark.anyio
@pytest.mark.parametrize("capture", ["on", "masked", "off"])
async def test_the_log_and_the_spans_hold_what_may_be_captured(tmp_path: Path, capture: str) -> None:
    async with running(tmp_path, capture=capture) as app:
        log, spans = await stored(app)
        assert (SAID in log, SAID in spans) == ((True, True) if capture == "on" else (False, False))
        assert ("[email]" in log, "[email]" in spans) == ((True, True) if capture == "masked" else (False, False))
        assert (NOT_CAPTURED in log) is (capture == "off")
        assert '"sess"' in log
    async with running(tmp_path, capture=capture) as again:
        assert await spans_of(again) == spans
    assert capture == "on" or not any(SAID.encode() in file for file in files_in(tmp_path))


@pytest.mark.anyio
async def test_what_the_app_says_of_its_session_is_its_own_business(tmp_path: Path) -> None:
    async with running(tmp_path, capture="masked") as app:
        new = {"session_id": SESSION, "user_id": SAID, "metadata": {"mail": SAID}}
        assert (await app.client.post("/v1/sessions", json=new)).status_code == 201
        assert SAID in await spans_of(app)
