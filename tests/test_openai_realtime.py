"""OpenAI Realtime: what was recorded -> the facts. `turn=3` is the turn that line 3 of the recording opened."""

from __future__ import annotations

import pytest
from msgspec import UNSET

from otel_voice import events as e
from tests.facts import Frame, facts, told

CASES: list[tuple[str, str, str, str]] = [
    (
        "spoken_turn",
        "a spoken question is one turn, though its transcript comes after the answer has begun",
        "",
        r"""
        session_facts provider=openai provider_session_id=sess_f10r15t model=gpt-realtime instructions="Be brief."
        session_facts provider=openai provider_session_id=sess_f10r15t model=gpt-realtime instructions="Be brief."
        turn_start turn=4
        user_speech_start measured_by=provider_vad turn=4 item=item_u1
        user_speech_end measured_by=provider_vad turn=4 item=item_u1
        response_start response=resp_1 turn=4
        response_output response=resp_1 turn=4
        transcript role=agent text=We item=item_a1 turn=4 response=resp_1
        transcript role=user text="Do you have tulips?" final=true item=item_u1 turn=4
        transcript role=agent text=" do." item=item_a1 turn=4 response=resp_1
        transcript role=agent text="We do." final=true item=item_a1 turn=4 response=resp_1
        response_end response=resp_1 finish=stop usage=in:120,out:60,in_audio:120,out_audio:60 turn=4
        turn_complete turn=4 end_reason=completed
        """,
    ),
    (
        "barge_in_while_generating",
        "speech that cancels a running response interrupts its turn, and a truncation says how much was heard",
        "turn_start user_speech_start interrupted turn_complete response_end",
        r"""
        turn_start turn=4
        user_speech_start measured_by=provider_vad turn=4 item=item_u1
        turn_start turn=24
        user_speech_start measured_by=provider_vad turn=24 item=item_u2
        response_end response=resp_1 finish=cancelled usage=in:120,out:60 turn=4
        interrupted turn=4 response=resp_1
        turn_complete turn=4 end_reason=interrupted
        interrupted heard_ms=640.0 turn=4 response=resp_1
        response_end response=resp_2 finish=stop usage=in:120,out:60 turn=24
        turn_complete turn=24 end_reason=completed
        """,
    ),
    (
        "barge_in_while_playing",
        "over WebRTC the interrupted response is long done: the cleared playback tells",
        "turn_start agent_speech_start agent_speech_end interrupted turn_complete",
        r"""
        turn_start turn=4
        agent_speech_start measured_by=playback turn=4 response=resp_1
        turn_complete turn=4 end_reason=completed
        turn_start turn=28
        agent_speech_end measured_by=playback turn=4 response=resp_1
        interrupted turn=4 response=resp_1
        turn_complete turn=4 end_reason=interrupted
        interrupted heard_ms=1350.0 turn=4 response=resp_1
        agent_speech_start measured_by=playback turn=28 response=resp_2
        turn_complete turn=28 end_reason=completed
        agent_speech_end measured_by=playback turn=28 response=resp_2
        turn_complete turn=28 end_reason=completed
        """,
    ),
    (
        "said_in_full_then_cancelled",
        "a response cancelled after its playback had stopped was not interrupted",
        "turn_start agent_speech_end interrupted turn_complete response_end",
        r"""
        turn_start turn=4
        agent_speech_end measured_by=playback turn=4 response=resp_1
        turn_start turn=24
        response_end response=resp_1 finish=cancelled usage=in:120,out:60 turn=4
        turn_complete turn=4 end_reason=completed
        """,
    ),
    (
        "generated_in_full_then_cancelled",
        "without playback events a whole response is taken as heard, until a truncation says otherwise",
        "turn_start interrupted turn_complete response_end",
        r"""
        turn_start turn=4
        turn_start turn=26
        response_end response=resp_1 finish=cancelled usage=in:120,out:60 turn=4
        turn_complete turn=4 end_reason=completed
        interrupted heard_ms=0.0 turn=4 response=resp_1
        turn_complete turn=4 end_reason=interrupted
        """,
    ),
    (
        "cancel_by_client",
        "a response the client cancels is interrupted programmatically",
        "turn_start interrupted turn_complete response_end",
        r"""
        turn_start turn=5
        response_end response=resp_1 finish=cancelled usage=in:120,out:60 turn=5
        interrupted source=programmatic turn=5 response=resp_1
        turn_complete turn=5 end_reason=interrupted
        turn_start turn=17
        response_end response=resp_2 finish=stop usage=in:120,out:60 turn=17
        turn_complete turn=17 end_reason=completed
        """,
    ),
    (
        "vad_cuts",
        "an utterance cut into several items with an empty response between them is one turn",
        "turn_start user_speech_start transcript false_start interrupted turn_complete",
        r"""
        turn_start turn=4
        user_speech_start measured_by=provider_vad turn=4 item=item_u1
        user_speech_start measured_by=provider_vad turn=4 item=item_u2
        false_start response=resp_1 turn=4
        transcript role=user text="red tulips." final=true item=item_u2 turn=4
        transcript role=user text="I would like" final=true item=item_u1 turn=4
        transcript role=agent text=Gladly. item=item_a2 turn=4 response=resp_2
        transcript role=agent text=Gladly. final=true item=item_a2 turn=4 response=resp_2
        turn_complete turn=4 end_reason=completed
        """,
    ),
    (
        "transcripts_out_of_order",
        "transcripts find their turn by item",
        "turn_start transcript",
        r"""
        turn_start turn=4
        transcript role=agent text=Hello. item=item_a1 turn=4 response=resp_1
        transcript role=agent text=Hello. final=true item=item_a1 turn=4 response=resp_1
        turn_start turn=21
        transcript role=user text="Second question?" final=true item=item_u2 turn=21
        transcript role=user text="First question?" final=true item=item_u1 turn=4
        transcript role=agent text=Yes. item=item_a2 turn=21 response=resp_2
        transcript role=agent text=Yes. final=true item=item_a2 turn=21 response=resp_2
        """,
    ),
    (
        "transcription_failed",
        "a failed transcription is an error on a turn that stays intact",
        "turn_start error turn_complete",
        r"""
        turn_start turn=4
        error message="The audio could not be transcribed." code=audio_unintelligible turn=4
        turn_complete turn=4 end_reason=completed
        """,
    ),
    (
        "tool_round",
        "a function call, its result and the answer are one turn; the server's echoes add nothing",
        "turn_start transcript tool_call tool_result response_start response_end turn_complete",
        r"""
        turn_start turn=5
        transcript role=user text="Is Monday free?" final=true typed=true item=4 turn=5
        response_start response=resp_1 turn=5
        tool_call call=call_1 name=find_slot arguments={"day": "monday"} turn=5 response=resp_1
        tool_result call=call_1 result={"free": true} name=find_slot turn=5
        response_end response=resp_1 finish=tool_calls usage=in:120,out:60 turn=5
        response_start response=resp_2 turn=5
        transcript role=agent text=Monday item=item_a1 turn=5 response=resp_2
        transcript role=agent text=" is" item=item_a1 turn=5 response=resp_2
        transcript role=agent text=" free." item=item_a1 turn=5 response=resp_2
        transcript role=agent text="Monday is free." final=true item=item_a1 turn=5 response=resp_2
        response_end response=resp_2 finish=stop usage=in:120,out:60 turn=5
        turn_complete turn=5 end_reason=completed
        """,
    ),
    (
        "message_and_calls_interleaved",
        "a response may speak and call; arguments that are no JSON stay a string",
        "turn_start transcript tool_call tool_result turn_complete",
        r"""
        turn_start turn=4
        transcript role=agent text="Let me" item=item_a1 turn=4 response=resp_1
        tool_call call=call_1 name=find_slot arguments="{not json" turn=4 response=resp_1
        transcript role=agent text=" check." item=item_a1 turn=4 response=resp_1
        tool_call call=call_2 name=find_slot arguments={"day": "tuesday"} turn=4 response=resp_1
        transcript role=agent text="Let me check." final=true item=item_a1 turn=4 response=resp_1
        tool_result call=call_2 result=free name=find_slot turn=4
        tool_result call=call_1 result=[1, 2] name=find_slot turn=4
        transcript role=agent text=Tuesday. item=item_a2 turn=4 response=resp_2
        transcript role=agent text=Tuesday. final=true item=item_a2 turn=4 response=resp_2
        turn_complete turn=4 end_reason=completed
        """,
    ),
    (
        "barge_in_during_tool",
        "who speaks during a tool's work opens a turn; what the agent says to the late result is its own",
        "turn_start tool_call tool_result response_start turn_complete",
        r"""
        turn_start turn=4
        response_start response=resp_1 turn=4
        tool_call call=call_1 name=find_slot turn=4 response=resp_1
        turn_start turn=15
        response_start response=resp_2 turn=15
        turn_complete turn=15 end_reason=completed
        tool_result call=call_1 result=10:00 name=find_slot turn=4
        turn_start turn=36
        response_start response=resp_3 turn=36
        turn_complete turn=36 end_reason=completed
        """,
    ),
    (
        "history",
        "items made without asking for a response are history",
        "history_item turn_start transcript",
        r"""
        history_item role=user text="My name is Ada."
        history_item role=assistant text="Hello Ada."
        history_item role=system text="She likes peonies."
        turn_start turn=13
        transcript role=agent text=Hello item=item_a1 turn=13 response=resp_1
        transcript role=agent text=" again." item=item_a1 turn=13 response=resp_1
        transcript role=agent text="Hello again." final=true item=item_a1 turn=13 response=resp_1
        """,
    ),
    (
        "server_side_only",
        "seen from the server's side alone, a written question is a turn and a result without a call is told",
        "session_facts turn_start transcript tool_result",
        r"""
        session_facts provider=openai provider_session_id=sess_f10r15t model=gpt-realtime instructions="Be brief."
        turn_start turn=4
        transcript role=user text="Any tulips?" final=true typed=true item=item_w1 turn=4
        transcript role=agent text=Yes. item=item_a1 turn=4 response=resp_1
        transcript role=agent text=Yes. final=true item=item_a1 turn=4 response=resp_1
        tool_result call=call_x result=done turn=4
        """,
    ),
    (
        "push_to_talk",
        "without voice detection the committed item opens the turn and holds its place",
        "turn_start transcript user_speech_start user_speech_end",
        r"""
        turn_start turn=5
        transcript role=user text="" item=item_u1 turn=5
        user_speech_end turn=5 item=item_u1
        transcript role=agent text=Good item=item_a1 turn=5 response=resp_1
        transcript role=agent text=" day." item=item_a1 turn=5 response=resp_1
        transcript role=agent text="Good day." final=true item=item_a1 turn=5 response=resp_1
        transcript role=user text=Hello. final=true item=item_u1 turn=5
        """,
    ),
    (
        "greeting_and_timeout",
        "a greeting and an answer to silence are turns without a user",
        "turn_start user_speech_start transcript turn_complete",
        r"""
        turn_start turn=5
        transcript role=agent text=Welcome! item=item_a1 turn=5 response=resp_1
        transcript role=agent text=Welcome! final=true item=item_a1 turn=5 response=resp_1
        turn_complete turn=5 end_reason=completed
        turn_complete turn=5 end_reason=completed
        turn_start turn=22
        transcript role=agent text=Are item=item_a2 turn=22 response=resp_2
        transcript role=agent text=" you" item=item_a2 turn=22 response=resp_2
        transcript role=agent text=" still" item=item_a2 turn=22 response=resp_2
        transcript role=agent text=" there?" item=item_a2 turn=22 response=resp_2
        transcript role=agent text="Are you still there?" final=true item=item_a2 turn=22 response=resp_2
        turn_complete turn=22 end_reason=completed
        turn_complete turn=22 end_reason=completed
        """,
    ),
    (
        "seeded_tool_round",
        "a tool round that the client tells of is history: no call, no turn",
        "history_item turn_start tool_call tool_result",
        r"""
        history_item role=user text="Is Monday free?"
        history_item role=assistant text="Monday is free."
        turn_start turn=9
        """,
    ),
    (
        "connected_again",
        "what a client repeats on a new connection was told already",
        "history_item turn_start tool_call tool_result response_start",
        r"""
        turn_start turn=3
        response_start response=resp_1 turn=3
        tool_call call=call_1 name=find_slot arguments={"day": "monday"} turn=3 response=resp_1
        tool_result call=call_1 result={"free": true} name=find_slot turn=3
        response_start response=resp_2 turn=3
        turn_start turn=28
        response_start response=resp_9 turn=28
        """,
    ),
    (
        "failed_and_asked_again",
        "after a failure the app's next attempt belongs to the same turn, and the user's next words to another",
        "turn_start response_start response_end",
        r"""
        turn_start turn=2
        response_start response=resp_1 turn=2
        response_end response=resp_1 finish=tool_calls usage=in:10,out:5,in_text:10,out_audio:5 turn=2
        response_start response=resp_2 turn=2
        response_end response=resp_2 finish=error error="Too many." error_type=rate_limit_exceeded turn=2
        response_start response=resp_3 turn=2
        response_end response=resp_3 finish=stop usage=in:10,out:5,in_text:10,out_audio:5 turn=2
        turn_start turn=26
        response_start response=resp_4 turn=26
        response_end response=resp_4 finish=error error="Too many." error_type=rate_limit_exceeded turn=26
        turn_start turn=33
        response_start response=resp_5 turn=33
        response_end response=resp_5 finish=stop usage=in:10,out:5,in_text:10,out_audio:5 turn=33
        """,
    ),
    (
        "failed_and_incomplete",
        "failures say why, and the next attempt belongs to the same turn",
        "turn_start response_start response_end error",
        r"""
        turn_start turn=5
        response_start response=resp_1 turn=5
        response_end response=resp_1 finish=error usage= error="Too many." error_type=rate_limit_exceeded turn=5
        response_start response=resp_2 turn=5
        response_end response=resp_2 finish=length usage=in:120,out:60 turn=5
        error message="Nothing to cancel." code=response_cancel_not_active
        """,
    ),
    (
        "beta_names",
        "the beta's names mean the same",
        "",
        r"""
        session_facts provider=openai provider_session_id=sess_f10r15t model=gpt-realtime instructions="Be brief."
        turn_start turn=3
        transcript role=user text=Hi. final=true typed=true item=2 turn=3
        response_start response=resp_1 turn=3
        response_output response=resp_1 turn=3
        transcript role=agent text=Hel item=item_a1 turn=3 response=resp_1
        transcript role=agent text=Hello. final=true item=item_a1 turn=3 response=resp_1
        response_end response=resp_1 finish=stop usage=in:120,out:60,reasoning:4 turn=3
        turn_complete turn=3 end_reason=completed
        turn_start turn=11
        transcript role=user text="In text." final=true typed=true item=10 turn=11
        response_start response=resp_2 turn=11
        response_output response=resp_2 turn=11
        transcript role=agent text=O item=item_a2 turn=11 response=resp_2
        transcript role=agent text=Okay. final=true item=item_a2 turn=11 response=resp_2
        response_end response=resp_2 finish=stop usage=in:120,out:60 turn=11
        turn_complete turn=11 end_reason=completed
        """,
    ),
    (
        "compatible_server",
        "a compatible server's odd shapes are read as far as they go, and a resumed session repeats nothing",
        "session_facts history_item turn_start transcript interrupted response_end",
        r"""
        session_facts provider=openai provider_session_id=sess_x1 model=gpt-realtime instructions="Be brief."
        turn_start turn=2
        transcript role=user text="What is" final=true item=item_u1 turn=2
        transcript role=user text="What is open?" final=true item=item_u1 turn=2
        transcript role=agent text="We are." item=item_a1 turn=2 response=resp_1
        transcript role=agent text="We are." final=true item=item_a1 turn=2 response=resp_1
        response_end response=resp_1 finish=cancelled usage=in:50,out:9 turn=2
        interrupted turn=2 response=resp_1
        session_facts provider=openai provider_session_id=sess_x2 model=gpt-realtime instructions="Be brief."
        turn_start turn=18
        transcript role=user text=Thanks. final=true item=item_u2 turn=18
        transcript role=agent text=Bye. item=item_a2 turn=18 response=resp_2
        transcript role=agent text=Bye. final=true item=item_a2 turn=18 response=resp_2
        response_end response=resp_2 finish=stop usage=in:120,out:60 turn=18
        """,
    ),
    (
        "response_apart",
        "a response beside the conversation counts its tokens and says nothing",
        "turn_start transcript response_start response_end turn_complete",
        r"""
        turn_start turn=4
        response_start response=resp_1 turn=4
        transcript role=agent text=Hello. item=item_a1 turn=4 response=resp_1
        transcript role=agent text=Hello. final=true item=item_a1 turn=4 response=resp_1
        response_end response=resp_1 finish=stop usage=in:120,out:60 turn=4
        turn_complete turn=4 end_reason=completed
        response_start response=resp_x turn=4
        response_end response=resp_x finish=stop usage=in:20,out:2 turn=4
        """,
    ),
    (
        "cut_off",
        "of an answer that never ends the words so far are kept",
        "turn_start transcript turn_complete",
        r"""
        turn_start turn=5
        transcript role=user text="Count, please." final=true typed=true item=4 turn=5
        transcript role=agent text=One item=item_a1 turn=5 response=resp_1
        transcript role=agent text=" two" item=item_a1 turn=5 response=resp_1
        transcript role=agent text=" three" item=item_a1 turn=5 response=resp_1
        transcript role=agent text=" four" item=item_a1 turn=5 response=resp_1
        transcript role=agent text=" five" item=item_a1 turn=5 response=resp_1
        transcript role=agent text=" six" item=item_a1 turn=5 response=resp_1
        transcript role=agent text=" seven" item=item_a1 turn=5 response=resp_1
        """,
    ),
]


@pytest.mark.parametrize(("name", "says", "kinds", "expected"), CASES, ids=[case[0] for case in CASES])
def test_recording(name: str, says: str, kinds: str, expected: str) -> None:
    lines = [line.strip() for line in expected.strip().splitlines()]
    assert told(f"openai_{name}", *kinds.split()) == lines, says


def received(type: str, **keys: object) -> Frame:
    return {"dir": "received", "message": {"type": type, **keys}}


def sent(type: str, **keys: object) -> Frame:
    return {"dir": "sent", "message": {"type": type, **keys}}


def created(id: str = "r") -> Frame:
    return received("response.created", response={"id": id, "conversation_id": "c"})


def done(**response: object) -> Frame:
    return received("response.done", response={"id": "r", "status": "completed", **response})


def ended(**response: object) -> e.ResponseEnd:
    told_of = facts("openai-realtime", [created(), done(**response)])
    (end,) = [fact for fact in told_of if isinstance(fact, e.ResponseEnd)]
    return end


def user(text: str, **keys: object) -> Frame:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    return sent("conversation.item.create", item=item | keys)


@pytest.mark.parametrize(
    ("response", "finish_reason", "error"),
    [
        ({"output": [{"type": "message"}]}, "stop", None),
        ({"output": [{"type": "function_call"}]}, "tool_calls", None),
        ({"output": [{"type": "message"}, {"type": "function_call"}]}, "stop", None),
        ({"status": "cancelled", "status_details": {"reason": "turn_detected"}}, "cancelled", None),
        ({"status": "incomplete", "status_details": {"reason": "max_output_tokens"}}, "length", None),
        ({"status": "incomplete", "status_details": {"reason": "content_filter"}}, "content_filter", None),
        ({"status": "failed", "status_details": {"error": {"code": "overloaded"}}}, "error", "overloaded"),
        ({"status": "failed", "status_details": "no capacity"}, "error", "no capacity"),
        ({"status": "failed"}, "error", "failed"),
        ({"status": 7}, None, None),
    ],
)
def test_finish_reason(response: dict[str, object], finish_reason: str | None, error: str | None) -> None:
    end = ended(**response)
    assert (end.finish_reason, end.error) == (finish_reason, error)


def test_usage_keeps_every_detail_that_was_given() -> None:
    usage = {
        "input_tokens": 100,
        "output_tokens": 30,
        "input_token_details": {
            "text_tokens": 40,
            "audio_tokens": 50,
            "image_tokens": 10,
            "cached_tokens": 32,
            "cached_tokens_details": {"text_tokens": 12, "audio_tokens": 20},
        },
        "output_token_details": {"text_tokens": 12, "audio_tokens": 18, "reasoning_tokens": 5},
    }
    assert ended(usage=usage).usage == e.Usage(100, 30, 40, 50, 10, 12, 18, 32, 12, 20, 5)


@pytest.mark.parametrize(
    ("given", "result"),
    [
        ('{"free": true}', {"free": True}),
        ("[1, 2]", [1, 2]),
        ("12", "12"),
        ("It is foggy.", "It is foggy."),
        ("[" * 5_000, "[" * 5_000),
        ("[" * 70 + "]" * 70, "[" * 70 + "]" * 70),
        ({"odd": "shape"}, {"odd": "shape"}),
    ],
)
def test_a_tools_output_is_parsed_where_it_is_a_json_object_or_array(given: object, result: object) -> None:
    output = sent("conversation.item.create", item={"type": "function_call_output", "call_id": "c", "output": given})
    (told_of,) = facts("openai-realtime", [output])
    assert isinstance(told_of, e.ToolResult)
    assert told_of.result == result


def test_a_client_that_cancels_because_the_user_speaks_only_carries_out_the_barge_in() -> None:
    speaking = [user("Hi."), sent("response.create"), created(), received("response.output_text.delta", delta="Well")]
    barge_in = [received("input_audio_buffer.speech_started", item_id="u2"), sent("response.cancel")]
    cancelled = done(status="cancelled", status_details={"reason": "client_cancelled"})
    (cut,) = [
        fact for fact in facts("openai-realtime", [*speaking, *barge_in, cancelled]) if isinstance(fact, e.Interrupted)
    ]
    assert (cut.source, cut.turn_id) == ("user_speech", "2")


def test_a_clients_own_item_id_is_not_doubled_by_its_echo() -> None:
    item = {"id": "mine", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi."}]}
    echo = received("conversation.item.added", item=item)
    for frames in ([user("Hi.", id="mine"), echo, sent("response.create"), created()], [echo, created(), echo]):
        told_of = facts("openai-realtime", [*frames])
        assert [(fact.text, fact.item_id) for fact in told_of if isinstance(fact, e.Transcript)] == [("Hi.", "mine")]


def test_two_written_items_before_one_response_are_one_turn() -> None:
    told_of = facts("openai-realtime", [user("First."), user("Second."), sent("response.create"), created()])
    assert [fact.turn_id for fact in told_of if isinstance(fact, e.TurnStart)] == ["3"]
    assert [fact.text for fact in told_of if isinstance(fact, e.Transcript)] == ["First.", "Second."]


def test_the_parts_of_an_item_have_texts_of_their_own() -> None:
    parts = [
        received("response.output_text.done", response_id="r", item_id="a", content_index=n, text=text)
        for n, text in enumerate(("One.", "Two."))
    ]
    told_of = facts("openai-realtime", [created(), *parts])
    assert [fact.item_id for fact in told_of if isinstance(fact, e.Transcript)] == ["a", "a/1"]


def test_an_item_whose_words_were_never_streamed_is_told_by_the_responses_end() -> None:
    message = {"id": "a", "type": "message", "status": "completed", "content": [{"type": "text", "text": "Hello."}]}
    call = {"type": "function_call", "call_id": "c", "name": "n", "arguments": "{}", "status": "completed"}
    unfinished = call | {"call_id": "d", "status": "incomplete"}
    told_of = facts("openai-realtime", [created(), done(output=[message, call, unfinished])])
    assert [fact.text for fact in told_of if isinstance(fact, e.Transcript)] == ["Hello."]
    assert [fact.call_id for fact in told_of if isinstance(fact, e.ToolCall)] == ["c"]


def test_a_response_that_was_asked_for_before_the_first_turn_and_beside_it_says_nothing() -> None:
    beside = received("response.created", response={"id": "r"})
    assert facts("openai-realtime", [sent("response.create", response={"conversation": "none"}), beside, done()]) == []


def test_speech_that_goes_on_while_a_first_answer_slips_out_is_one_turn() -> None:
    def speech(item_id: str) -> Frame:
        return received("input_audio_buffer.speech_started", item_id=item_id)

    slip = received("response.output_audio_transcript.delta", response_id="r", item_id="a", delta="Yes")
    cancelled = done(status="cancelled", status_details={"reason": "turn_detected"})
    frames = [speech("u1"), created(), speech("u2"), slip, cancelled, speech("u3"), created("r2")]
    told_of = facts("openai-realtime", [*frames])
    assert [fact.turn_id for fact in told_of if isinstance(fact, e.TurnStart)] == ["1"]
    assert [fact.turn_id for fact in told_of if isinstance(fact, e.ResponseStart)] == ["1", "1"]


def test_an_answer_played_to_its_end_is_not_interrupted_by_a_truncation() -> None:
    audio = received("response.output_audio.delta", response_id="r", item_id="a")
    stopped = received("output_audio_buffer.stopped", response_id="r")
    truncated = received("conversation.item.truncated", item_id="a", audio_end_ms=900)
    told_of = facts("openai-realtime", [created(), audio, done(), stopped, truncated])
    assert not [fact for fact in told_of if isinstance(fact, e.Interrupted)]


def test_a_transcripts_last_newline_is_dropped() -> None:
    heard = received("conversation.item.input_audio_transcription.completed", item_id="u", transcript="Hi.\n")
    assert [fact.text for fact in facts("openai-realtime", [heard]) if isinstance(fact, e.Transcript)] == ["Hi."]


def test_what_the_app_writes_while_the_user_speaks_is_history_when_the_provider_answers_the_speech() -> None:
    speech = received("input_audio_buffer.speech_started", item_id="u")
    told_of = facts("openai-realtime", [speech, user("The cart is empty."), created()])
    assert [fact.text for fact in told_of if isinstance(fact, e.HistoryItem)] == ["The cart is empty."]


def test_a_resumed_sessions_items_are_not_told_again() -> None:
    old = received("conversation.item.added", item={"type": "message", "role": "user", "content": [{"text": "Old."}]})
    session = received("session.created", session={"id": "s"})
    assert [type(fact) for fact in facts("openai-realtime", [session, session, old, created()])] == [
        e.SessionFacts,
        e.SessionFacts,
        e.TurnStart,
        e.ResponseStart,
    ]


def test_a_call_that_the_provider_carries_out_is_a_tool_with_its_result() -> None:
    item: Frame = {"id": "m", "type": "mcp_call", "name": "search"}
    ends: list[tuple[Frame, object, object]] = [
        ({"output": "found"}, "found", UNSET),
        ({"error": {"message": "Down."}}, UNSET, {"message": "Down."}),
    ]
    for end, result, error in ends:
        finished = item | {"arguments": '{"q":"x"}', "status": "completed"} | end
        frames = [
            user("Look it up."),
            sent("response.create"),
            created(),
            received("response.output_item.added", response_id="r", item=item) | {"ts": 1_795_420_800_350.0},
            received("response.output_item.done", response_id="r", item=finished),
            done(output=[finished]),
            created("r2"),
        ]
        told_of = facts("openai-realtime", [*frames])
        (call,) = [fact for fact in told_of if isinstance(fact, e.ToolCall)]
        assert (call.call_id, call.name, call.arguments, call.ts) == ("m", "search", {"q": "x"}, 1_795_420_800_350.0)
        (answer,) = [fact for fact in told_of if isinstance(fact, e.ToolResult)]
        assert (answer.result, answer.error, answer.turn_id) == (result, error, "2")
        assert len([fact for fact in told_of if isinstance(fact, e.TurnStart)]) == 1
