"""The allow-list: neither it nor what a page forwards changes what is told, and no message breaks anything."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_voice import events as e
from otel_voice.adapters import ADAPTERS
from otel_voice.adapters.allow import ALLOW_LIST, CHUNK, Forward, reduce
from otel_voice.adapters.recent import Recent
from tests.facts import PREFIX, RECORDINGS, Frame, everything, facts, frames, recorded, rendered

ALL = everything()
NAMES = [f"{provider}/{path.stem}" for provider, path in ALL]
every_recording = pytest.mark.parametrize(("provider", "path"), ALL, ids=NAMES)


def lines(provider: str, sent_and_received: list[Frame | None]) -> list[str]:
    return [rendered(fact) for fact in facts(provider, sent_and_received)]


def joined(provider: str, sent_and_received: list[Frame | None]) -> list[str]:
    """Facts with the chunks of each text in one place: that of the first."""
    told: dict[str, e.Fact] = {}
    for n, fact in enumerate(facts(provider, sent_and_received)):
        if not isinstance(fact, e.Transcript):
            told[str(n)] = fact
            continue
        first = told.setdefault(f"{fact.item_id} {fact.role}", fact)
        assert isinstance(first, e.Transcript)
        if first is not fact:
            first.text = fact.text if fact.final else first.text + fact.text * (not first.final)
            first.final = first.final or fact.final
    return [rendered(fact) for fact in told.values()]


def reduced(provider: Any, recording: list[Frame]) -> list[Frame | None]:
    kept = [reduce(provider, frame["dir"], frame["message"]) for frame in recording]
    return [message and frame | {"message": message} for message, frame in zip(kept, recording, strict=True)]


def forwarded(provider: Any, recording: list[Frame]) -> list[Frame | None]:
    """What a page sends; the rest of the texts comes when it closes."""
    forward, kept = Forward(provider), list[Frame | None]()
    for frame in recording:
        messages = [frame | {"message": copy.deepcopy(each)} for each in forward(frame["dir"], frame["message"])]
        for held in messages[:-1]:
            # In the place of what was held back, so that every line keeps its number.
            kept[len(kept) - 1 - kept[::-1].index(None)] = held
        kept.append(messages[-1] if messages else None)
    return kept + [{"dir": "received", "message": message} for message in forward.flush()]


@every_recording
def test_reduced_messages_tell_the_same(provider: str, path: Path) -> None:
    recording = frames(path)
    assert lines(provider, reduced(provider, recording)) == lines(provider, [*recording])


@every_recording
def test_forwarded_messages_tell_the_same(provider: str, path: Path) -> None:
    recording = frames(path)
    assert joined(provider, forwarded(provider, recording)) == joined(provider, [*recording])


@every_recording
def test_reducing_twice_changes_nothing(provider: Any, path: Path) -> None:
    for frame in reduced(provider, frames(path)):
        if frame is not None:
            assert reduce(provider, frame["dir"], frame["message"]) == frame["message"]


@every_recording
def test_no_audio_no_handle_no_padding_gets_through(provider: str, path: Path) -> None:
    kept = json.dumps(forwarded(provider, frames(path)))
    for secret in (
        "AAECAwQFBgcICQoL",
        "secret-handle",
        "obfuscation",
        'inlineData": {"',
        "parameters",
        "previous_item",
    ):
        assert secret not in kept


def test_a_page_forwards_the_first_audio_of_each_response_only() -> None:
    def markers(name: str) -> int:
        kept = [frame for frame in forwarded(PREFIX[name.split("_")[0]], recorded(name)) if frame]
        return sum("inlineData" in json.dumps(frame) or "output_audio.delta" in json.dumps(frame) for frame in kept)

    assert markers("gemini_spoken_turn") == 1
    assert markers("gemini_vertex_two_turn_completes") == 1
    assert markers("gemini_interrupt_scheduling") == 2
    assert markers("openai_spoken_turn") == 1
    assert markers("openai_barge_in_while_generating") == 2


@pytest.mark.parametrize(("content", "held"), [([{"transcript": "Once upon"}], []), ([], [" upon"])])
def test_chunks_are_given_at_the_responses_end_unless_it_tells_the_text(content: list[Frame], held: list[str]) -> None:
    forward = Forward("openai-realtime")
    chunk = {"type": "response.output_audio_transcript.delta", "response_id": "r", "item_id": "a"}
    forward("received", chunk | {"delta": "Once"})
    assert forward("received", chunk | {"delta": " upon"}) == []
    output = [{"id": "a", "type": "message", "content": content}]
    done = {"type": "response.done", "response": {"id": "r", "status": "cancelled", "output": output}}
    *rest, last = forward("received", done)
    assert ([message["delta"] for message in rest], last["type"], forward.flush()) == (held, "response.done", [])


def test_chunks_of_a_text_are_held_back_up_to_a_length_and_given_when_the_page_closes() -> None:
    forward = Forward("openai-realtime")
    chunk = {"type": "response.output_text.delta", "response_id": "r", "item_id": "a", "delta": "0123456789"}
    sent = [message["delta"] for _ in range(20) for message in forward("received", chunk)]
    assert sent == ["0123456789", "0123456789" * (CHUNK // 10)]
    assert [message["delta"] for message in forward.flush()] == ["0123456789" * 3]
    assert forward.flush() == []
    forward("received", chunk)
    forward("received", chunk)
    forward("received", {"type": "response.output_text.done", "response_id": "r", "item_id": "a", "text": "all"})
    assert forward.flush() == []


def test_texts_that_never_end_are_told_whole_and_few_are_held_back() -> None:
    forward, given = Forward("openai-realtime"), list[str]()
    for n in range(3 * Recent.LIMIT):
        chunk = {"type": "conversation.item.input_audio_transcription.delta", "item_id": f"i{n}"}
        for delta in (f"begin {n}", f" end {n}"):
            given += [message["delta"] for message in forward("received", chunk | {"delta": delta})]
        forward("received", chunk | {"type": chunk["type"].replace("delta", "failed")})
    rest = [message["delta"] for message in forward.flush()]
    assert len(rest) == Recent.LIMIT
    assert sorted(given + rest) == sorted(text for n in range(3 * Recent.LIMIT) for text in (f"begin {n}", f" end {n}"))


@pytest.mark.parametrize(
    "name", ["gemini_spoken_turn", "gemini_barge_in", "openai_spoken_turn", "openai_barge_in_while_playing"]
)
def test_a_turn_costs_a_page_few_messages_and_bytes(name: str) -> None:
    kept = [frame["message"] for frame in forwarded(PREFIX[name.split("_")[0]], recorded(name)) if frame]
    turns = 2 if "barge_in" in name else 1
    assert len(kept) / turns <= 15
    assert len(gzip.compress(json.dumps(kept, separators=(",", ":")).encode())) / turns < 800


@pytest.mark.parametrize(
    ("provider", "dir", "message", "kept"),
    [
        ("gemini-live", "sent", {"realtimeInput": {"audio": {"data": "AA"}}}, None),
        ("gemini-live", "sent", {"realtime_input": {"activity_start": {}}}, {"realtimeInput": {"activityStart": {}}}),
        ("gemini-live", "received", {"setupComplete": {}}, None),
        (
            "gemini-live",
            "received",
            {"toolCall": {"functionCalls": [{"id": "c", "args": None}]}},
            {"toolCall": {"functionCalls": [{"id": "c"}]}},
        ),
        ("gemini-live", "received", {"serverContent": {}}, None),
        ("gemini-live", "received", {"sessionResumptionUpdate": {"newHandle": "h"}}, None),
        (
            "gemini-live",
            "received",
            {
                "serverContent": {
                    "modelTurn": {"parts": [{"thought": True, "text": "Hm."}, {"inlineData": {"data": "AA"}}]}
                }
            },
            {"serverContent": {"modelTurn": {"parts": [{"thought": True}, {"inlineData": {}}]}}},
        ),
        (
            "gemini-live",
            "sent",
            {"clientContent": {"turns": "hi", "turnComplete": True}},
            {"clientContent": {"turns": [{"parts": [{"text": "hi"}]}], "turnComplete": True}},
        ),
        ("openai-realtime", "sent", {"type": "input_audio_buffer.append", "audio": "AA"}, None),
        ("openai-realtime", "received", {"type": "rate_limits.updated"}, None),
        ("openai-realtime", "received", {"type": ["response.done"]}, None),
        ("openai-realtime", "received", {}, None),
        (
            "openai-realtime",
            "received",
            {"type": "response.audio.delta", "response_id": "r", "item_id": 7, "delta": "AA"},
            {"type": "response.output_audio.delta", "response_id": "r"},
        ),
    ],
)
def test_reduce(provider: Any, dir: Any, message: Frame, kept: Frame | None) -> None:
    assert reduce(provider, dir, message) == kept


def test_the_lists_leaves_are_of_known_kinds() -> None:
    def leaves(shape: Any) -> Iterator[str]:
        if isinstance(shape, str):
            yield shape
        else:
            for inner in shape if isinstance(shape, list) else [inner for key, inner in shape.items() if key]:
                yield from leaves(inner)

    kinds = {leaf for listed in ALLOW_LIST.values() for dir in ("sent", "received") for leaf in leaves(listed[dir])}
    assert kinds <= {"string", "id", "boolean", "count", "millis", "json", "marker", "alone"}


# Hostile input

OWN = [(PREFIX[path.stem.split("_")[0]], frames(path)) for path in sorted(RECORDINGS.glob("*.jsonl"))]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key in a message at which something could be put."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in inside for place in [(value, key), *places(inner)]]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_json_in_any_place_of_any_recording_breaks_nothing(data: st.DataObject) -> None:
    provider, original = data.draw(st.sampled_from(OWN))
    recording = copy.deepcopy(original)
    for _ in range(data.draw(st.integers(1, 3))):
        within, key = data.draw(st.sampled_from(places(data.draw(st.sampled_from(recording))["message"])))
        within[key] = data.draw(json_values)
    assert lines(provider, reduced(provider, recording)) == lines(provider, [*recording])
    forwarded(provider, recording)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_order_loss_or_repetition_of_messages_breaks_anything(data: st.DataObject) -> None:
    provider, original = data.draw(st.sampled_from(OWN))
    recording = data.draw(st.lists(st.sampled_from(original), max_size=40))
    told = facts(provider, [*recording])
    starts = {fact.turn_id for fact in told if isinstance(fact, e.TurnStart)}
    about = {turn_id for fact in told if (turn_id := getattr(fact, "turn_id", None)) is not None}
    assert about == starts
    assert joined(provider, forwarded(provider, recording)) == joined(provider, [*recording])


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(ADAPTERS)), st.sampled_from(["sent", "received"]), st.data())
def test_any_json_of_known_keys_breaks_nothing(provider: Any, dir: Any, data: st.DataObject) -> None:
    listed = ALLOW_LIST[provider][dir]
    message = data.draw(st.dictionaries(st.sampled_from(sorted(listed)) | st.text(max_size=4), json_values, max_size=4))
    if provider == "openai-realtime":
        message = {"type": data.draw(st.sampled_from(sorted(listed)) | json_values)} | {
            key: data.draw(json_values)
            for key in data.draw(st.lists(st.sampled_from(["item", "response", "item_id", "usage", "delta", "error"])))
        }
    facts(provider, [{"dir": dir, "message": message}])
    Forward(provider)(dir, message)


def test_a_message_that_nests_without_end_is_read_by_the_lists_depth() -> None:
    deep: Any = "end"
    for _ in range(100_000):
        deep = {"serverContent": deep, "parts": [deep], "response": deep}
    for provider in ADAPTERS:
        facts(
            provider,
            [{"dir": "received", "message": {"serverContent": deep, "type": "response.done", "response": deep}}],
        )


@pytest.mark.parametrize(("provider", "recording"), OWN)
def test_an_adapter_stays_small_however_long_the_call(provider: Any, recording: list[Frame]) -> None:
    adapter = ADAPTERS[provider]()
    for n in range(3_000 // len(recording)):
        for line, frame in enumerate(json.loads(json.dumps(recording).replace("_", f"{n}_"))):
            message = e.ProviderMessage(provider=provider, dir=frame["dir"], message=frame["message"], ts=1.8e12)
            adapter.feed(message, f"{n}:{line}")
    assert len(repr(vars(copy.deepcopy(adapter)))) < 400_000
