"""Final turns, tools and happenings -> spans: names and attributes. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from msgspec import UNSET

from otel_voice import chat, usage
from otel_voice import events as e
from otel_voice import semconv as s
from otel_voice.spans import CLIENT, Kind, Span, Value, root_id, span_id
from otel_voice.turns import Happening, Response, Speech, Tool, Turn

# Each response repeats what its turn heard and called: all of a turn's together, no more than this.
REPEATED_LIMIT = 4 * 1024 * 1024
NAME_LIMIT = 256
TOOL_ERROR = "tool_error"
UNANSWERED = "unanswered"

GEMINI = frozenset({"gcp.gemini", "gcp.vertex_ai"})
PROVIDERS = {"gemini-live": "gcp.gemini", "openai-realtime": "openai"}

Attributes = dict[str, Value]


def nanos(ms: float) -> int:
    """Whole microseconds first: a float of milliseconds has no more."""
    return round(ms * 1000) * 1000


class Trace:
    """Makes a session's spans. `common` goes on every span, for Langfuse reads grouping from span rows."""

    __slots__ = ("_turn", "agent_name", "capture_content", "common", "id", "model", "provider", "root")

    def __init__(self, trace_id: str, capture_content: bool = True) -> None:
        self.id = trace_id
        self.root = root_id(trace_id)
        self.capture_content = capture_content
        self.common: Attributes = {}
        self.agent_name: str | None = None
        self.provider: str | None = None
        self.model: str | None = None
        self._turn = ("", self.root)

    def describe(self, session_id: str, new: e.NewSession) -> None:
        """The attributes of every span, from what the app said of the session."""
        common: dict[str, Value | None] = {
            s.SESSION_ID: session_id,
            s.CONVERSATION_ID: session_id,
            s.USER_ID: new.user_id,
            s.AGENT_NAME: new.agent_name,
            s.TRACE_NAME: new.agent_name or s.SESSION,
            s.TRACE_TAGS: new.tags or None,
            s.ENVIRONMENT: new.environment,
            s.PREVIOUS_SESSION_ID: new.previous_session_id,
        }
        for key, value in (new.metadata or {}).items():
            common[f"{s.TRACE_METADATA}.{key}"] = value
        self.common = {key: value for key, value in common.items() if value is not None}
        self.agent_name = new.agent_name
        self.model = new.model or self.model
        self.provider = PROVIDERS.get(new.provider, new.provider) if new.provider else self.provider

    def span(
        self,
        kind: Kind,
        key: str,
        name: str,
        start: float,
        end: float,
        attributes: dict[str, Value | None],
        parent: str | None = None,
        error: str | None = None,
        otel_kind: str = "INTERNAL",
    ) -> Span:
        told = self.common | {key: value for key, value in attributes.items() if value is not None}
        if not self.capture_content:
            for content in s.CONTENT_KEYS:
                told.pop(content, None)
        return Span(
            name=name[:NAME_LIMIT],
            trace_id=self.id,
            span_id=self._span_id(kind, key),
            parent_span_id="" if kind == "session" else (parent or self.root),
            start_time_unix_nano=nanos(start),
            end_time_unix_nano=nanos(max(start, end)),
            kind=otel_kind,
            attributes=told,
            status="ERROR" if error is not None else "UNSET",
            status_message=self._status_message(error),
        )

    def _status_message(self, error: str | None) -> str:
        """An error may quote anything."""
        if error and error != s.NO_RESULT and not self.capture_content:
            return s.NOT_CAPTURED
        return chat.cut(error or "")

    def _span_id(self, kind: Kind, key: str) -> str:
        if kind == "session":
            return self.root
        return self.turn_id(key) if kind == "turn" else span_id(self.id, kind, key)

    def turn_id(self, turn_id: str | None) -> str:
        if turn_id is None:
            return self.root
        if self._turn[0] != turn_id:
            self._turn = (turn_id, span_id(self.id, "turn", turn_id))
        return self._turn[1]

    def turn(self, turn: Turn) -> list[Span]:
        """A final turn: its own span, its responses, its measured speech, what happened in it. Tools come alone."""
        responses = self._responses(turn)
        spans = [self._turn_span(turn), *responses]
        spans += [self._speech(turn, speech) for speech in turn.speech if speech.end is not None]
        spans += [self.happening(turn.id, happening) for happening in turn.happenings]
        return spans

    def _turn_span(self, turn: Turn) -> Span:
        told = chat.turn_told(turn)
        attributes: dict[str, Value | None] = {
            s.OPERATION_NAME: s.TURN,
            s.OBSERVATION_TYPE: "agent",
            s.PROVIDER_NAME: self.provider,
            s.TURN_NUMBER: turn.number,
            s.AGENT_END_REASON: turn.end_reason or "completed",
            s.LATENCY: turn.latency,
            s.INTERRUPTION_SOURCE: turn.interrupted_by,
            s.PLAYOUT_POSITION: None if turn.heard_ms is None else turn.heard_ms / 1000,
            **_said([told.user] if told.user else [], [told.agent] if told.agent else []),
        }
        name = f"{s.TURN} {self.agent_name}" if self.agent_name else s.TURN
        return self.span("turn", turn.id, name, turn.start, turn.end, attributes)

    def _responses(self, turn: Turn) -> list[Span]:
        responses = list(turn.responses.values())
        if turn.usage is not None:
            carrier = next((r for r in reversed(responses) if r.usage is None), None)
            if carrier is not None:
                carrier.usage = turn.usage
            elif not responses:
                # Tokens need a generation to be counted on; its bounds are the turn's, for nobody measured others.
                start = max([end for end in turn.user_ends if end <= turn.end], default=turn.start)
                responses = [Response(f"{turn.id}/usage", start, turn.end, turn.model, usage=turn.usage, named=False)]
        spans: list[Span] = []
        room = REPEATED_LIMIT
        turns_own = chat.turn_told(turn).agent if len(responses) == 1 else None
        for response in responses:
            own = response.said.text
            words = chat.message("assistant", own) if own else turns_own
            said = _said(*chat.exchange(turn, response, words, repeats=room > 0))
            room -= sum([len(str(text)) for text in said.values()])
            spans.append(self._response(turn, response, words is not None, said))
        return spans

    def _response(self, turn: Turn, response: Response, spoke: bool, said: dict[str, Value | None]) -> Span:
        model = response.model or turn.model or self.model
        end = response.end if response.end is not None else turn.end
        attributes: dict[str, Value | None] = {
            s.OPERATION_NAME: s.RESPONSE,
            s.OBSERVATION_TYPE: "generation",
            s.PROVIDER_NAME: self.provider,
            s.REQUEST_MODEL: self.model or model,
            s.RESPONSE_MODEL: model,
            # Gemini names no response: the adapter's own key is nobody else's business.
            s.RESPONSE_ID: response.id if response.named and self.provider not in GEMINI else None,
            s.OUTPUT_TYPE: "text" if spoke and _is_text(response.usage) else "speech",
            s.FINISH_REASONS: [response.finish_reason] if response.finish_reason else None,
            s.COMPLETION_START: None if response.first_output is None else _iso(response.first_output),
            **said,
        }
        if response.usage is not None:
            attributes |= usage.attributes_of(usage.counted(response.usage))
            attributes[s.OBSERVATION_USAGE] = chat.json(usage.disjoint(response.usage, self.provider or ""))
        if response.error is not None:
            attributes[s.ERROR_TYPE] = chat.cut(response.error_type or response.finish_reason or "error")
        name = f"{s.RESPONSE} {model}" if model else s.RESPONSE
        parent = self.turn_id(turn.id)
        return self.span("response", response.id, name, response.start, end, attributes, parent, response.error, CLIENT)

    def _speech(self, turn: Turn, speech: Speech) -> Span:
        kind: Kind = s.USER_SPEECH if speech.who == "user" else s.AGENT_SPEECH
        end = speech.end if speech.end is not None else speech.start
        attributes: dict[str, Value | None] = {
            s.OBSERVATION_TYPE: "span",
            s.MEASURED_BY: speech.measured_by,
            s.HEARD: speech.heard / 1000 if kind == "agent_speech" else None,
        }
        return self.span(kind, speech.key, kind, speech.start, end, attributes, self.turn_id(turn.id))

    def tool(self, tool: Tool, session_end: float) -> Span:
        """A tool call; one that nobody answered runs until the session's end, and says so."""
        end = tool.end if tool.end is not None else session_end
        start = tool.start if tool.start is not None else end
        name = tool.name or "unknown"
        told = chat.tool_told(tool)
        arguments = None if tool.arguments is UNSET else told.arguments
        outcome = None if tool.end is None or tool.cancelled else told.outcome
        error_type, error = _tool_error(tool)
        attributes: dict[str, Value | None] = {
            s.OPERATION_NAME: s.TOOL,
            s.OBSERVATION_TYPE: "tool",
            s.TOOL_NAME: name,
            s.TOOL_TYPE: "function",
            s.TOOL_CALL_ID: tool.call_id,
            s.TOOL_ARGUMENTS: arguments,
            s.TOOL_RESULT: outcome,
            s.OBSERVATION_INPUT: arguments,
            s.OBSERVATION_OUTPUT: outcome,
            s.ERROR_TYPE: error_type,
        }
        if tool.cancelled:
            attributes[s.OBSERVATION_LEVEL] = "WARNING"
            attributes[s.OBSERVATION_STATUS_MESSAGE] = "cancelled"
        parent = self.turn_id(tool.turn.id if tool.turn else tool.closed_turn)
        return self.span("tool", tool.call_id, f"{s.TOOL} {name}", start, end, attributes, parent, error)

    def happening(self, turn_id: str | None, happening: Happening) -> Span:
        """A mark, an error or a late fact: a span of no length, for Langfuse drops span events."""
        fact = happening.fact
        type_ = str(fact.__struct_config__.tag)
        error = fact.message if isinstance(fact, e.Error) else None
        attributes: dict[str, Value | None] = {
            s.OBSERVATION_TYPE: "event",
            s.EVENT_LATE: True if happening.late else None,
            s.ERROR_TYPE: chat.cut(fact.code or "error") if isinstance(fact, e.Error) else None,
            s.OBSERVATION_LEVEL: "ERROR" if error is not None else None,
        }
        name = type_
        if isinstance(fact, e.Mark):
            name = fact.name
            attributes |= {f"{s.MARK}.{key}": self._marked(value) for key, value in fact.attributes.items()}
        if happening.late:
            # Where and when it belongs, the span says.
            said = msgspec.to_builtins(fact)
            attributes[s.OBSERVATION_INPUT] = chat.text_of(
                {k: v for k, v in said.items() if k not in ("turn_id", "ts", "seq")}
            )
        return self.span(
            "event", happening.key, name, happening.t, happening.t, attributes, self.turn_id(turn_id), error
        )

    def _marked(self, value: Value | None) -> Value | None:
        """The log may hold a text from before content was left out."""
        withheld = isinstance(value, str) and value.strip() and not self.capture_content
        return s.NOT_CAPTURED if withheld else value


def _said(given: list[chat.Message], got: list[chat.Message]) -> dict[str, Value | None]:
    return {
        s.INPUT_MESSAGES: chat.parts(given),
        s.OUTPUT_MESSAGES: chat.parts(got),
        s.OBSERVATION_INPUT: chat.array(given),
        s.OBSERVATION_OUTPUT: chat.array(got),
    }


def _is_text(counted: e.Usage | None) -> bool:
    """The words came without sound."""
    return counted is not None and bool(counted.output_text_tokens) and not counted.output_audio_tokens


def _tool_error(tool: Tool) -> tuple[str | None, str | None]:
    if tool.cancelled:
        return "cancelled", None
    if tool.end is None:
        return UNANSWERED, s.NO_RESULT
    if tool.error is not UNSET:
        return TOOL_ERROR, chat.text_of(tool.error)[:1024]
    return None, None


def _iso(ms: float) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
