"""What was heard: bounds that a page measures, beside a provider that listens for itself."""

from __future__ import annotations

from typing import Any

from otel_voice.spans import Span
from otel_voice.summary import Summary
from tests.test_session import event, named, run, seconds

Line = dict[str, Any]


def gemini(at: float, **content: Any) -> Line:
    message = {"serverContent": content}
    return event("provider_message", at, provider="gemini-live", dir="received", message=message)


SETUP = event("provider_message", -20, provider="gemini-live", dir="received", message={"setupComplete": {}})


def said(at: float, text: str) -> Line:
    return gemini(at, inputTranscription={"text": text})


def audio(at: float) -> Line:
    return gemini(at, modelTurn={"parts": [{"inlineData": {}}]})


def user(start: float, end: float) -> list[Line]:
    return [event(f"user_speech_{what}", at, measured_by="energy") for what, at in (("start", start), ("end", end))]


def agent(start: float, end: float, measured_by: str = "playback") -> list[Line]:
    return [event(f"agent_speech_{what}", at, measured_by=measured_by) for what, at in (("start", start), ("end", end))]


def told(*lines: Line) -> tuple[list[Span], Summary]:
    return run(SETUP, *sorted(lines, key=lambda line: line["ts"]))


def turns(spans: list[Span]) -> list[Span]:
    return sorted(
        (span for span in spans if span.name.startswith("invoke_agent")),
        key=lambda span: span.attributes["voice.turn.number"],
    )


def speech(spans: list[Span], of: Span) -> list[tuple[str, float, float]]:
    mine = [span for span in spans if span.name.endswith("_speech") and span.parent_span_id == of.span_id]
    return sorted((span.name, *seconds(span)) for span in mine)


FIRST = [said(2.2, "How is Rome?"), audio(2.5), gemini(2.6, generationComplete=True), gemini(5, turnComplete=True)]


def test_sound_in_which_the_provider_hears_words_is_the_users_speech() -> None:
    spans, summary = told(*user(1, 2), *FIRST, *agent(2.7, 4.8))
    (turn,) = turns(spans)
    assert speech(spans, turn) == [("agent_speech", 2.7, 4.8), ("user_speech", 1, 2)]
    assert turn.attributes["voice.user_bot_latency"] == 0.7
    assert summary.user_bot_latency_ms.p50 == 700


def test_sound_without_words_is_no_speech_and_begins_no_turn() -> None:
    greeting = [audio(1), gemini(1.5, generationComplete=True), gemini(4, turnComplete=True)]
    spans, _ = told(*greeting, *agent(1.2, 3.8), *user(2, 2.2))
    (turn,) = turns(spans)
    assert speech(spans, turn) == [("agent_speech", 1.2, 3.8)]
    assert "voice.user_bot_latency" not in turn.attributes


def test_of_the_sounds_before_an_answer_the_last_without_a_pause_is_what_was_said() -> None:
    spans, _ = told(*user(-9, -8), *user(0.2, 0.8), *user(1, 2), *FIRST, *agent(2.7, 4.8))
    (turn,) = turns(spans)
    assert [each for each in speech(spans, turn) if each[0] == "user_speech"] == [
        ("user_speech", 0.2, 0.8),
        ("user_speech", 1, 2),
    ]


def test_the_providers_own_bounds_go_before_sound() -> None:
    detected = [
        event(
            "provider_message",
            at,
            provider="gemini-live",
            dir="received",
            message={"voiceActivity": {"voiceActivityType": kind}},
        )
        for at, kind in ((1.1, "ACTIVITY_START"), (1.9, "ACTIVITY_END"))
    ]
    spans, _ = told(*detected, *user(1, 2), *FIRST, *agent(2.7, 4.8))
    assert seconds(named(spans, "user_speech")) == (1.1, 1.9)
    assert named(spans, "user_speech").attributes["voice.speech.measured_by"] == "provider_vad"


def test_a_barge_in_cuts_the_answer_where_its_playback_ends_and_says_how_much_was_heard() -> None:
    cut = [gemini(4, interrupted=True), gemini(4.01, turnComplete=True), said(4.6, "Stop")]
    second = [audio(5), gemini(5.2, generationComplete=True), gemini(7, turnComplete=True)]
    spans, summary = told(*user(1, 2), *FIRST[:3], *agent(2.7, 4.1), *user(3.6, 4.4), *cut, *second, *agent(5.1, 6.9))
    first, last = turns(spans)
    assert speech(spans, first) == [("agent_speech", 2.7, 4.1), ("user_speech", 1, 2)]
    assert speech(spans, last) == [("agent_speech", 5.1, 6.9), ("user_speech", 3.6, 4.4)]
    assert first.attributes["voice.playout.position"] == 1.4
    assert (first.attributes["voice.interruption.source"], summary.interruption_count) == ("user_speech", 1)
    assert last.attributes["voice.user_bot_latency"] == 0.7


def test_the_end_of_a_playback_belongs_to_the_answer_although_the_next_turn_has_begun() -> None:
    def openai(at: float, **message: Any) -> Line:
        return event("provider_message", at, provider="openai-realtime", dir="received", message=message)

    spans, _ = told(
        openai(1, type="response.created", response={"id": "r1"}),
        openai(1.2, type="response.output_audio.delta", response_id="r1", item_id="a1"),
        openai(1.5, type="response.done", response={"id": "r1", "status": "completed"}),
        *agent(1.3, 4.2),
        openai(4, type="input_audio_buffer.speech_started", item_id="u1"),
        openai(5, type="input_audio_buffer.speech_stopped", item_id="u1"),
    )
    first, last = turns(spans)
    assert speech(spans, first) == [("agent_speech", 1.3, 4.2)]
    assert speech(spans, last) == [("user_speech", 4, 5)]


def test_a_providers_playback_goes_before_the_energy_of_its_stream() -> None:
    def openai(at: float, **message: Any) -> Line:
        return event("provider_message", at, provider="openai-realtime", dir="received", message=message)

    spans, _ = told(
        openai(1, type="response.created", response={"id": "r1"}),
        openai(1.5, type="response.done", response={"id": "r1", "status": "completed"}),
        openai(1.3, type="output_audio_buffer.started", response_id="r1"),
        openai(4.2, type="output_audio_buffer.stopped", response_id="r1"),
        *agent(1.35, 4.1, "energy"),
    )
    assert seconds(named(spans, "agent_speech")) == (1.3, 4.2)


def test_where_nobody_listens_the_page_is_believed() -> None:
    spans, _ = run(*user(1, 2), *agent(2.5, 3))
    assert speech(spans, turns(spans)[0]) == [("agent_speech", 2.5, 3), ("user_speech", 1, 2)]
