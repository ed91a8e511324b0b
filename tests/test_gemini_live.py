"""Gemini Live: what was recorded -> the facts. `turn=3` is the turn that line 3 of the recording opened."""

from __future__ import annotations

import pytest

from otel_voice import events as e
from otel_voice.adapters import GeminiLive
from tests.facts import Frame, facts, recorded, rendered, told

CASES: list[tuple[str, str, str, str]] = [
    (
        "spoken_turn",
        "a spoken question is one turn: one response from the first thought to the turnComplete, thoughts in its usage",
        "",
        r"""
        session_facts provider=gcp.gemini model=gemini-live-2.5-flash-preview instructions="Be brief."
        turn_start turn=6
        transcript role=user text=" Do you have" item=6 turn=6
        transcript role=user text=" tulips today?" item=6 turn=6
        response_start response=8 turn=6
        response_output response=8 turn=6
        transcript role=agent text="We do," item=8 turn=6 response=8
        transcript role=agent text=" red and yellow." item=8 turn=6 response=8
        turn_complete turn=6 end_reason=completed
        response_end response=8 finish=stop usage=in:412,out:59,in_text:387,in_audio:25,out_audio:38,reasoning:21 turn=6
        turn_complete turn=6 end_reason=completed
        """,
    ),
    (
        "barge_in",
        "interrupted comes before the interrupting words: they open the next turn, the usage stays with the cut answer",
        "turn_start transcript interrupted turn_complete response_end",
        r"""
        turn_start turn=5
        transcript role=user text=" What are" item=5 turn=5
        transcript role=user text=" your opening hours?" item=5 turn=5
        transcript role=agent text="We open at nine" item=7 turn=5 response=7
        transcript role=agent text=" and close at" item=7 turn=5 response=7
        turn_complete turn=5 end_reason=completed
        response_end response=7 finish=cancelled turn=5
        interrupted turn=5 response=7
        turn_complete turn=5 end_reason=interrupted
        response_end response=7 usage=in:350,out:62 turn=5
        turn_start turn=15
        transcript role=user text=" And on" item=15 turn=15
        transcript role=user text=" Sundays?" item=15 turn=15
        transcript role=agent text="On Sundays we are closed." item=17 turn=15 response=17
        turn_complete turn=15 end_reason=completed
        response_end response=17 finish=stop usage=in:460,out:30 turn=15
        turn_complete turn=15 end_reason=completed
        """,
    ),
    (
        "barge_in_before_turn_complete",
        "usage that comes after the interrupting words is still that of the cut answer",
        "turn_start transcript interrupted response_end",
        r"""
        turn_start turn=4
        transcript role=user text=" Tell me about roses." item=4 turn=4
        transcript role=agent text="Roses need sun" item=5 turn=4 response=5
        response_end response=5 finish=cancelled turn=4
        interrupted turn=4 response=5
        turn_start turn=8
        transcript role=user text=" Thanks, enough." item=8 turn=8
        response_end response=5 usage=in:300,out:25 turn=4
        transcript role=agent text="You are welcome." item=10 turn=8 response=10
        response_end response=10 finish=stop usage=in:360,out:12 turn=8
        """,
    ),
    (
        "voice_activity_barge_in",
        "where speech is announced, its start opens the next turn while the old answer still ends",
        "turn_start user_speech_start user_speech_end transcript interrupted response_end",
        r"""
        turn_start turn=3
        user_speech_start measured_by=provider_vad turn=3 item=3
        user_speech_end measured_by=provider_vad turn=3 item=3
        transcript role=user text=" What grows in shade?" item=3 turn=3
        transcript role=agent text="Ferns and" item=4 turn=3 response=4
        turn_start turn=8
        user_speech_start measured_by=provider_vad turn=8 item=8
        response_end response=4 finish=cancelled turn=3
        interrupted turn=3 response=4
        response_end response=4 usage=in:310,out:21 turn=3
        user_speech_end measured_by=provider_vad turn=8 item=8
        transcript role=user text=" And in full sun?" item=8 turn=8
        transcript role=agent text=Lavender. item=11 turn=8 response=11
        response_end response=11 finish=stop usage=in:350,out:9 turn=8
        """,
    ),
    (
        "late_transcript",
        "words that arrive after the answer has begun belong to the turn it answers",
        "turn_start transcript turn_complete",
        r"""
        turn_start turn=4
        transcript role=user text=" Can I" item=4 turn=4
        transcript role=agent text=Yes, item=5 turn=4 response=5
        transcript role=user text=" pay by card?" item=4 turn=4
        transcript role=agent text=" cards are fine." item=5 turn=4 response=5
        turn_complete turn=4 end_reason=completed
        turn_complete turn=4 end_reason=completed
        """,
    ),
    (
        "empty_transcriptions",
        "transcriptions without text say nothing",
        "turn_start transcript",
        r"""
        turn_start turn=5
        transcript role=user text=" Hi there." item=5 turn=5
        transcript role=agent text=Hello! item=8 turn=5 response=8
        """,
    ),
    (
        "second_utterance",
        "after a finished transcription the next words are an item of their own",
        "turn_start transcript",
        r"""
        turn_start turn=4
        transcript role=user text=" I need" item=4 turn=4
        transcript role=user text=" flowers." item=4 turn=4
        transcript role=user text=" For my mother." item=6 turn=4
        transcript role=agent text="How lovely." item=7 turn=4 response=7
        """,
    ),
    (
        "false_start",
        "an answer dropped before its first word interrupts nothing: the user's turn goes on",
        "turn_start transcript false_start interrupted turn_complete response_end",
        r"""
        turn_start turn=4
        transcript role=user text=" I would like" item=4 turn=4
        response_end response=5 finish=cancelled turn=4
        false_start response=5 turn=4
        response_end response=5 usage=in:200,out:12,in_text:200,reasoning:12 turn=4
        transcript role=user text=" a bunch of peonies." item=4 turn=4
        transcript role=agent text=Gladly. item=9 turn=4 response=9
        turn_complete turn=4 end_reason=completed
        response_end response=9 finish=stop usage=in:230,out:7 turn=4
        turn_complete turn=4 end_reason=completed
        """,
    ),
    (
        "cut_before_a_word",
        "so does one that was cut before anything of it came",
        "turn_start transcript false_start interrupted turn_complete response_end",
        r"""
        turn_start turn=3
        transcript role=user text=" Do you have" item=3 turn=3
        response_end response=5 finish=cancelled turn=3
        false_start response=5 turn=3
        response_end response=5 usage=in:200,in_text:200 turn=3
        transcript role=user text=" red tulips?" item=3 turn=3
        transcript role=agent text="We do." item=7 turn=3 response=7
        turn_complete turn=3 end_reason=completed
        response_end response=7 finish=stop usage=in:10,out:5,in_text:10,out_audio:5 turn=3
        turn_complete turn=3 end_reason=completed
        """,
    ),
    (
        "connected_again",
        "an answer ends with its connection, and what a client repeats on the next was told already",
        "history_item turn_start transcript response_end",
        r"""
        turn_start turn=3
        transcript role=user text=" Tell me about tulips." item=3 turn=3
        transcript role=agent text="Tulips are" item=4 turn=3 response=4
        response_end response=4 finish=cancelled turn=3
        turn_start turn=10
        transcript role=user text=" Go on." item=10 turn=10
        transcript role=agent text="Tulips are bulbs." item=11 turn=10 response=11
        response_end response=11 finish=stop usage=in:10,out:5,in_text:10,out_audio:5 turn=10
        turn_start turn=16
        transcript role=user text=" Bye." item=16 turn=16
        transcript role=agent text=Bye. item=17 turn=16 response=17
        response_end response=17 finish=stop usage=in:10,out:5,in_text:10,out_audio:5 turn=16
        """,
    ),
    (
        "no_turn_complete",
        "an answer without turnComplete ends where it was generated, and later words open a turn",
        "turn_start transcript turn_complete response_end",
        r"""
        turn_start turn=4
        transcript role=user text=" Are you there?" item=4 turn=4
        transcript role=agent text=Yes. item=5 turn=4 response=5
        turn_complete turn=4 end_reason=completed
        response_end response=5 finish=stop turn=4
        turn_start turn=8
        transcript role=user text=" Great, what is the price?" item=8 turn=8
        transcript role=agent text="Ten euros." item=9 turn=8 response=9
        turn_complete turn=8 end_reason=completed
        """,
    ),
    (
        "agent_greets",
        "what the agent says unasked is a turn without a user",
        "turn_start transcript turn_complete",
        r"""
        turn_start turn=3
        transcript role=agent text="Welcome to the florist." item=3 turn=3 response=3
        turn_complete turn=3 end_reason=completed
        turn_complete turn=3 end_reason=completed
        turn_start turn=8
        transcript role=user text=" Hello." item=8 turn=8
        transcript role=agent text="How can I help?" item=9 turn=8 response=9
        turn_complete turn=8 end_reason=completed
        turn_complete turn=8 end_reason=completed
        """,
    ),
    (
        "parallel_tools",
        "parallel calls are told apart by id, and their arguments and results are left as they are",
        "tool_call tool_result",
        r"""
        tool_call call=fc-1 name=find_slot arguments={"day": "monday"} turn=3 response=3
        tool_call call=fc-2 name=find_slot arguments={"day": "tuesday", "time_left": "keep_me"} turn=3 response=3
        tool_result call=fc-2 result={"output": {"free": true, "function_responses": [1]}} name=find_slot turn=3
        tool_result call=fc-1 error="calendar is down" name=find_slot turn=3
        """,
    ),
    (
        "tool_results_without_ids",
        "a result without an id answers the oldest open call of its name; one that answers none still counts",
        "tool_result",
        r"""
        tool_result call=fc-a result={"result": "first"} name=find_slot turn=3
        tool_result call=fc-b result={"result": "second"} name=find_slot turn=3
        tool_result call=7/0 result={"result": "?"} name=unheard_of turn=3
        """,
    ),
    (
        "cancelled_tool",
        "a cancelled call ends cancelled, and its late result belongs to its own turn",
        "turn_start tool_call tool_result interrupted",
        r"""
        turn_start turn=4
        tool_call call=fc-9 name=find_slot arguments={"day": "friday"} turn=4 response=5
        tool_result call=fc-9 cancelled=true name=find_slot turn=4
        interrupted turn=4 response=5
        turn_start turn=9
        tool_call call=fc-10 name=find_slot arguments={"day": "saturday"} turn=9 response=10
        tool_result call=fc-9 result={"output": "late"} name=find_slot turn=4
        """,
    ),
    (
        "tool_never_answered",
        "a call that is never answered ends with the next question",
        "turn_start tool_call tool_result response_end",
        r"""
        turn_start turn=3
        tool_call call=fc-8 name=find_slot turn=3 response=3
        response_end response=3 finish=tool_calls turn=3
        turn_start turn=6
        response_end response=6 finish=stop usage=in:300,out:40 turn=6
        """,
    ),
    (
        "vertex_two_turn_completes",
        "Vertex completes a tool round twice: one turn, two responses, each with its usage",
        "session_facts turn_start response_start response_end turn_complete",
        r"""
        session_facts provider=gcp.vertex_ai model=gemini-live-2.5-flash instructions="Be brief."
        session_facts provider_session_id=5f1c0b44-9f7e-4d3b-8a57-2f6d7a3c1e90
        turn_start turn=3
        response_start response=3 turn=3
        response_end response=3 finish=tool_calls usage=in:210,out:9,in_text:210,out_text:9 turn=3
        turn_complete turn=3 end_reason=completed
        response_start response=7 turn=3
        turn_complete turn=3 end_reason=completed
        response_end response=7 finish=stop usage=in:240,out:31,out_audio:31 turn=3
        turn_complete turn=3 end_reason=completed
        """,
    ),
    (
        "interrupt_scheduling",
        "a tool's result that interrupts is no barge-in: the turn goes on with another response",
        "turn_start response_start interrupted turn_complete transcript",
        r"""
        turn_start turn=3
        transcript role=user text="Watch the oven and tell me a story." final=true typed=true item=3 turn=3
        response_start response=3 turn=3
        transcript role=agent text="Once upon a time" item=3 turn=3 response=3
        turn_complete turn=3 end_reason=completed
        interrupted source=tool_response turn=3 response=3
        turn_complete turn=3 end_reason=completed
        response_start response=11 turn=3
        transcript role=agent text="The oven is hot!" item=11 turn=3 response=11
        turn_complete turn=3 end_reason=completed
        turn_complete turn=3 end_reason=completed
        """,
    ),
    (
        "non_blocking_tool",
        "a late tool result is spoken to in the same turn",
        "turn_start response_start tool_result turn_complete",
        r"""
        turn_start turn=3
        response_start response=3 turn=3
        turn_complete turn=3 end_reason=completed
        turn_complete turn=3 end_reason=completed
        tool_result call=fc-6 result={"output": "printed", "scheduling": "WHEN_IDLE"} name=print_card turn=3
        response_start response=9 turn=3
        turn_complete turn=3 end_reason=completed
        turn_complete turn=3 end_reason=completed
        """,
    ),
    (
        "seeded_history",
        "content that asks for no answer is history",
        "history_item turn_start transcript",
        r"""
        history_item role=user text="My name is Ada."
        history_item role=assistant text="Hello Ada."
        history_item role=user text="I live in Ghent."
        turn_start turn=6
        transcript role=user text=" Where do I live?" item=6 turn=6
        transcript role=agent text="In Ghent." item=7 turn=6 response=7
        """,
    ),
    (
        "history_then_question",
        "of content that asks for an answer, what follows the model's last words is the question",
        "history_item turn_start transcript",
        r"""
        history_item role=user text=Hi.
        history_item role=assistant text=Hi!
        turn_start turn=3
        transcript role=user text="What is on offer?" final=true typed=true item=3 turn=3
        transcript role=agent text=Peonies. item=3 turn=3 response=3
        """,
    ),
    (
        "typed_realtime_text",
        "realtimeInput.text opens a turn by itself",
        "turn_start transcript response_start",
        r"""
        turn_start turn=3
        transcript role=user text="hello by keyboard" final=true typed=true item=3 turn=3
        response_start response=3 turn=3
        transcript role=agent text=Hello! item=3 turn=3 response=3
        """,
    ),
    (
        "text_while_answering",
        "text sent while the agent speaks interrupts it programmatically",
        "turn_start transcript interrupted turn_complete",
        r"""
        turn_start turn=3
        transcript role=user text="List all flowers." final=true typed=true item=3 turn=3
        transcript role=agent text="Roses, tulips," item=3 turn=3 response=3
        turn_start turn=6
        transcript role=user text="Stop. Only the red ones." final=true typed=true item=6 turn=6
        interrupted source=programmatic turn=3 response=3
        turn_complete turn=3 end_reason=interrupted
        transcript role=agent text=Roses. item=6 turn=6 response=6
        turn_complete turn=6 end_reason=completed
        turn_complete turn=6 end_reason=completed
        """,
    ),
    (
        "stopped_by_client",
        "empty content stops the agent, or asks it to speak without a user",
        "turn_start transcript interrupted turn_complete",
        r"""
        turn_start turn=3
        transcript role=user text="List all flowers." final=true typed=true item=3 turn=3
        transcript role=agent text="Roses, tulips," item=3 turn=3 response=3
        interrupted source=programmatic turn=3 response=3
        turn_complete turn=3 end_reason=interrupted
        turn_start turn=9
        transcript role=agent text="Shall I go on?" item=9 turn=9 response=9
        turn_complete turn=9 end_reason=completed
        turn_complete turn=9 end_reason=completed
        """,
    ),
    (
        "manual_activity",
        "the client's own activity marks bound the speech; a transcript after the answer belongs to the last speech",
        "turn_start user_speech_start user_speech_end transcript",
        r"""
        turn_start turn=3
        user_speech_start measured_by=client_vad turn=3 item=3
        user_speech_end measured_by=client_vad turn=3 item=3
        transcript role=agent text="Good morning." item=7 turn=3 response=7
        transcript role=user text=" Good morning!" item=3 turn=3
        turn_start turn=13
        user_speech_start measured_by=client_vad turn=13 item=13
        user_speech_end measured_by=client_vad turn=13 item=13
        transcript role=agent text=Bye. item=14 turn=13 response=14
        """,
    ),
    (
        "go_away_and_resumption",
        "a go-away and a change of resumability are marks without the handle; the call goes on",
        "mark turn_start",
        r"""
        mark name=session_resumption attributes={"resumable": true}
        turn_start turn=4
        mark name=go_away attributes={"time_left_ms": 9500.0}
        mark name=session_resumption attributes={"resumable": false}
        turn_start turn=14
        """,
    ),
    (
        "code_and_text_answer",
        "executable code is not speech, and text parts are",
        "response_output transcript response_end",
        r"""
        transcript role=user text="What is 6 times 7?" final=true typed=true item=3 turn=3
        response_output response=3 turn=3
        transcript role=agent text="It is " item=3 turn=3 response=3
        transcript role=agent text=42. item=3 turn=3 response=3
        response_end response=3 finish=stop usage=in:60,out:5,reasoning:5 turn=3
        """,
    ),
    (
        "snake_case",
        "the protocol's keys may be snake_case, a tool's own keys are never touched",
        "session_facts turn_start tool_call tool_result transcript response_end",
        r"""
        session_facts provider=gcp.gemini model=gemini-live-2.5-flash-preview instructions="Be brief."
        session_facts provider_session_id=abc
        turn_start turn=3
        transcript role=user text=Slots? final=true typed=true item=3 turn=3
        tool_call call=fc-s name=find_slot arguments={"turn_complete": 1, "turnComplete": 2} turn=3 response=3
        tool_result call=fc-s result={"output_value": 1} name=find_slot turn=3
        transcript role=agent text=One. item=3 turn=3 response=3
        response_end response=3 finish=stop usage=in:10,out:3,out_audio:3 turn=3
        """,
    ),
    (
        "older_client",
        "without transcriptions each answer is a turn, and usage in a message of its own is the last answer's",
        "turn_start response_end turn_complete",
        r"""
        turn_start turn=4
        response_end response=4 finish=stop turn=4
        turn_complete turn=4 end_reason=completed
        turn_start turn=9
        response_end response=9 finish=stop turn=9
        turn_complete turn=9 end_reason=completed
        response_end response=9 usage=in:5,out:2 turn=9
        """,
    ),
]


def received(**keys: object) -> Frame:
    return {"dir": "received", "message": keys}


def sent(**keys: object) -> Frame:
    return {"dir": "sent", "message": keys}


def content(**keys: object) -> Frame:
    return received(serverContent=keys)


def called(*frames: Frame) -> list[str]:
    return [rendered(fact) for fact in facts("gemini-live", [*frames])]


def kinds(*frames: Frame) -> list[str]:
    return [line.split()[0] for line in called(*frames)]


SPOKEN = content(modelTurn={"parts": [{"inlineData": {"data": "AA"}}]})
THOUGHT = content(modelTurn={"parts": [{"thought": True, "text": "Hm."}]})
HEARD = content(inputTranscription={"text": "Hello."})
COMPLETE, CUT = content(turnComplete=True), content(interrupted=True)
CALL = received(toolCall={"functionCalls": [{"id": "c", "name": "n"}]})
RESULT = sent(toolResponse={"functionResponses": [{"id": "c", "response": {}}]})
START = received(voiceActivity={"voiceActivityType": "ACTIVITY_START"})


@pytest.mark.parametrize(("name", "says", "kinds", "expected"), CASES, ids=[case[0] for case in CASES])
def test_recording(name: str, says: str, kinds: str, expected: str) -> None:
    lines = [line.strip() for line in expected.strip().splitlines()]
    assert told(f"gemini_{name}", *kinds.split()) == lines, says


def usage_of(metadata: dict[str, object]) -> e.Usage | None:
    """Usage as told for the answer of one short turn."""
    complete = received(serverContent={"turnComplete": True}, usageMetadata=metadata)
    (end,) = [fact for fact in facts("gemini-live", [SPOKEN, complete]) if isinstance(fact, e.ResponseEnd)]
    return end.usage


@pytest.mark.parametrize(
    ("metadata", "usage"),
    [
        ({}, None),
        ({"promptTokenCount": 7}, e.Usage(input_tokens=7)),
        (
            {"promptTokenCount": 7, "responseTokenCount": 3, "thoughtsTokenCount": 2, "totalTokenCount": 10},
            e.Usage(input_tokens=7, output_tokens=5, reasoning_tokens=2),
        ),
        ({"candidatesTokenCount": 0}, e.Usage(output_tokens=0)),
        (
            {"responseTokensDetails": [{"modality": "AUDIO", "tokenCount": 4}, {"modality": "TEXT"}]},
            e.Usage(output_tokens=4, output_audio_tokens=4, output_text_tokens=0),
        ),
        (
            {
                "promptTokenCount": 9,
                "cachedContentTokenCount": 6,
                "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 6}],
                "promptTokensDetails": [{"modality": "IMAGE", "tokenCount": 2}, {"modality": "AUDIO", "tokenCount": 7}],
            },
            e.Usage(input_tokens=9, input_image_tokens=2, input_audio_tokens=7, cached_tokens=6, cached_audio_tokens=6),
        ),
        ({"promptTokenCount": -1, "responseTokenCount": "3", "thoughtsTokenCount": 1e400}, None),
        ({"promptTokenCount": 10**400, "responseTokenCount": 3.0}, e.Usage(output_tokens=3)),
    ],
)
def test_usage_says_what_was_said_and_thoughts_are_output(metadata: dict[str, object], usage: e.Usage | None) -> None:
    assert usage_of(metadata) == usage


def test_a_response_begins_when_it_was_asked_for_and_ends_when_it_was_cut() -> None:
    at = {line: frame["ts"] for line, frame in enumerate(recorded("gemini_voice_activity_barge_in"), 1)}
    told_of = facts("gemini-live", [*recorded("gemini_voice_activity_barge_in")])
    starts = [fact.ts for fact in told_of if isinstance(fact, e.ResponseStart)]
    assert starts == [at[4], at[11]]
    cut, usage, end = [fact.ts for fact in told_of if isinstance(fact, e.ResponseEnd)]
    assert cut == usage == at[9]
    assert end == max(at.values())


def test_every_other_fact_has_its_messages_time() -> None:
    adapter = GeminiLive()
    for line, frame in enumerate(recorded("gemini_spoken_turn"), 1):
        message = e.ProviderMessage(provider="gemini-live", dir=frame["dir"], message=frame["message"], ts=frame["ts"])
        assert {fact.ts for fact in adapter.feed(message, str(line))} <= {frame["ts"]}


def turns(*frames: Frame) -> list[str]:
    """The turns that responses were given to, in order; a turn goes by the line that opened it."""
    return [str(fact.turn_id) for fact in facts("gemini-live", [*frames]) if isinstance(fact, e.ResponseStart)]


def test_tools_of_one_turn_do_not_swallow_the_next_where_nothing_is_transcribed() -> None:
    assert turns(CALL, RESULT, SPOKEN, COMPLETE, SPOKEN) == ["1", "5"]
    assert turns(CALL, SPOKEN, CUT, COMPLETE, SPOKEN) == ["1", "5"]


def test_a_result_that_comes_while_the_agent_speaks_is_answered_in_the_same_turn() -> None:
    assert turns(CALL, SPOKEN, RESULT, SPOKEN, COMPLETE, SPOKEN, COMPLETE, SPOKEN) == ["1", "1", "8"]


def test_an_interruption_is_told_once_and_never_of_an_answer_that_is_complete_when_the_user_speaks() -> None:
    assert kinds(SPOKEN, CUT, CUT, COMPLETE, CUT).count("interrupted") == 1
    assert kinds(SPOKEN, COMPLETE, HEARD, CUT).count("interrupted") == 0
    assert kinds(SPOKEN, COMPLETE, CUT).count("interrupted") == 1


def test_after_a_tools_interruption_late_words_are_of_the_cut_response_and_audio_is_of_the_next() -> None:
    result = sent(toolResponse={"functionResponses": [{"id": "c", "response": {}, "scheduling": "INTERRUPT"}]})
    words = content(outputTranscription={"text": "Once"})
    texts = [line for line in called(CALL, SPOKEN, result, CUT, words, SPOKEN) if line.startswith("transcript")]
    assert texts == ["transcript role=agent text=Once item=1 turn=1 response=1"]
    assert turns(CALL, SPOKEN, result, CUT, words, SPOKEN) == ["1", "1"]


def test_an_answer_without_a_word_has_its_usage() -> None:
    tokens = {"promptTokenCount": 5}
    silent = received(serverContent={"turnComplete": True}, usageMetadata=tokens)
    assert called(HEARD, silent)[2:] == [
        "response_start response=2 turn=1",
        "response_end response=2 finish=stop usage=in:5 turn=1",
        "turn_complete turn=1 end_reason=completed",
    ]


def test_a_thought_begins_a_response_and_is_no_output() -> None:
    assert kinds(HEARD, THOUGHT) == ["turn_start", "transcript", "response_start"]


def test_speech_goes_on_with_its_turn_until_the_answer_is_heard() -> None:
    """The second start is the same utterance; the third speaks into the answer."""
    opened = [line for line in called(START, THOUGHT, START, SPOKEN, START) if line.startswith("turn_start")]
    assert opened == ["turn_start turn=1", "turn_start turn=5"]


def test_texts_that_may_ask_are_a_question_if_the_model_answers() -> None:
    """A wrapped client leaves `turnComplete` out, which its library sends as true."""
    text, answer = sent(clientContent={"turns": "Hello?"}), content(outputTranscription={"text": "Hi."})
    assert [fact.text for fact in facts("gemini-live", [text, HEARD]) if isinstance(fact, e.HistoryItem)] == ["Hello?"]
    asked = [fact for fact in facts("gemini-live", [text, answer]) if isinstance(fact, e.Transcript)]
    assert [(fact.role, fact.text, fact.typed) for fact in asked] == [("user", "Hello?", True), ("agent", "Hi.", False)]


def test_a_models_name_that_is_too_long_for_one_is_left_out() -> None:
    setup = {"model": "models/" + "m" * 60_000, "systemInstruction": "Be brief."}
    (told,) = facts("gemini-live", [{"dir": "sent", "message": {"setup": setup}}])
    assert isinstance(told, e.SessionFacts) and (told.model, told.instructions) == (None, "Be brief.")


def test_a_call_that_one_message_cancels_again_and_again_is_cancelled_once() -> None:
    cancellation = {"toolCallCancellation": {"ids": ["a", "b", "a", "a"]}}
    told = facts("gemini-live", [{"dir": "received", "message": cancellation}])
    assert [fact.call_id for fact in told if isinstance(fact, e.ToolResult)] == ["a", "b"]
