"""OpenAI Realtime: a connection's messages, both ways -> facts.

Items and responses have ids, so who is meant follows from those. A turn stays the same until its answer has begun:
voice detection may cut one utterance into several items, each with a response that comes to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct

from otel_voice import events as e
from otel_voice.adapters.allow import reduce
from otel_voice.adapters.openai_messages import Item, RealtimeMessage, ResponseObject, finish_reason, parsed, usage
from otel_voice.adapters.recent import Recent

Facts = Iterator[e.Fact]


class Answer(Struct):
    """What is remembered of a response."""

    id: str
    turn_id: str  # "" before the first turn, where only one that is apart can be
    apart: bool = False  # generated beside the conversation: nobody hears it
    output: bool = False
    called: bool = False
    done: bool = False
    playback: str = ""
    cut: e.InterruptionSource | None = None


class Call(Struct):
    name: str | None
    turn_id: str | None
    made: bool = False
    answered: bool = False
    at: float | None = None


class Written(Struct):
    """A message item that the client made."""

    key: str
    role: str
    text: str
    typed: bool


class OpenAIRealtime:
    def __init__(self) -> None:
        self.key = ""
        self.at: float | None = None
        self.turn: str | None = None
        self.asking = False  # the user's input awaits a response
        self.answered = False  # the agent has said or done something in self.turn
        self.goes_on = False  # a tool of self.turn was called or answered: the next response is the same turn's
        self.speaking = False  # the user has begun to speak and no response followed yet
        self.stopped = False  # the client has cancelled a response or cleared its playback
        self.plays = False  # playback is announced in this session
        self.sessions = 0
        self.replaying = False  # a resumed session's old items are coming again
        self.apart = 0  # responses asked for that are no part of the conversation
        self.last: str | None = None
        self.answers: Recent[Answer] = Recent()
        self.items: Recent[tuple[str | None, str | None]] = Recent()  # item -> turn, response
        self.whole: Recent[bool] = Recent()  # items whose final text was told
        self.calls: Recent[Call] = Recent()
        self.held: list[Written] = []  # client-made items that no response was asked for yet
        self.echoes: list[Written] = []  # client-made items without an id, which the server will repeat with one

    def feed(self, message: e.ProviderMessage, key: str) -> list[e.Fact]:
        """The facts one message adds; `key` is unique to it and its `ts` in ms is theirs."""
        reduced = reduce("openai-realtime", message.dir, message.message)
        if reduced is None:
            return []
        self.key, self.at = key, message.ts
        said = msgspec.convert(reduced, RealtimeMessage)
        facts = list(_READ[message.dir, said.type](self, said))
        for fact in facts:
            fact.ts = message.ts if fact.ts is None else fact.ts
        return facts

    # The session

    def _session(self, said: RealtimeMessage) -> Facts:
        if said.type == "session.created":
            self.sessions += 1
            self.replaying = self.sessions > 1
        session = said.session
        yield e.SessionFacts(
            provider="openai",
            provider_session_id=session.id,
            model=session.model,
            instructions=session.instructions,
        )

    def _error(self, said: RealtimeMessage) -> Facts:
        yield e.Error(message=said.error.message, code=said.error.name)

    # The user

    def _speech_started(self, said: RealtimeMessage) -> Facts:
        known = said.item_id in self.items
        self.speaking, self.stopped = True, False
        yield from self._user_item(said.item_id)
        if not known:
            yield e.UserSpeechStart(turn_id=self.turn, item_id=said.item_id, measured_by="provider_vad")

    def _speech_stopped(self, said: RealtimeMessage) -> Facts:
        turn_id = self._turn_of(said.item_id) or self.turn
        if turn_id is not None:
            yield e.UserSpeechEnd(turn_id=turn_id, item_id=said.item_id, measured_by="provider_vad")

    def _committed(self, said: RealtimeMessage) -> Facts:
        if said.item_id is not None and said.item_id not in self.items:
            yield from self._user_item(said.item_id)
            # Announces the item, so that it is shown before what answers it.
            yield e.Transcript(role="user", text="", item_id=said.item_id, turn_id=self.turn)
            if self.turn is not None:
                # Nobody measured when the user began; this is where what they said ended.
                yield e.UserSpeechEnd(turn_id=self.turn, item_id=said.item_id)

    def _timeout_triggered(self, said: RealtimeMessage) -> Facts:
        """The provider speaks up by itself; the empty item it makes is nobody's."""
        self.replaying = False
        if said.item_id is not None:
            self.items[said.item_id] = (None, None)
        yield from self._history()

    def _user_item(self, item_id: str | None) -> Facts:
        if item_id is not None and item_id in self.items:
            return
        self.replaying = False
        yield from self._history()
        yield from self._listen()
        if item_id is not None:
            self.items[item_id] = (self.turn, None)

    def _listen(self) -> Facts:
        """The turn for input that comes now: the one still unanswered, or a new one."""
        if self.turn is None or (self.answered and not self.asking):
            yield from self._open()
        self.asking = True

    def _open(self) -> Facts:
        self.turn, self.answered, self.goes_on = self.key, False, False
        yield e.TurnStart(turn_id=self.key)

    def _heard(self, said: RealtimeMessage) -> Facts:
        text = said.transcript.removesuffix("\n")
        final = said.type.endswith(".completed")
        if said.item_id not in self.items:
            if self.replaying or not (text or said.delta).strip():
                return
            yield from self._user_item(said.item_id)
        elif self.replaying and said.item_id in self.whole:
            return
        if final and said.item_id is not None:
            self.whole[said.item_id] = True
        if (turn_id := self._turn_of(said.item_id) if said.item_id else self.turn) is not None:
            yield e.Transcript(
                role="user", text=text if final else said.delta, final=final, item_id=said.part_id, turn_id=turn_id
            )

    def _not_heard(self, said: RealtimeMessage) -> Facts:
        turn_id = self._turn_of(said.item_id)
        yield e.Error(message=said.error.message, code=said.error.name, turn_id=turn_id)

    def _turn_of(self, item_id: str | None) -> str | None:
        return self.items.get(item_id or "", (None, None))[0]

    # Items that the client makes, and the server's echo of them

    def _made(self, said: RealtimeMessage) -> Facts:
        item = said.item
        self.replaying = False
        if item.type == "function_call_output":
            yield from self._tool_result(item)
        elif item.type == "function_call" and item.call_id is not None:
            # A call that the client tells of is history, and so is its output.
            self.calls.setdefault(item.call_id, Call(None, None, made=True, answered=True))
        elif item.role in _ROLES:
            yield from self._hold(item, item.id or self.key)
            if item.id is None:
                self.echoes = [*self.echoes[-63:], Written(self.key, item.role, item.text, True)]

    def _added(self, said: RealtimeMessage) -> Facts:
        item = said.item
        if item.type == "function_call_output":
            yield from self._tool_result(item)
        elif item.role in _ROLES and item.text and self._is_new(item):
            yield from self._hold(item, item.id or self.key)

    def _is_new(self, item: Item) -> bool:
        if item.id in self.items:
            return False
        for echo in self.echoes:
            if (echo.role, echo.text) == (item.role, item.text):
                self.echoes.remove(echo)
                if item.id is not None:
                    self.items[item.id] = self.items.get(echo.key, (None, None))
                return False
        return not self.replaying

    def _hold(self, item: Item, key: str) -> Facts:
        if key in self.items:
            return
        self.items[key] = (None, None)
        typed = any(part.text for part in item.content)
        self.held.append(Written(key, item.role, item.text, typed))
        if item.role == "assistant":
            yield from self._history()

    def _history(self) -> Facts:
        """What was made without asking for a response is part of the conversation, and no turn."""
        held, self.held = self.held, []
        for item in held:
            if item.text and self.sessions < 2:
                # On a connection made anew, a client repeats what was said.
                yield e.HistoryItem(role=_ROLES[item.role], text=item.text)

    def _typed(self) -> Facts:
        """A response is asked for: what the user wrote since the last answer is a turn's input."""
        held, self.held = self.held, []
        for item in held:
            if item.role != "user":
                if item.text:
                    yield e.HistoryItem(role=_ROLES[item.role], text=item.text)
                continue
            yield from self._listen()
            self.items[item.key] = (self.turn, None)
            yield e.Transcript(
                role="user",
                text=item.text,
                final=bool(item.text),
                typed=item.typed,
                item_id=item.key,
                turn_id=self.turn,
            )

    def _asked(self, said: RealtimeMessage) -> Facts:
        if said.response.conversation == "none":
            self.apart += 1
        else:
            yield from self._typed()

    def _stop(self, said: RealtimeMessage) -> Facts:
        # A client that stops the agent because the user speaks only carries out the user's interruption.
        self.stopped = not self.speaking
        yield from ()

    # The agent

    def _created(self, said: RealtimeMessage) -> Facts:
        self.replaying = False
        response = said.response
        if self.apart and response.conversation_id is None:
            self.apart -= 1
            yield from self._begin(response.id, apart=True)
            return
        yield from self._history() if self.asking else self._typed()
        yield from self._begin(response.id)

    def _begin(self, response_id: str | None, apart: bool = False) -> Facts:
        id_ = response_id or self.key
        if id_ in self.answers:
            return
        if not apart:
            if self.turn is None or not (self.asking or self.goes_on or not self.answered):
                yield from self._open()
            self.asking = self.goes_on = self.speaking = self.stopped = False
            self.last = id_
        self.answers[id_] = Answer(id_, self.turn or "", apart=apart)
        if self.turn is not None:
            yield e.ResponseStart(response_id=id_, turn_id=self.turn)

    def _answer(self, response_id: str | None) -> Answer | None:
        return self.answers.get(response_id or self.last or "")

    def _output(self, said: RealtimeMessage) -> Facts:
        """Any piece of audio, its transcript, or text."""
        if self._answer(said.response_id) is None:
            yield from self._begin(said.response_id)
        answer = self._answer(said.response_id)
        if answer is None or answer.apart:
            return
        if said.item_id is not None:
            self.items[said.item_id] = (answer.turn_id, answer.id)
        final = said.type.endswith(".done")
        text = (said.transcript or said.text).removesuffix("\n") if final else said.delta
        if text or said.type == "response.output_audio.delta":
            yield from self._audible(answer)
        if text:
            if final and said.item_id is not None:
                self.whole[said.item_id] = True
            yield _words(answer, text, said.part_id, final)

    def _audible(self, answer: Answer) -> Facts:
        if answer.output or answer.apart:
            return
        answer.output = True
        self._acted(answer)
        yield e.ResponseOutput(response_id=answer.id, turn_id=answer.turn_id)

    def _acted(self, answer: Answer) -> None:
        self.answered = self.answered or answer.turn_id == self.turn

    def _done(self, said: RealtimeMessage) -> Facts:
        response = said.response
        if self._answer(response.id) is None:
            yield from self._begin(response.id)
        answer = self._answer(response.id)
        if answer is None or answer.done or not answer.turn_id:
            return
        answer.done = True
        for item in response.output:
            yield from self._item_done(answer, item)
        tokens, error = response.usage or said.usage, response.status_details.error
        failed = (error.message or error.name) if error else response.status_details.reason
        yield e.ResponseEnd(
            response_id=answer.id,
            turn_id=answer.turn_id,
            finish_reason=finish_reason(response, only_called=answer.called and not answer.output),
            usage=None if tokens is None else usage(tokens),
            error=(failed or "failed") if response.status == "failed" else None,
            error_type=error.name if error and response.status == "failed" else None,
        )
        if not answer.apart:
            yield from self._outcome(answer, response)
        if response.status == "failed" and not answer.apart and answer.turn_id == self.turn:
            # The turn has had its answer; asked for again, it comes in the same turn.
            self.answered = self.goes_on = True

    def _item_done(self, answer: Answer, item: Item) -> Facts:
        """What the response's own summary adds, where its pieces were not seen."""
        if item.type == "function_call":
            yield from self._call(answer, item.call_id, item.name, item.arguments, item.status)
        elif item.type == "mcp_call":
            self.goes_on = self.goes_on or answer.turn_id == self.turn
            yield from self._remote_call(answer, item)
        elif item.id is not None and item.id not in self.whole and item.text and not answer.apart:
            self.items[item.id], self.whole[item.id] = (answer.turn_id, answer.id), True
            yield from self._audible(answer)
            yield _words(answer, item.text, item.id, True)

    def _outcome(self, answer: Answer, response: ResponseObject) -> Facts:
        reason = response.status_details.reason
        if response.status == "cancelled" and not self._was_heard_out(answer, response):
            if not answer.output and not answer.called and (reason == "turn_detected" or self.speaking):
                yield e.FalseStart(response_id=answer.id, turn_id=answer.turn_id)
                return
            self._acted(answer)
            self.stopped = self.stopped or (reason == "client_cancelled" and not self.speaking)
            yield from self._cut(answer)
        elif not answer.called and answer.cut is None:
            yield e.TurnComplete(turn_id=answer.turn_id, end_reason="completed")

    def _was_heard_out(self, answer: Answer, response: ResponseObject) -> bool:
        """Cancelled by the user's speech, but after the last word, as far as it can be known."""
        if not answer.output or response.status_details.reason != "turn_detected":
            return False
        if self.plays:
            return answer.playback == "stopped"
        return bool(response.output) and all(item.status == "completed" for item in response.output)

    # Playback

    def _playback(self, said: RealtimeMessage) -> Facts:
        self.plays = True
        answer = self._answer(said.response_id)
        if answer is None or answer.apart:
            return
        answer.playback = said.type.rpartition(".")[2]
        if answer.playback == "started":
            yield from self._audible(answer)
            yield e.AgentSpeechStart(turn_id=answer.turn_id, response_id=answer.id, measured_by="playback")
            return
        yield e.AgentSpeechEnd(turn_id=answer.turn_id, response_id=answer.id, measured_by="playback")
        if answer.playback == "cleared":
            yield from self._cut(answer)
        elif answer.done and not answer.called and answer.cut is None:
            yield e.TurnComplete(turn_id=answer.turn_id, end_reason="completed")

    def _truncated(self, said: RealtimeMessage) -> Facts:
        _, response_id = self.items.get(said.item_id or "", (None, None))
        answer = self.answers.get(response_id or "")
        if answer is not None and answer.playback != "stopped":
            yield from self._cut(answer, said.audio_end_ms)

    def _cut(self, answer: Answer, heard_ms: float | None = None) -> Facts:
        """Told once for each answer, and once more when it is known how much of it was heard."""
        again, source = answer.cut is not None, answer.cut
        if source is None:
            source = answer.cut = "programmatic" if self.stopped else "user_speech"
        if again and heard_ms is None:
            return
        yield e.Interrupted(source=source, heard_ms=heard_ms, turn_id=answer.turn_id, response_id=answer.id)
        if not again:
            yield e.TurnComplete(turn_id=answer.turn_id, end_reason="interrupted")

    # Tools

    def _call_named(self, said: RealtimeMessage) -> Facts:
        """A function call begins: its name, which the older arguments.done lacks."""
        item = said.item
        if item.type == "function_call" and item.call_id is not None and item.call_id not in self.calls:
            self.calls[item.call_id] = Call(item.name, None)
        elif item.type == "mcp_call" and item.id is not None and item.id not in self.calls:
            self.calls[item.id] = Call(item.name, None, at=self.at)
        yield from ()

    def _call_done(self, said: RealtimeMessage) -> Facts:
        item = said.item
        if said.type == "response.function_call_arguments.done":
            item = Item(type="function_call", call_id=said.call_id, name=said.name, arguments=said.arguments)
        if item.type not in ("function_call", "mcp_call"):
            return
        if self._answer(said.response_id) is None:
            yield from self._begin(said.response_id)
        if (answer := self._answer(said.response_id)) is not None:
            yield from self._item_done(answer, item)

    def _call(self, answer: Answer, call_id: str | None, name: str | None, arguments: Any, status: str) -> Facts:
        if call_id is None or status in ("incomplete", "in_progress"):
            return
        call = self.calls.get(call_id)
        name = name or (call.name if call else None)
        if name is None or (call is not None and call.made):
            return
        answered = call is not None and call.answered
        self.calls[call_id] = Call(name, answer.turn_id, made=True, answered=answered)
        answer.called = True
        self._acted(answer)
        self.goes_on = self.goes_on or answer.turn_id == self.turn
        yield e.ToolCall(
            call_id=call_id,
            name=name,
            arguments=parsed(arguments),
            turn_id=answer.turn_id,
            response_id=answer.id,
        )

    def _remote_call(self, answer: Answer, item: Item) -> Facts:
        """A call that the provider itself carries out: told with its result, and begun when it was announced."""
        announced = self.calls.get(item.id or "")
        for fact in self._call(answer, item.id, item.name, item.arguments, item.status):
            fact.ts = announced.at if announced is not None else None
            yield fact
        call = self.calls.get(item.id or "")
        if (
            item.id is None
            or call is None
            or not call.made
            or call.answered
            or (item.output, item.error) == (None, None)
        ):
            return
        call.answered = True
        result, error = (parsed(item.output), UNSET) if item.error is None else (UNSET, item.error)
        yield e.ToolResult(call_id=item.id, result=result, error=error, name=call.name, turn_id=call.turn_id)

    def _tool_result(self, item: Item) -> Facts:
        if item.call_id is None:
            return
        call = self.calls.get(item.call_id)
        if call.answered if call is not None else self.replaying:
            return
        if call is None:
            call = self.calls[item.call_id] = Call(None, self.turn)
        call.answered = True
        turn_id = call.turn_id or self.turn
        self.goes_on = self.goes_on or (turn_id is not None and turn_id == self.turn)
        output = parsed(item.output)
        result = output if isinstance(output, dict | list) else item.output
        yield e.ToolResult(call_id=item.call_id, result=result, name=call.name, turn_id=turn_id)


_ROLES: Final[dict[str, Any]] = {"user": "user", "assistant": "assistant", "system": "system"}


def _words(answer: Answer, text: str, item_id: str | None, final: bool) -> e.Transcript:
    return e.Transcript(
        role="agent", text=text, final=final, item_id=item_id, turn_id=answer.turn_id, response_id=answer.id
    )


Read = Callable[[OpenAIRealtime, RealtimeMessage], Facts]
_TRANSCRIPTION: Final = "conversation.item.input_audio_transcription"

_READ: Final[dict[tuple[str, str], Read]] = {
    ("sent", "conversation.item.create"): OpenAIRealtime._made,
    ("sent", "response.create"): OpenAIRealtime._asked,
    ("sent", "response.cancel"): OpenAIRealtime._stop,
    ("sent", "output_audio_buffer.clear"): OpenAIRealtime._stop,
    ("received", "session.created"): OpenAIRealtime._session,
    ("received", "session.updated"): OpenAIRealtime._session,
    ("received", "conversation.item.added"): OpenAIRealtime._added,
    ("received", "conversation.item.truncated"): OpenAIRealtime._truncated,
    ("received", f"{_TRANSCRIPTION}.delta"): OpenAIRealtime._heard,
    ("received", f"{_TRANSCRIPTION}.completed"): OpenAIRealtime._heard,
    ("received", f"{_TRANSCRIPTION}.failed"): OpenAIRealtime._not_heard,
    ("received", "input_audio_buffer.speech_started"): OpenAIRealtime._speech_started,
    ("received", "input_audio_buffer.speech_stopped"): OpenAIRealtime._speech_stopped,
    ("received", "input_audio_buffer.committed"): OpenAIRealtime._committed,
    ("received", "input_audio_buffer.timeout_triggered"): OpenAIRealtime._timeout_triggered,
    ("received", "output_audio_buffer.started"): OpenAIRealtime._playback,
    ("received", "output_audio_buffer.stopped"): OpenAIRealtime._playback,
    ("received", "output_audio_buffer.cleared"): OpenAIRealtime._playback,
    ("received", "response.created"): OpenAIRealtime._created,
    ("received", "response.output_item.added"): OpenAIRealtime._call_named,
    ("received", "response.output_item.done"): OpenAIRealtime._call_done,
    ("received", "response.function_call_arguments.done"): OpenAIRealtime._call_done,
    ("received", "response.output_audio.delta"): OpenAIRealtime._output,
    ("received", "response.output_audio_transcript.delta"): OpenAIRealtime._output,
    ("received", "response.output_audio_transcript.done"): OpenAIRealtime._output,
    ("received", "response.output_text.delta"): OpenAIRealtime._output,
    ("received", "response.output_text.done"): OpenAIRealtime._output,
    ("received", "response.done"): OpenAIRealtime._done,
    ("received", "error"): OpenAIRealtime._error,
}
