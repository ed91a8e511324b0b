"""Gemini Live: a connection's messages, both ways -> facts.

The protocol has no ids but the tools', so who is meant follows from the order: model output answers the user's input
that stands open, else it goes on with the turn whose tools it still has to speak to, else it begins one of the agent's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct

from otel_voice import events as e
from otel_voice.adapters.allow import reduce
from otel_voice.adapters.gemini_messages import (
    Cancellation,
    ClientContent,
    FunctionResponse,
    GoAway,
    LiveMessage,
    ProviderError,
    RealtimeInput,
    Resumption,
    ServerContent,
    Setup,
    SetupComplete,
    ToolCalls,
    ToolResponse,
    Transcription,
    UsageMetadata,
    VoiceActivity,
    usage,
)
from otel_voice.adapters.recent import Recent

Facts = Iterator[e.Fact]

# A transcript may trail the answer's generation; one that comes later, without a turnComplete, is a new utterance.
LATE_TRANSCRIPT_MS: Final = 3_000.0


class Response(Struct):
    id: str
    turn_id: str
    output: bool = False
    called: bool = False
    generated_at: float | None = None
    spoke_since: bool = False  # since its last tool call or result
    spoke_over: bool = False  # ... while a tool was at work: its result is answered in another response
    cut: e.InterruptionSource | None = None
    complete: bool = False
    ended_at: float | None = None
    usage: e.Usage | None = None

    @property
    def unheard(self) -> bool:
        """Still without anything said or done, so the user who goes on is not interrupting it."""
        return not (self.output or self.called or self.complete or self.cut)


class Call(Struct):
    name: str
    turn_id: str
    open: bool = True


class Request(Struct):
    """When the model was asked, by a message of this key."""

    turn_id: str
    key: str
    at: float | None


class GeminiLive:
    def __init__(self) -> None:
        self.key = ""
        self.at: float | None = None
        self.turn: str | None = None  # the turn that is answered, or was answered last
        self.asking: str | None = None  # the turn whose user input stands open
        self.owes = False  # a tool of self.turn was called or answered, and the agent has yet to speak to that
        self.response: Response | None = None  # the running one, or the last: its usage may still come
        self.request: Request | None = None
        self.calls: Recent[Call] = Recent()
        self.cause: e.InterruptionSource = "user_speech"  # what an interruption now would come from
        self.utterance: tuple[str, str] | None = None  # turn and item of the user's words that are being transcribed
        self.announced = False  # in this session, speech is announced: no transcript opens a turn
        self.held: list[str] = []  # user texts sent without asking for an answer
        self.held_asks = False  # ... or without saying whether they ask
        self.connections = 0
        self.hushed = False  # an answer was interrupted of which nothing has come
        self.resumable: bool | None = None

    def feed(self, message: e.ProviderMessage, key: str) -> list[e.Fact]:
        """The facts one message adds; `key` is unique to it. Its `ts` is theirs, unless they tell of an earlier one."""
        reduced = reduce("gemini-live", message.dir, message.message)
        if reduced is None:
            return []
        self.key, self.at = key, message.ts
        facts = list(self._read(msgspec.convert(reduced, LiveMessage)))
        for fact in facts:
            fact.ts = message.ts if fact.ts is None else fact.ts
        return facts

    def _read(self, said: LiveMessage) -> Facts:
        if said.client_content is None:
            yield from self._release(said)
        # Beside output, usage is of the response that this output may begin; else of the one that runs or ran last.
        tokens = said.usage_metadata
        if tokens is not None and not said.has_output:
            yield from self._usage(tokens, said.server_content)
        for name, read in _PARTS:
            if (part := getattr(said, name)) is not None:
                yield from read(self, part)
        if tokens is not None and said.has_output:
            yield from self._usage(tokens, None)

    # The session

    def _setup(self, setup: Setup) -> Facts:
        self.connections += 1
        if self.response is not None and not self.response.complete:
            # What the last connection was saying ended with it.
            self.response.complete = True
            if self.response.ended_at is None:
                yield self._ended(self.response, "cancelled", self.response.generated_at)
        provider = "gcp.vertex_ai" if setup.model.startswith("projects/") else "gcp.gemini"
        model = setup.model.rpartition("/")[2] or None
        yield e.SessionFacts(provider=provider, model=model, instructions=setup.system_instruction.text or None)

    def _setup_complete(self, done: SetupComplete) -> Facts:
        if done.session_id:
            yield e.SessionFacts(provider_session_id=done.session_id)

    def _go_away(self, notice: GoAway) -> Facts:
        seconds = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)s", notice.time_left)
        yield e.Mark(name="go_away", attributes={"time_left_ms": float(seconds[1]) * 1000} if seconds else {})

    def _resumption(self, update: Resumption) -> Facts:
        if update.resumable is not None and update.resumable != self.resumable:
            self.resumable = update.resumable
            yield e.Mark(name="session_resumption", attributes={"resumable": update.resumable})

    def _error(self, error: ProviderError) -> Facts:
        code = error.status or (str(error.code)[:64] if isinstance(error.code, str | int) else None)
        yield e.Error(message=error.message, code=code or None)

    # The user

    def _client_content(self, content: ClientContent) -> Facts:
        asked = content.turns
        since = max((i + 1 for i, turn in enumerate(asked) if turn.role == "model"), default=0)
        if since:
            yield from self._history()
        for turn in asked[:since]:
            if turn.text and self.connections < 2:
                # On a connection made anew, a client repeats what was said.
                yield e.HistoryItem(role="assistant" if turn.role == "model" else "user", text=turn.text)
        self.held += [turn.text for turn in asked[since:] if turn.text]
        self.held_asks = content.turn_complete is None
        # Content cuts the answer short, whether it asks for another or not.
        self._cut_by_client()
        if content.turn_complete:
            yield from self._typed()

    def _release(self, said: LiveMessage) -> Facts:
        """Texts that were sent without asking turn out to be history, unless the model answers what may have asked."""
        if self.held and self.held_asks and not said.has_input:
            if said.has_output:
                yield from self._typed()
            return
        yield from self._history()

    def _history(self) -> Facts:
        held, self.held = self.held, []
        for text in held if self.connections < 2 else []:
            yield e.HistoryItem(role="user", text=text)

    def _cut_by_client(self) -> None:
        if self.response is not None and not self.response.complete:
            self.cause = "programmatic"

    def _typed(self) -> Facts:
        texts, self.held = self.held, []
        if texts or not self.owes or self.turn is None:
            yield from self._listen()
        turn_id = self.asking or self.turn or ""
        for n, text in enumerate(texts):
            item_id = f"{self.key}/{n}" if n else self.key
            yield e.Transcript(role="user", text=text, final=True, typed=True, item_id=item_id, turn_id=turn_id)
        self.request = Request(turn_id, self.key, self.at)

    def _realtime_input(self, sent: RealtimeInput) -> Facts:
        if sent.activity_start is not None:
            yield from self._speech_start("client_vad")
        if sent.activity_end is not None:
            yield from self._speech_end("client_vad")
        if sent.text:
            self._cut_by_client()
            self.held = [sent.text]
            yield from self._typed()

    def _voice_activity(self, activity: VoiceActivity) -> Facts:
        if activity.voice_activity_type.endswith("START"):
            yield from self._speech_start("provider_vad")
        elif activity.voice_activity_type.endswith("END"):
            yield from self._speech_end("provider_vad")

    def _speech_start(self, measured_by: str) -> Facts:
        self.announced = True
        yield from self._listen()
        self.request = None
        self.cause = "user_speech"
        self.utterance = (self.asking or "", self.key)
        yield e.UserSpeechStart(turn_id=self.asking, item_id=self.key, measured_by=measured_by)

    def _speech_end(self, measured_by: str) -> Facts:
        if self.utterance is None:
            return
        turn_id, item_id = self.utterance
        yield e.UserSpeechEnd(turn_id=turn_id, item_id=item_id, measured_by=measured_by)
        if turn_id == self.asking:
            self.request = Request(turn_id, self.key, self.at)

    def _listen(self) -> Facts:
        """The turn for input that begins now: the one still unanswered, or a new one."""
        if self.asking is not None:
            return
        if self.response is not None and self.response.unheard and not self.owes:
            self.asking = self.response.turn_id
        else:
            yield from self._open()

    def _open(self) -> Facts:
        response = self.response
        if response is not None and response.generated_at is not None and response.ended_at is None:
            yield self._ended(response, _finish_reason(response, ""), response.generated_at)
        self.asking = self.key
        yield e.TurnStart(turn_id=self.key)

    def _input_transcription(self, content: ServerContent) -> Facts:
        words = content.input_transcription or Transcription()
        turn_id = self._turn_heard()
        if turn_id is None and words.text.strip():
            yield from self._open()
            turn_id = self.key
        if turn_id is not None and words.text:
            if self.utterance is None or self.utterance[0] != turn_id:
                self.utterance = (turn_id, self.key)
            yield e.Transcript(role="user", text=words.text, item_id=self.utterance[1], turn_id=turn_id)
        if words.finished and not self.announced:
            self.utterance = None

    def _turn_heard(self) -> str | None:
        """Whose words a transcript holds; None when they begin a turn."""
        response = self.response
        if self.asking is not None:
            return self.asking
        if response is not None and not response.complete and response.cut in (None, "tool_response"):
            since = (self.at or 0.0) - (response.generated_at or self.at or 0.0)
            if since <= LATE_TRANSCRIPT_MS:
                return response.turn_id
        return self.turn if self.announced else None

    # The model

    def _server_content(self, content: ServerContent) -> Facts:
        for name, read in _CUT_CONTENT if content.interrupted else _CONTENT:
            if getattr(content, name):
                yield from read(self, content)

    def _begin(self) -> Facts:
        """Sees to it that self.response is the one that output belongs to."""
        response = self.response
        if response is not None and not self._is_over(response):
            return
        if response is not None and response.ended_at is None:
            yield self._ended(response, _finish_reason(response, ""), response.generated_at)
        turn_id, request = self.asking or (self.turn if self.owes else None), self.request
        if turn_id is None:
            turn_id = self.key
            yield e.TurnStart(turn_id=turn_id)
        if turn_id != self.turn:
            self.turn, self.owes = turn_id, False
        self.asking, self.request, self.cause, self.hushed = None, None, "user_speech", False
        if request is None or request.turn_id != turn_id:
            request = Request(turn_id, self.key, self.at)
        self.response = Response(request.key, turn_id)
        yield e.ResponseStart(response_id=request.key, turn_id=turn_id, ts=request.at)

    def _is_over(self, response: Response) -> bool:
        if response.complete or response.cut == "tool_response":
            return True
        # What still arrives of an answer that was cut or generated is its rest, until the user has said something new.
        return self.asking is not None and (response.cut is not None or response.generated_at is not None)

    def _model_turn(self, content: ServerContent) -> Facts:
        parts = content.model_turn.parts if content.model_turn else []
        yield from self._begin()
        if any(part.is_output for part in parts):
            yield from self._output()
        if text := "".join(part.text for part in parts):
            yield from self._agent_text(text)

    def _output_transcription(self, content: ServerContent) -> Facts:
        words, response = content.output_transcription, self.response
        if words is None or not words.text:
            return
        # After a cut, words may trail the audio they transcribe.
        if response is None or response.complete or response.cut != "tool_response":
            yield from self._begin()
        yield from self._output()
        yield from self._agent_text(words.text)

    def _output(self) -> Facts:
        response = self.response
        if response is None:
            return
        response.spoke_since = True
        if response.output:
            return
        response.output = True
        if self.asking == response.turn_id:
            self.asking = None
        yield e.ResponseOutput(response_id=response.id, turn_id=response.turn_id)

    def _agent_text(self, text: str) -> Facts:
        if (response := self.response) is not None:
            yield e.Transcript(
                role="agent", text=text, item_id=response.id, turn_id=response.turn_id, response_id=response.id
            )

    def _generation_complete(self, content: ServerContent) -> Facts:
        response = self.response
        if response is None or response.ended_at is not None or response.generated_at is not None:
            return
        response.generated_at = self.at
        if response.output:
            yield e.TurnComplete(turn_id=response.turn_id, end_reason="completed")

    def _interrupted(self, content: ServerContent) -> Facts:
        source, self.cause = self.cause, "user_speech"
        response = self.response
        if self.asking is not None and (response is None or response.complete):
            self.hushed = True
            return
        if response is None or response.cut is not None:
            return
        unheard, response.cut = response.unheard, source
        if not response.complete:
            yield self._ended(response, "cancelled")
        if unheard and source != "tool_response":
            self.asking = self.asking or response.turn_id
            yield e.FalseStart(response_id=response.id, turn_id=response.turn_id)
            return
        yield e.Interrupted(source=source, turn_id=response.turn_id, response_id=response.id)
        if source != "tool_response":
            self.owes = False
            yield e.TurnComplete(turn_id=response.turn_id, end_reason="interrupted")

    def _turn_complete(self, content: ServerContent) -> Facts:
        response = self.response
        if response is None or response.complete:
            return
        response.complete = True
        if response.ended_at is None:
            yield self._ended(response, _finish_reason(response, content.turn_complete_reason))
        if response.cut in (None, "tool_response"):
            yield e.TurnComplete(turn_id=response.turn_id, end_reason="completed")
        if response.spoke_since and not response.spoke_over and not self._has_open_call(response.turn_id):
            self.owes = False

    def _ended(self, response: Response, reason: str, at: float | None = None) -> e.ResponseEnd:
        response.ended_at = self.at if at is None else at
        return e.ResponseEnd(
            response_id=response.id,
            turn_id=response.turn_id,
            finish_reason=reason,
            usage=response.usage,
            ts=response.ended_at,
        )

    def _usage(self, said: UsageMetadata, content: ServerContent | None) -> Facts:
        """Usage of the response that runs is told at its end; of one that has ended, in a second ResponseEnd."""
        over = self.response is None or self.response.complete
        if over and self.asking is not None and content is not None and content.turn_complete:
            hushed = self.hushed
            yield from self._begin()  # an answer without a word
            if hushed:
                yield from self._interrupted(content)
        if (response := self.response) is None:
            return
        response.usage = usage(said)
        if response.ended_at is not None:
            yield e.ResponseEnd(
                response_id=response.id, turn_id=response.turn_id, usage=response.usage, ts=response.ended_at
            )

    # Tools

    def _tool_call(self, calls: ToolCalls) -> Facts:
        if not calls.function_calls:
            return
        yield from self._begin()
        if (response := self.response) is None:
            return
        response.called = self.owes = True
        response.spoke_since = False
        for n, call in enumerate(calls.function_calls):
            call_id = call.id or f"{self.key}/{n}"
            self.calls[call_id] = Call(call.name, response.turn_id)
            yield e.ToolCall(
                call_id=call_id,
                name=call.name,
                arguments=call.args,
                turn_id=response.turn_id,
                response_id=response.id,
            )

    def _cancellation(self, cancelled: Cancellation) -> Facts:
        for call_id in dict.fromkeys(cancelled.ids):
            call = self.calls.get(call_id)
            if call is not None:
                call.open = False
            yield e.ToolResult(
                call_id=call_id,
                cancelled=True,
                name=call.name if call else None,
                turn_id=call.turn_id if call else self.turn,
            )

    def _tool_response(self, sent: ToolResponse) -> Facts:
        for n, answer in enumerate(sent.function_responses):
            yield self._answered(answer, f"{self.key}/{n}")
        response = self.response
        idle = response is None or response.complete
        if response is not None and not idle:
            response.spoke_over, response.spoke_since = response.spoke_over or response.spoke_since, False
        if self.turn is not None and self.asking is None and self.owes and idle:
            self.request = Request(self.turn, self.key, self.at)

    def _answered(self, answer: FunctionResponse, otherwise: str) -> e.ToolResult:
        call_id = answer.id or self._oldest_open(answer.name) or otherwise
        call = self.calls.get(call_id)
        if call is not None:
            call.open = answer.will_continue
        if call is None or call.turn_id == self.turn:
            self.owes = self.owes or self.turn is not None
        result, error, scheduling = _result(answer.response)
        if "INTERRUPT" in (answer.scheduling, scheduling):
            self.cause = "tool_response"
        return e.ToolResult(
            call_id=call_id,
            result=result,
            error=error,
            name=call.name if call else answer.name,
            turn_id=call.turn_id if call else self.turn,
        )

    def _has_open_call(self, turn_id: str) -> bool:
        return any(call.open and call.turn_id == turn_id for call in self.calls.values())

    def _oldest_open(self, name: str | None) -> str | None:
        return next((call_id for call_id, call in self.calls.items() if call.open and call.name == name), None)


def _finish_reason(response: Response, said: str) -> str:
    if said and not said.endswith("UNSPECIFIED"):
        return said.lower()
    return "tool_calls" if response.called and not response.output else "stop"


def _result(response: Any) -> tuple[Any, Any, Any]:
    """Result, error and scheduling of a function's free-form response; by convention its "error" tells a failure."""
    if response is None:
        return UNSET, UNSET, None
    if not isinstance(response, dict):
        return response, UNSET, None
    error = response.get("error")
    if error is None or error is False:
        return response, UNSET, response.get("scheduling")
    return UNSET, error, response.get("scheduling")


Read = Callable[[GeminiLive, Any], Facts]

# What one message holds is read in this order: what the user said before what the model answers.
_PARTS: Final[tuple[tuple[str, Read], ...]] = (
    ("setup", GeminiLive._setup),
    ("setup_complete", GeminiLive._setup_complete),
    ("client_content", GeminiLive._client_content),
    ("realtime_input", GeminiLive._realtime_input),
    ("tool_response", GeminiLive._tool_response),
    ("voice_activity", GeminiLive._voice_activity),
    ("tool_call", GeminiLive._tool_call),
    ("tool_call_cancellation", GeminiLive._cancellation),
    ("server_content", GeminiLive._server_content),
    ("go_away", GeminiLive._go_away),
    ("session_resumption_update", GeminiLive._resumption),
    ("error", GeminiLive._error),
)

_INPUT: Final[tuple[tuple[str, Read], ...]] = (("input_transcription", GeminiLive._input_transcription),)
_MODEL: Final[tuple[tuple[str, Read], ...]] = (
    ("model_turn", GeminiLive._model_turn),
    ("output_transcription", GeminiLive._output_transcription),
    ("generation_complete", GeminiLive._generation_complete),
)
_END: Final[tuple[tuple[str, Read], ...]] = (("turn_complete", GeminiLive._turn_complete),)
_CONTENT: Final = _INPUT + _MODEL + _END
# Beside an interruption, what the user is heard to say is what interrupted.
_CUT_CONTENT: Final = (*_MODEL, ("interrupted", GeminiLive._interrupted), *_INPUT, *_END)
