"""The mapping: tables of events -> span trees, and the properties that make it a function of the log."""

import json
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from otel_voice import events as e
from otel_voice.semconv import NO_RESULT, NOT_CAPTURED
from otel_voice.session import Session
from otel_voice.spans import Span, root_id, session_id, span_id, trace_id, traceparent
from otel_voice.summary import Summary

SESSION = "6f1c2b3a-0000-4000-8000-0000000000aa"
PREVIOUS = "6f1c2b3a-0000-4000-8000-0000000000bb"
T0 = 1_790_000_000_000.0
Line = dict[str, Any]


def event(type_: str, at: float, **fields: Any) -> Line:
    """An event `at` seconds after the start."""
    return {"type": type_, "ts": T0 + at * 1000, **fields}


def batch(*lines: Line, source: str = "page", **fields: Any) -> e.Accepted:
    return e.Accepted([Raw(json.dumps(line).encode()) for line in lines], source, **fields)


def numbered(lines: Iterable[Line]) -> list[Line]:
    return [{"seq": n, **line} for n, line in enumerate(lines)]


def run(*lines: Line, new: e.NewSession | None = None, end: bool = True) -> tuple[list[Span], Summary]:
    """Events of one source, each arriving at its own time, until everything is final."""
    session = Session(SESSION)
    session.apply(e.Created(new or e.NewSession(agent_name="weather", user_id="u1")), at=T0 - 1000)
    last = event("session_end", 1000) if end else event("mark", 1000, name="last")
    for line in numbered([*lines, last]):
        session.apply(batch(line), at=line["ts"])
    session.advance(float("inf"))
    return session.take(), session.summary()


def tree(spans: list[Span]) -> list[str]:
    """Names under their parents, in order of start, without the session's own end."""
    lines: list[str] = []

    def grow(parent: str, depth: int) -> None:
        for span in sorted(spans, key=lambda span: (span.start_time_unix_nano, span.name)):
            if span.parent_span_id == parent:
                lines.append("  " * depth + span.name)
                grow(span.span_id, depth + 1)

    grow("", 0)
    return lines


def named(spans: list[Span], name: str) -> Span:
    (found,) = [span for span in spans if span.name == name]
    return found


def seconds(span: Span) -> tuple[float, float]:
    start, end = span.start_time_unix_nano / 1e6 - T0, span.end_time_unix_nano / 1e6 - T0
    return round(start / 1000, 3), round(end / 1000, 3)


SEED = (
    event("turn_start", 1, turn_id="t1"),
    event("tool_call", 2, call_id="c1", name="get_weather", arguments={"city": "Rome"}, turn_id="t1"),
    event("tool_result", 3, call_id="c1", result={"sky": "clear"}),
    event(
        "turn_complete",
        4,
        turn_id="t1",
        user_text="How is Rome?",
        agent_text="Clear.",
        usage={"input_tokens": 10, "output_tokens": 3},
    ),
)


def test_the_four_seed_events_alone_give_the_tree() -> None:
    spans, summary = run(*SEED)
    assert tree(spans) == [
        "voice_session",
        "  invoke_agent weather",
        "    generate_content",
        "    execute_tool get_weather",
    ]
    assert (summary.turn_count, summary.tool_call_count, summary.tool_error_count) == (1, 1, 0)


def test_a_turn_holds_what_was_said_for_the_conventions_and_for_langfuse() -> None:
    turn = named(run(*SEED)[0], "invoke_agent weather")
    assert json.loads(str(turn.attributes["langfuse.observation.input"])) == [
        {"role": "user", "content": "How is Rome?"}
    ]
    assert json.loads(str(turn.attributes["langfuse.observation.output"])) == [
        {"role": "assistant", "content": "Clear."}
    ]
    assert json.loads(str(turn.attributes["gen_ai.output.messages"])) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "Clear."}]}
    ]
    assert seconds(turn) == (1, 4)
    assert turn.attributes["gen_ai.agent.invocation.end_reason"] == "completed"


def test_every_span_has_what_groups_it() -> None:
    new = e.NewSession(user_id="u1", tags=["beta"], metadata={"plan": "pro"}, environment="test", agent_name="weather")
    for span in run(*SEED, new=new)[0]:
        assert span.attributes["session.id"] == SESSION
        assert span.attributes["user.id"] == "u1"
        assert span.attributes["langfuse.trace.tags"] == ["beta"]
        assert span.attributes["langfuse.trace.metadata.plan"] == "pro"
        assert span.attributes["langfuse.environment"] == "test"


def test_the_root_shows_the_conversation_as_a_chat() -> None:
    root = named(run(*SEED)[0], "voice_session")
    question = json.loads(str(root.attributes["langfuse.observation.input"]))
    assert [message["role"] for message in question] == ["user", "assistant", "tool"]
    assert question[1]["tool_calls"][0]["function"]["name"] == "get_weather"
    assert question[2]["tool_call_id"] == "c1"
    assert json.loads(str(root.attributes["langfuse.observation.output"])) == [
        {"role": "assistant", "content": "Clear."}
    ]


def test_the_root_runs_from_the_first_event_to_the_last() -> None:
    assert seconds(named(run(*SEED)[0], "voice_session")) == (1, 1000)


def test_a_turn_complete_alone_is_a_whole_turn() -> None:
    spans, _ = run(event("turn_complete", 5, turn_id="t1", user_text="Hi", agent_text="Hello"))
    assert tree(spans) == ["voice_session", "  invoke_agent weather"]


def test_a_tool_before_an_unannounced_turn_belongs_to_the_turn_that_completes() -> None:
    spans, _ = run(
        event("tool_call", 1, call_id="a", name="look"),
        event("tool_result", 2, call_id="a", result=1),
        event("turn_complete", 3, turn_id="t1"),
        event("tool_call", 5, call_id="b", name="book"),
        event("turn_complete", 6, turn_id="t2"),
    )
    trace = trace_id(SESSION)
    assert named(spans, "execute_tool look").parent_span_id == span_id(trace, "turn", "t1")
    assert named(spans, "execute_tool book").parent_span_id == span_id(trace, "turn", "t2")


def test_parallel_tools_stay_apart() -> None:
    spans, summary = run(
        event("turn_start", 1, turn_id="t1"),
        event("tool_call", 2, call_id="a", name="one"),
        event("tool_call", 2, call_id="b", name="two"),
        event("tool_result", 3, call_id="b", result="second"),
        event("tool_result", 5, call_id="a", error="boom"),
        event("turn_complete", 6, turn_id="t1"),
    )
    one, two = named(spans, "execute_tool one"), named(spans, "execute_tool two")
    assert (seconds(one), seconds(two)) == ((2, 5), (2, 3))
    assert (one.status, one.attributes["error.type"]) == ("ERROR", "tool_error")
    assert two.attributes["gen_ai.tool.call.result"] == "second"
    assert (summary.tool_call_count, summary.tool_error_count) == (2, 1)


def test_a_cancelled_tool_says_so_without_being_an_error() -> None:
    spans, summary = run(
        event("turn_start", 1, turn_id="t1"),
        event("tool_call", 2, call_id="a", name="slow"),
        event("tool_result", 3, call_id="a", cancelled=True),
    )
    tool = named(spans, "execute_tool slow")
    assert (tool.attributes["error.type"], tool.status) == ("cancelled", "UNSET")
    assert (summary.tool_cancelled_count, summary.tool_error_count) == (1, 0)


def test_a_tool_that_is_answered_after_its_turn_is_final_keeps_its_turn() -> None:
    spans, _ = run(
        event("turn_start", 1, turn_id="t1"),
        event("tool_call", 2, call_id="a", name="slow"),
        event("turn_complete", 3, turn_id="t1"),
        event("turn_start", 10, turn_id="t2"),
        event("turn_complete", 11, turn_id="t2"),
        event("tool_result", 90, call_id="a", result="at last"),
    )
    tool = named(spans, "execute_tool slow")
    assert seconds(tool) == (2, 90)
    assert tool.parent_span_id == span_id(trace_id(SESSION), "turn", "t1")


def test_a_tool_that_nobody_answers_ends_with_the_session_as_an_error() -> None:
    spans, summary = run(event("turn_start", 1, turn_id="t1"), event("tool_call", 2, call_id="a", name="lost"))
    tool = named(spans, "execute_tool lost")
    assert seconds(tool) == (2, 1000)
    assert (tool.status, tool.attributes["error.type"]) == ("ERROR", "unanswered")
    assert summary.tool_error_count == 1


def test_a_barge_in_marks_the_turn_whose_answer_was_cut() -> None:
    spans, summary = run(
        event("turn_start", 1, turn_id="t1"),
        event("agent_speech_start", 2, measured_by="playback"),
        event("interrupted", 3, source="user_speech", heard_ms=1000, turn_id="t1"),
        event("agent_speech_end", 3, measured_by="playback"),
        event("turn_start", 3, turn_id="t2"),
    )
    (cut,) = [span for span in spans if "voice.interruption.source" in span.attributes]
    assert cut.span_id == span_id(trace_id(SESSION), "turn", "t1")
    assert cut.attributes["voice.playout.position"] == 1.0
    assert cut.attributes["gen_ai.agent.invocation.end_reason"] == "interrupted"
    assert summary.interruption_count == 1


def test_speech_becomes_a_span_only_with_both_bounds() -> None:
    spans, _ = run(
        event("user_speech_start", 1, measured_by="energy"),
        event("user_speech_end", 2, measured_by="energy"),
        event("agent_speech_start", 2.5, measured_by="playback"),
    )
    assert [span.name for span in spans if "speech" in span.name] == ["user_speech"]
    assert named(spans, "user_speech").attributes["voice.speech.measured_by"] == "energy"


def test_latency_runs_from_the_end_of_the_users_speech_to_the_audible_answer() -> None:
    spans, summary = run(
        event("user_speech_start", 1),
        event("user_speech_end", 2),
        event("agent_speech_start", 2.75),
        event("agent_speech_end", 4),
    )
    assert named(spans, "invoke_agent weather").attributes["voice.user_bot_latency"] == 0.75
    assert summary.user_bot_latency_ms.p95 == 750


def test_what_comes_after_its_turn_is_final_becomes_a_child_of_its_own() -> None:
    spans, _ = run(
        event("turn_complete", 1, turn_id="t1", user_text="Hi"),
        event("turn_complete", 2, turn_id="t2"),
        event("transcript", 50, role="user", text="Hi there", final=True, turn_id="t1"),
    )
    late = named(spans, "transcript")
    assert late.parent_span_id == span_id(trace_id(SESSION), "turn", "t1")
    assert (late.attributes["voice.event.late"], late.attributes["langfuse.observation.type"]) == (True, "event")


def test_each_span_is_emitted_once() -> None:
    spans, _ = run(*SEED, event("turn_complete", 60, turn_id="t1", agent_text="again"))
    assert len({span.span_id for span in spans}) == len(spans)


def test_a_turn_goes_out_when_the_next_one_has_begun_and_settled() -> None:
    session = Session(SESSION)
    for line in numbered([*SEED, event("turn_start", 10, turn_id="t2")]):
        session.apply(batch(line), at=line["ts"])
    session.advance(T0 + 13_900)
    assert session.take() == []
    session.advance(T0 + 14_000)
    assert "invoke_agent" in [span.name for span in session.take()]


def test_a_turn_goes_out_after_quiet_but_not_while_its_tool_runs() -> None:
    session = Session(SESSION)
    for line in numbered([event("turn_start", 0, turn_id="t1"), event("tool_call", 0, call_id="a", name="slow")]):
        session.apply(batch(line), at=T0)
    session.advance(T0 + 600_000)
    assert session.take() == []
    session.apply(batch({"seq": 2, **event("tool_result", 601, call_id="a", result=1)}), at=T0 + 601_000)
    session.advance(T0 + 640_000)
    assert [span.name for span in session.take()] == ["invoke_agent", "execute_tool slow"]


def test_lost_events_are_counted_and_refused_ones_are_not_lost() -> None:
    session = Session(SESSION)
    lines = [{**event("mark", 1, name="m"), "seq": seq} for seq in (0, 1, 5)]
    session.apply(batch(*lines, refused=[2]), at=T0 + 1000)
    session.apply(batch({**event("session_end", 2, last_seq=7), "seq": 7}), at=T0 + 2000)
    session.advance(T0 + 10_000)
    root = named(session.take(), "voice_session")
    assert (root.attributes["voice.events.received"], root.attributes["voice.events.lost"]) == (4, 3)


def test_another_event_under_a_known_number_is_a_conflict() -> None:
    session = Session(SESSION)
    first, other = event("mark", 1, name="a"), event("mark", 1, name="b")
    session.apply(batch({"seq": 0, **first}), at=T0)
    session.apply(batch({"seq": 0, **first}, {"seq": 0, **other}), at=T0)
    summary = session.summary()
    assert (summary.events_duplicate, summary.events_conflicting) == (2, 1)


def test_a_page_that_went_away_has_ended_only_after_30_seconds_and_the_settle_time() -> None:
    session = Session(SESSION)
    session.apply(batch({"seq": 0, **event("session_end", 0, reason="page_closed")}), at=T0)
    session.advance(T0 + 31_900)
    assert session.take() == []
    session.advance(T0 + 32_000)
    assert named(session.take(), "voice_session").attributes["voice.session.end_reason"] == "page_closed"


def test_a_page_that_comes_back_goes_on_with_the_session() -> None:
    session = Session(SESSION)
    session.apply(batch({"seq": 0, **event("session_end", 0, reason="page_closed")}), at=T0)
    session.apply(batch({"seq": 1, **event("turn_complete", 20, turn_id="t1")}), at=T0 + 20_000)
    session.advance(T0 + 120_000)
    assert "voice_session" not in [span.name for span in session.take()]
    session.advance(T0 + 22_000 + 30 * 60_000)
    assert named(session.take(), "voice_session").attributes["voice.session.end_reason"] == "idle_timeout"


def test_an_idle_session_ends_by_itself_at_its_last_event() -> None:
    session = Session(SESSION)
    session.apply(e.Created(e.NewSession(idle_timeout_s=60)), at=T0)
    session.apply(batch({"seq": 0, **event("turn_complete", 5, turn_id="t1")}), at=T0 + 5000)
    session.advance(T0 + 66_999)
    assert session.ended is None
    session.advance(T0 + 67_000)
    root = named(session.take(), "voice_session")
    assert root.attributes["voice.session.end_reason"] == "idle_timeout"
    assert seconds(root) == (5, 5)


def test_what_comes_after_the_end_still_reaches_the_trace() -> None:
    session = Session(SESSION)
    session.apply(batch({"seq": 0, **event("session_end", 0)}), at=T0)
    session.advance(T0 + 60_000)
    (root,) = session.take()
    session.apply(batch({"seq": 1, **event("turn_complete", 90, turn_id="late")}), at=T0 + 90_000)
    session.advance(T0 + 200_000)
    (turn,) = session.take()
    assert (turn.name, turn.parent_span_id) == ("invoke_agent", root.span_id)


def test_an_event_after_the_end_moves_neither_start_nor_end() -> None:
    session = Session(SESSION)
    session.apply(e.Created(e.NewSession(idle_timeout_s=60)), at=T0)
    session.apply(batch({"seq": 0, **event("mark", 50_000, name="m")}), at=T0 + 50_000_000)
    session.advance(float("inf"))
    assert (session.summary().started_at, session.summary().duration_ms) == (T0, 0)


def test_what_happened_after_the_end_is_after_it_though_the_end_came_late() -> None:
    session = Session(SESSION)
    session.apply(batch({"seq": 0, **event("session_end", 0)}), at=T0 + 1_900)
    session.apply(batch({"seq": 0, **event("turn_complete", 2.5, turn_id="after")}, source="tracer"), at=T0 + 2_500)
    session.advance(float("inf"))
    root = named(session.take(), "voice_session")
    assert (root.attributes["voice.events.received"], root.attributes["voice.turn.count"]) == (1, 0)


def test_two_ends_of_the_same_moment_are_one_end() -> None:
    session = Session(SESSION)
    session.apply(batch({"seq": 0, **event("session_end", 1)}, event("session_end", 1)), at=T0 + 1000)
    session.advance(float("inf"))
    assert [span.name for span in session.take()] == ["voice_session"]


def test_an_end_over_http_is_not_counted_as_an_event_and_tells_of_a_lost_tail() -> None:
    session = Session(SESSION)
    session.apply(batch({"seq": 0, **event("mark", 1, name="m")}), at=T0 + 1000)
    session.apply(e.Ended("user_hangup", last_seq=4), at=T0 + 2000)
    session.advance(float("inf"))
    root = named(session.take(), "voice_session")
    assert (root.attributes["voice.events.received"], root.attributes["voice.events.lost"]) == (1, 4)


def test_looking_at_a_session_whose_events_lie_an_idle_hour_apart_shows_one_root() -> None:
    session = Session(SESSION)
    session.apply(
        batch({"seq": 0, **event("turn_start", -7200, turn_id="t1")}, {"seq": 1, **event("mark", 0, name="m")}), at=T0
    )
    assert [span.name for span in session.so_far()[0]].count("voice_session") == 1


def test_what_is_said_first_of_a_session_holds() -> None:
    session = Session(SESSION)
    session.apply(e.Created(e.NewSession(user_id="first")), at=T0)
    session.apply(e.Created(e.NewSession(user_id="second")), at=T0)
    assert session.summary().user_id == "first"


def test_a_response_that_ends_in_another_turn_belongs_to_the_one_in_which_it_began() -> None:
    spans, _ = run(
        event("turn_start", 1, turn_id="a"),
        event("response_start", 1, response_id="r1"),
        event("turn_complete", 2, turn_id="a"),
        event("turn_start", 2.5, turn_id="b"),
        event("response_end", 3, response_id="r1", finish_reason="stop"),
    )
    response = named(spans, "generate_content")
    assert response.parent_span_id == span_id(trace_id(SESSION), "turn", "a")
    assert response.attributes["gen_ai.response.finish_reasons"] == ["stop"]


def test_a_turn_may_be_named_like_the_key_of_an_unnamed_one() -> None:
    spans, _ = run(
        event("turn_complete", 1, turn_id="page:1"),
        event("user_speech_start", 2),
        event("user_speech_end", 3),
    )
    assert len({span.span_id for span in spans}) == len(spans)


def test_of_several_ends_that_fall_due_together_the_one_that_stands_holds() -> None:
    session = Session(SESSION)
    ends = [event("mark", 0, name="m"), event("session_end", 1, reason="page_closed")]
    back = [event("mark", 2, name="m"), event("session_end", 3, reason="page_closed")]
    session.apply(batch(*numbered([*ends, *back])), at=T0 + 3000)
    session.advance(T0 + 60_000)
    assert named(session.take(), "voice_session").attributes["voice.session.end_reason"] == "page_closed"


def test_a_page_that_went_away_is_closing_until_its_hold_is_over() -> None:
    session = Session(SESSION)
    session.apply(batch({"seq": 0, **event("session_end", 0, reason="page_closed")}), at=T0)
    assert session.so_far()[1].status == "closing"
    session.advance(T0 + 60_000)
    assert session.summary().status == "ended"


def test_an_end_that_comes_before_its_events_counts_no_loss() -> None:
    session = Session(SESSION)
    session.apply(e.Ended("user_hangup", last_seq=3), at=T0)
    session.apply(batch(*numbered([event("mark", 0, name="m")] * 4)), at=T0 + 50)
    session.advance(T0 + 60_000)
    root = named(session.take(), "voice_session")
    assert (root.attributes["voice.events.received"], root.attributes["voice.events.lost"]) == (4, 0)


def test_a_senders_clock_that_is_set_forward_ends_no_session() -> None:
    session = Session(SESSION)
    session.apply(batch({"seq": 0, **event("mark", 0, name="a")}), at=T0)
    session.apply(batch({"seq": 1, **event("mark", 1900, name="b")}), at=T0 + 1000)
    session.advance(T0 + 20_000)
    assert session.ended is None


def test_a_session_that_is_described_late_keeps_what_its_messages_said() -> None:
    session = Session(SESSION)
    message = {"serverContent": {"outputTranscription": {"text": "Hi"}}}
    line = {"type": "provider_message", "provider": "gemini-live", "dir": "received", "message": message}
    session.apply(batch({"seq": 0, **line, "ts": T0}), at=T0)
    session.advance(T0 + 5_000)
    session.apply(e.Created(e.NewSession(user_id="u")), at=T0 + 6_000)
    assert session.summary().provider == "gcp.gemini"


def test_errors_and_what_marks_say_are_content_too() -> None:
    session = Session(SESSION, capture_content=False)
    lines = [
        event("tool_call", 1, call_id="a", name="x"),
        event("tool_result", 2, call_id="a", error="SECRET"),
        event("tool_call", 2, call_id="b", name="y"),
        event("response_end", 3, response_id="r", error="SECRET"),
        event("error", 4, message="SECRET", code="full"),
        event("mark", 4, name="here", attributes={"note": "SECRET", "blank": " ", "left": 3, "new": True}),
    ]
    session.apply(batch(*numbered(lines)), at=T0 + 4000)
    session.advance(float("inf"))
    spans = session.take()
    told = {span.name: (span.status, span.status_message) for span in spans if span.status == "ERROR"}
    withheld = ("ERROR", NOT_CAPTURED)
    assert told == {
        "execute_tool x": withheld,
        "execute_tool y": ("ERROR", NO_RESULT),
        "generate_content": withheld,
        "error": withheld,
    }
    mark = named(spans, "here").attributes
    assert [mark[f"voice.mark.{key}"] for key in ("note", "blank", "left", "new")] == [NOT_CAPTURED, " ", 3, True]


def test_the_senders_clock_is_corrected_by_its_own_estimate() -> None:
    session = Session(SESSION)
    line = {"seq": 0, **event("turn_complete", 0, turn_id="t1")}
    session.apply(batch(line, clock=e.Clock(offset=-5000, uncertainty=20)), at=T0)
    session.apply(batch({"seq": 1, **event("session_end", 10)}, clock=e.Clock(-4000, 90)), at=T0 + 5000)
    session.advance(T0 + 60_000)
    spans = session.take()
    assert seconds(named(spans, "invoke_agent")) == (-5, -5)
    root = named(spans, "voice_session")
    assert (root.attributes["voice.clock.offset"], root.attributes["voice.clock.uncertainty"]) == (-5.0, 0.02)


def test_without_numbers_and_times_the_arrival_counts() -> None:
    session = Session(SESSION)
    session.apply(batch({"type": "turn_start", "turn_id": "t1"}), at=T0)
    session.apply(batch({"type": "turn_complete", "turn_id": "t1"}, {"type": "session_end"}), at=T0 + 3000)
    session.advance(T0 + 60_000)
    assert seconds(named(session.take(), "invoke_agent")) == (0, 3)


def test_a_callers_traceparent_is_linked() -> None:
    caller = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    root = named(run(*SEED, new=e.NewSession(traceparent=caller))[0], "voice_session")
    assert (root.links, root.attributes["voice.caller.traceparent"]) == ([caller], caller)


def test_a_page_that_was_loaded_again_is_linked_to_the_session_it_had() -> None:
    caller = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    start = event("session_start", 0, previous_session_id=PREVIOUS)
    spans, _ = run(start, *SEED, new=e.NewSession(traceparent=caller))
    trace_id = PREVIOUS.replace("-", "")
    assert named(spans, "voice_session").links == [caller, traceparent(trace_id, root_id(trace_id))]
    assert {span.attributes["session.previous_id"] for span in spans} == {PREVIOUS}


def test_what_the_app_says_of_the_session_before_goes_before_what_a_page_says() -> None:
    start = event("session_start", 0, previous_session_id=PREVIOUS)
    spans, _ = run(start, *SEED, new=e.NewSession(previous_session_id="mine"))
    assert named(spans, "voice_session").attributes["session.previous_id"] == "mine"


def test_content_can_be_left_out() -> None:
    session = Session(SESSION, capture_content=False)
    for line in numbered([*SEED, event("session_end", 9)]):
        session.apply(batch(line), at=line["ts"])
    session.advance(float("inf"))
    for span in session.take():
        assert "Rome" not in str(span.attributes) and "Clear" not in str(span.attributes)


def test_the_conversation_on_the_root_is_cut_with_a_mark() -> None:
    lines = [event("turn_complete", n, turn_id=f"t{n}", user_text="x" * 40_000) for n in range(10)]
    root = named(run(*lines)[0], "voice_session")
    assert len(str(root.attributes["langfuse.observation.input"])) < 300_000
    assert root.attributes["voice.conversation.cut"] is True


def test_a_summary_so_far_knows_what_has_not_settled() -> None:
    session = Session(SESSION)
    session.apply(batch(*numbered(SEED[:2])), at=T0 + 2000)
    spans, summary = session.so_far()
    assert (summary.status, summary.turn_count, summary.tool_call_count, summary.tool_error_count) == ("open", 1, 1, 0)
    assert {(span.name, span.open) for span in spans} == {
        ("voice_session", True),
        ("invoke_agent", True),
        ("execute_tool get_weather", True),
    }


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("6F1C2B3A-0000-4000-8000-0000000000AA", SESSION),
        ("6f1c2b3a000040008000" + "0000000000aa", SESSION),
        ("room:7", "room:7"),
    ],
)
def test_a_session_id_has_one_form(text: str, canonical: str) -> None:
    assert session_id(text) == canonical


@pytest.mark.parametrize("text", ["", "a b", "é", "x" * 129, "0" * 32, "00000000-0000-0000-0000-000000000000"])
def test_a_bad_session_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="session_id"):
        session_id(text)


def test_ids_are_known_beforehand() -> None:
    langfuse = pytest.importorskip("langfuse")
    assert trace_id(SESSION) == SESSION.replace("-", "")
    assert trace_id("room:7") == langfuse.Langfuse.create_trace_id(seed="room:7")
    root = named(run(*SEED)[0], "voice_session")
    assert root.span_id == root_id(trace_id(SESSION))


# Properties

_texts = st.sampled_from(["a", "b", "c"])
_turns = st.none() | st.sampled_from(["t1", "t2", "t3"])
_lines = st.one_of(
    st.builds(lambda t: {"type": "turn_start", "turn_id": t}, st.sampled_from(["t1", "t2", "t3"])),
    st.builds(
        lambda t, x: {"type": "turn_complete", "turn_id": t, "agent_text": x}, st.sampled_from(["t1", "t2"]), _texts
    ),
    st.builds(
        lambda c, t: {"type": "tool_call", "call_id": c, "name": c, "turn_id": t}, st.sampled_from(["c1", "c2"]), _turns
    ),
    st.builds(lambda c, r: {"type": "tool_result", "call_id": c, "result": r}, st.sampled_from(["c1", "c2"]), _texts),
    st.builds(
        lambda r, x, f: {"type": "transcript", "role": r, "text": x, "final": f},
        st.sampled_from(["user", "agent"]),
        _texts,
        st.booleans(),
    ),
    st.sampled_from(
        [
            {"type": "user_speech_start"},
            {"type": "user_speech_start", "item_id": "i1"},
            {"type": "transcript", "role": "user", "item_id": "i1", "text": "w", "final": True},
            {"type": "user_speech_end"},
            {"type": "agent_speech_start"},
            {"type": "agent_speech_end"},
            {"type": "interrupted", "heard_ms": 5},
            {"type": "response_start", "response_id": "r1"},
            {"type": "response_end", "response_id": "r1", "usage": {"input_tokens": 4}},
            {"type": "response_end"},
            {"type": "error", "message": "m"},
            {"type": "mark", "name": "m"},
            {"type": "session_end", "reason": "user_hangup"},
            {"type": "session_end", "reason": "page_closed"},
        ]
    ),
)
_gaps = st.sampled_from([0, 1, 400, 1_500, 2_500, 9_500, 29_000, 31_000])
_jitter = st.integers(0, 1_999)
_calls = st.lists(st.tuples(_lines, _gaps, st.sampled_from(["page", "tracer"]), _jitter, _jitter, _jitter), max_size=14)


def arrivals(call: list[Any], jitter: int) -> list[tuple[float, str, Line]]:
    """A call's events as (arrival, source, event); with a jitter column, twice each, else each at its own time."""
    at, numbers, out = T0, {"page": 0, "tracer": 0}, []
    for line, gap, source, *jitters in call:
        at += gap
        numbered_line = {"seq": numbers[source], "ts": at, **line}
        numbers[source] += 1
        out.append((at + (jitters[jitter - 1] if jitter else 0), source, numbered_line))
        if jitter:
            out.append((at + jitters[2], source, numbered_line))
    return sorted(out, key=lambda arrival: arrival[0])


def told(log: list[tuple[float, str, Line]], ticks: int = 0) -> list[Span]:
    session = Session(SESSION)
    for at, source, line in log:
        for tick in range(ticks):
            session.advance(at - 3_000 + tick * 700)
        session.apply(batch(line, source=source), at=at)
    session.advance(T0 + 10**9)
    return session.take()


def ordered(spans: list[Span]) -> list[Span]:
    return sorted(spans, key=lambda span: span.span_id)


@settings(max_examples=150, deadline=None)
@given(_calls)
def test_any_order_and_duplication_within_the_settle_time_give_the_same_spans(call: list[Any]) -> None:
    first = told(arrivals(call, 1))
    assert ordered(first) == ordered(told(arrivals(call, 2)))
    assert ordered(first) == ordered(told(arrivals(call, 0)))


@settings(max_examples=100, deadline=None)
@given(_calls)
def test_it_does_not_matter_when_the_clock_is_looked_at(call: list[Any]) -> None:
    log = arrivals(call, 1)
    assert told(log) == told(log, ticks=4)


@settings(max_examples=100, deadline=None)
@given(_calls, st.integers(0, 30))
def test_a_restart_at_any_point_makes_each_span_once(call: list[Any], crash: int) -> None:
    log = arrivals(call, 1)
    before = Session(SESSION)
    for at, source, line in log[:crash]:
        before.apply(batch(line, source=source), at=at)
    made = before.take()
    after = told(log)
    assert after[: len(made)] == made


@settings(max_examples=100, deadline=None)
@given(_calls)
def test_every_span_has_its_parent_and_its_own_id(call: list[Any]) -> None:
    spans = told(arrivals(call, 1))
    ids = [span.span_id for span in spans]
    assert len(set(ids)) == len(ids)
    assert {span.parent_span_id for span in spans} <= {*ids, ""}


def test_a_tool_that_is_answered_after_its_turn_tells_what_it_answered() -> None:
    session = Session(SESSION)
    called = [
        {"type": "turn_start", "turn_id": "t1", "ts": T0},
        {"type": "tool_call", "call_id": "c", "name": "look", "turn_id": "t1", "ts": T0 + 100},
        {"type": "turn_start", "turn_id": "t2", "ts": T0 + 200},
    ]
    answered = {"type": "tool_result", "call_id": "c", "result": {"answer": 42}, "ts": T0 + 20_000, "seq": 3}
    session.apply(batch(*numbered(called)), at=T0 + 1_000)
    session.advance(T0 + 20_000)
    session.apply(batch(answered, {"type": "session_end", "ts": T0 + 20_100, "seq": 4}), at=T0 + 20_200)
    session.advance(T0 + 10**8)
    spans = {span.name: span.attributes for span in session.take()}
    assert spans["execute_tool look"]["gen_ai.tool.call.result"] == '{"answer":42}'
    assert "42" in str(spans["voice_session"]["langfuse.observation.input"])


# What a page may cost that floods its session


def many(n: int, line: Line, **each: Any) -> list[Line]:
    """The line so many times, with what differs from one to the next."""
    return [{**line, **{key: value(i) for key, value in each.items()}} for i in range(n)]


def items_of_a_turn_that_settles(n: int) -> list[Line]:
    words = many(n, {"type": "transcript", "role": "user", "text": "a", "turn_id": "t"}, item_id=str)
    return [*words, {"type": "turn_start", "turn_id": "next"}, *many(n, {"type": "mark", "name": "m"})]


def interruptions_among_open_turns(n: int) -> list[Line]:
    return [*many(n, {"type": "turn_start"}, turn_id=str), *many(n, {"type": "interrupted"})]


def ends_said_again_and_again(n: int) -> list[Line]:
    return many(n, {"type": "session_end", "reason": "page_closed"})


def ends_of_a_page_that_went_on(n: int) -> list[Line]:
    ends = many(n, {"type": "session_end", "reason": "page_closed", "ts": T0 - 40_000})
    return [*ends, *many(n, {"type": "mark", "name": "m"})]


def ends_after_the_end(n: int) -> list[Line]:
    return [{"type": "session_end", "ts": T0 - 5_000}, *many(n, {"type": "session_end"})]


def busy_turns_that_settle_one_by_one(n: int) -> list[Line]:
    starts = many(n, {"type": "turn_start"}, turn_id=str)
    calls = many(n, {"type": "tool_call", "name": "look"}, call_id=str)
    lines = [line for pair in zip(starts, calls, strict=True) for line in pair]
    return [line | {"ts": T0 + number / 8} for number, line in enumerate(lines)]


FLOODS = [
    items_of_a_turn_that_settles,
    interruptions_among_open_turns,
    ends_said_again_and_again,
    ends_of_a_page_that_went_on,
    ends_after_the_end,
    busy_turns_that_settle_one_by_one,
]


def calls_in(work: Callable[[], None]) -> int:
    """Functions entered, Python's and C's: what is done, whatever the machine's speed."""
    count = 0

    def entered(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(entered)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("flood", FLOODS)
def test_an_event_costs_the_same_however_many_came_before(flood: Callable[[int], list[Line]]) -> None:
    def cost(n: int) -> int:
        session, lines = Session(SESSION), batch(*numbered(flood(n)))

        def work() -> None:
            session.apply(lines, at=T0)
            session.advance(T0 + 10_000)

        return calls_in(work)

    assert cost(800) < 3 * cost(400)


def test_turns_that_settle_one_by_one_do_not_put_what_waits_in_order_each_time() -> None:
    def cost(n: int) -> int:
        session = Session(SESSION)
        turns = many(n, {"type": "turn_start"}, turn_id=str, ts=lambda i: T0 + i * 750 / n)
        session.apply(batch(*numbered(turns)), at=T0)
        marks = many(n, {"type": "mark", "name": "m"})
        session.apply(batch(*numbered(marks), source="other"), at=T0 + 2_500)
        return calls_in(lambda: session.advance(T0 + 4_400))

    assert cost(800) < 3 * cost(400)
