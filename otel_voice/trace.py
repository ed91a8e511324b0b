"""Final turns, tools and happenings -> spans: names, attributes, chat messages, usage. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET

from otel_voice import events as e
from otel_voice import semconv as s
from otel_voice.spans import CLIENT, Kind, Span, Value, root_id, span_id
from otel_voice.turns import Happening, Response, Speech, Tool, Turn

# A span must stay well under the 4 MiB that a gRPC receiver takes, and carries its text in four forms.
TEXT_LIMIT = 65_536
# Of many tools, a response's span has room for the last ones.
TOOLS_LIMIT = 256 * 1024
# Each response repeats what its turn heard and called: all of a turn's together, no more than this.
REPEATED_LIMIT = 4 * 1024 * 1024
NAME_LIMIT = 256
TOOL_ERROR = "tool_error"
UNANSWERED = "unanswered"
CUT_MARK = " … [cut by otel_voice]"

GEMINI = frozenset({"gcp.gemini", "gcp.vertex_ai"})
PROVIDERS = {"gemini-live": "gcp.gemini", "openai-realtime": "openai"}

Message = dict[str, Any]
Attributes = dict[str, Value]


def nanos(ms: float) -> int:
    """Whole microseconds first: a float of milliseconds has no more."""
    return round(ms * 1000) * 1000


def text_of(value: Any) -> str:
    """A JSON value as text; a string as it is, and what cannot be long is cut."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT] + CUT_MARK


def json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def chat_message(role: str, content: str) -> Message:
    return {"role": role, "content": text_of(content)}


def tool_messages(tools: Iterable[Tool]) -> list[Message]:
    """An assistant's tool calls and their results, as a chat renders them."""
    tools = list(tools)
    calls = [
        {
            "id": tool.call_id,
            "type": "function",
            "function": {"name": tool.name or "", "arguments": text_of(_or_none(tool.arguments))},
        }
        for tool in tools
    ]
    results = [
        {"role": "tool", "content": text_of(tool_outcome(tool)), "tool_call_id": tool.call_id}
        for tool in tools
        if tool.end is not None
    ]
    return [{"role": "assistant", "content": "", "tool_calls": calls}, *results] if calls else []


def tool_outcome(tool: Tool) -> Any:
    if tool.cancelled:
        return "cancelled"
    return tool.error if tool.error is not UNSET else _or_none(tool.result)


def turn_messages(turn: Turn) -> list[Message]:
    """A turn as chat: the user, the tools, the agent."""
    messages = [chat_message("user", turn.user.text)] if turn.user.text else []
    messages += tool_messages(turn.tools.values())
    if turn.agent.text:
        messages.append(chat_message("assistant", turn.agent.text))
    return messages


def usage_attributes(usage: e.Usage) -> Attributes:
    return {key: value for name, key in s.USAGE_KEYS.items() if (value := getattr(usage, name)) is not None}


def disjoint_usage(usage: e.Usage, provider: str) -> dict[str, int]:
    """Tokens under Langfuse's keys, each counted once; what no detail explains is `input` or `output`."""
    return _openai_usage(usage) if provider == "openai" else _gemini_usage(usage)


def _openai_usage(u: e.Usage) -> dict[str, int]:
    cached_text, cached_audio = u.cached_text_tokens or 0, u.cached_audio_tokens or 0
    cached_other = max((u.cached_tokens or 0) - cached_text - cached_audio, 0)
    text, audio, image = u.input_text_tokens or 0, u.input_audio_tokens or 0, u.input_image_tokens or 0
    # What was cached and is neither text nor audio is image, as far as there is any.
    is_told = u.cached_text_tokens is not None or u.cached_audio_tokens is not None
    cached_image = min(cached_other, image) if is_told else 0
    cached_text += cached_other - cached_image
    out_text, out_audio = u.output_text_tokens or 0, u.output_audio_tokens or 0
    return _counted(
        {
            "input_text_tokens": max(text - cached_text, 0),
            "input_audio_tokens": max(audio - cached_audio, 0),
            "input_image_tokens": image - cached_image,
            "input_cached_text_tokens": cached_text,
            "input_cached_image_tokens": cached_image,
            "input_cached_audio_tokens": cached_audio,
            "output_text_tokens": out_text,
            "output_audio_tokens": out_audio,
            "input": _rest(u.input_tokens, max(text + audio + image, u.cached_tokens or 0)),
            "output": _rest(u.output_tokens, out_text + out_audio),
        }
    )


def _gemini_usage(u: e.Usage) -> dict[str, int]:
    text, audio, image = u.input_text_tokens or 0, u.input_audio_tokens or 0, u.input_image_tokens or 0
    # Thoughts are billed as text and lie outside the details.
    out_text, out_audio = (u.output_text_tokens or 0) + (u.reasoning_tokens or 0), u.output_audio_tokens or 0
    return _counted(
        {
            "input_text": text,
            "input_audio": audio,
            "input_image": image,
            "output_text": out_text,
            "output_audio": out_audio,
            "input": _rest(u.input_tokens, text + audio + image),
            "output": _rest(u.output_tokens, out_text + out_audio),
        }
    )


def _rest(total: int | None, explained: int) -> int:
    return max((total or 0) - explained, 0)


def _counted(usage: dict[str, int]) -> dict[str, int]:
    return {key: count for key, count in usage.items() if count}


def _or_none(value: Any) -> Any:
    return None if value is UNSET else value


def _parts(messages: list[Message]) -> str:
    """Chat messages in the convention's own form: a role and typed parts."""
    return json([{"role": message["role"], "parts": list(_part(message))} for message in messages])


def _part(message: Message) -> Iterable[Message]:
    if "tool_call_id" in message:
        yield {"type": "tool_call_response", "id": message["tool_call_id"], "response": message["content"]}
    elif message["content"]:
        yield {"type": "text", "content": message["content"]}
    for call in message.get("tool_calls", []):
        function = call["function"]
        yield {"type": "tool_call", "id": call["id"], "name": function["name"], "arguments": function["arguments"]}


class Trace:
    """Makes a session's spans. `common` goes on every span, for Langfuse reads grouping from span rows."""

    def __init__(self, trace_id: str, capture_content: bool = True) -> None:
        self.id = trace_id
        self.root = root_id(trace_id)
        self.capture_content = capture_content
        self.common: Attributes = {}
        self.agent_name: str | None = None
        self.provider: str | None = None
        self.model: str | None = None

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
        return Span(
            name=name[:NAME_LIMIT],
            trace_id=self.id,
            span_id=self.root if kind == "session" else span_id(self.id, kind, key),
            parent_span_id="" if kind == "session" else (parent or self.root),
            start_time_unix_nano=nanos(start),
            end_time_unix_nano=nanos(max(start, end)),
            kind=otel_kind,
            attributes=self.common | self._kept(attributes),
            status="ERROR" if error is not None else "UNSET",
            status_message=text_of(error or ""),
        )

    def _kept(self, attributes: dict[str, Value | None]) -> Attributes:
        """Content is cut where it is made, message by message; whatever else is long is cut here."""
        hidden = frozenset[str]() if self.capture_content else s.CONTENT_KEYS
        return {
            key: text_of(value) if isinstance(value, str) and key not in s.CONTENT_KEYS else value
            for key, value in attributes.items()
            if value is not None and key not in hidden
        }

    def turn_id(self, turn_id: str | None) -> str:
        return self.root if turn_id is None else span_id(self.id, "turn", turn_id)

    def turn(self, turn: Turn) -> list[Span]:
        """A final turn: its own span, its responses, its measured speech, what happened in it. Tools come alone."""
        responses = self._responses(turn)
        spans = [self._turn_span(turn), *responses]
        spans += [self._speech(turn, speech) for speech in turn.speech if speech.end is not None]
        spans += [self.happening(turn.id, happening) for happening in turn.happenings]
        return spans

    def _turn_span(self, turn: Turn) -> Span:
        user = [chat_message("user", turn.user.text)] if turn.user.text else []
        agent = [chat_message("assistant", turn.agent.text)] if turn.agent.text else []
        attributes: dict[str, Value | None] = {
            s.OPERATION_NAME: s.TURN,
            s.OBSERVATION_TYPE: "agent",
            s.PROVIDER_NAME: self.provider,
            s.TURN_NUMBER: turn.number,
            s.AGENT_END_REASON: turn.end_reason or "completed",
            s.LATENCY: turn.latency,
            s.INTERRUPTION_SOURCE: turn.interrupted_by,
            s.PLAYOUT_POSITION: None if turn.heard_ms is None else turn.heard_ms / 1000,
            **self._said(user, agent),
        }
        name = f"{s.TURN} {self.agent_name}" if self.agent_name else s.TURN
        return self.span("turn", turn.id, name, turn.start, turn.end, attributes)

    def _said(self, user: list[Message], agent: list[Message]) -> dict[str, Value | None]:
        return {
            s.INPUT_MESSAGES: _parts(user) if user else None,
            s.OUTPUT_MESSAGES: _parts(agent) if agent else None,
            s.OBSERVATION_INPUT: json(user) if user else None,
            s.OBSERVATION_OUTPUT: json(agent) if agent else None,
        }

    def _responses(self, turn: Turn) -> list[Span]:
        responses = list(turn.responses.values())
        if turn.usage is not None:
            carrier = next((r for r in reversed(responses) if r.usage is None), None)
            if carrier is not None:
                carrier.usage = turn.usage
            elif not responses:
                # Tokens need a generation to be counted on; its bounds are the turn's, for nobody measured others.
                start = max((end for end in turn.user_ends if end <= turn.end), default=turn.start)
                responses = [Response(f"{turn.id}/usage", start, turn.end, turn.model, usage=turn.usage, named=False)]
        spans, room = list[Span](), REPEATED_LIMIT
        for response in responses:
            words = response.said.text or (turn.agent.text if len(responses) == 1 else "")
            said = self._said(*_exchange(turn, response, words, repeats=room > 0))
            room -= sum(len(str(text)) for text in said.values())
            spans.append(self._response(turn, response, bool(words), said))
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
            attributes |= usage_attributes(response.usage)
            attributes[s.OBSERVATION_USAGE] = json(disjoint_usage(response.usage, self.provider or ""))
        if response.error is not None:
            attributes[s.ERROR_TYPE] = response.error_type or response.finish_reason or "error"
        name = f"{s.RESPONSE} {model}" if model else s.RESPONSE
        parent = self.turn_id(turn.id)
        return self.span("response", response.id, name, response.start, end, attributes, parent, response.error, CLIENT)

    def _speech(self, turn: Turn, speech: Speech) -> Span:
        kind: Kind = s.USER_SPEECH if speech.who == "user" else s.AGENT_SPEECH
        end = speech.end if speech.end is not None else speech.start
        heard = speech.heard_ms / 1000 if speech.heard_ms is not None else (end - speech.start) / 1000
        attributes: dict[str, Value | None] = {
            s.OBSERVATION_TYPE: "span",
            s.MEASURED_BY: speech.measured_by,
            s.HEARD: heard if kind == "agent_speech" else None,
        }
        return self.span(kind, speech.key, kind, speech.start, end, attributes, self.turn_id(turn.id))

    def tool(self, tool: Tool, session_end: float) -> Span:
        """A tool call; one that nobody answered runs until the session's end, and says so."""
        end = tool.end if tool.end is not None else session_end
        start = tool.start if tool.start is not None else end
        name = tool.name or "unknown"
        arguments = None if tool.arguments is UNSET else text_of(tool.arguments)
        outcome = None if tool.end is None or tool.cancelled else text_of(tool_outcome(tool))
        error_type, error = _tool_error(tool)
        if error_type == TOOL_ERROR and not self.capture_content:
            error = "the tool failed"
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
            s.ERROR_TYPE: (fact.code or "error") if isinstance(fact, e.Error) else None,
            s.OBSERVATION_LEVEL: "ERROR" if error is not None else None,
        }
        name = type_
        if isinstance(fact, e.Mark):
            name = fact.name
            attributes |= {f"{s.MARK}.{key}": value for key, value in fact.attributes.items()}
        if happening.late:
            # Where and when it belongs, the span says.
            said = msgspec.to_builtins(fact)
            attributes[s.OBSERVATION_INPUT] = text_of(
                {k: v for k, v in said.items() if k not in ("turn_id", "ts", "seq")}
            )
        return self.span(
            "event", happening.key, name, happening.t, happening.t, attributes, self.turn_id(turn_id), error
        )


def _is_text(usage: e.Usage | None) -> bool:
    """The words came without sound."""
    return usage is not None and bool(usage.output_text_tokens) and not usage.output_audio_tokens


def _exchange(turn: Turn, response: Response, said: str, repeats: bool) -> tuple[list[Message], list[Message]]:
    """What a response was given and gave: the user's words or the tools' results; words or tool calls. Only its own
    words where it no longer repeats what other spans tell."""
    spoken = [chat_message("assistant", said)] if said else []
    if not repeats:
        return [], spoken
    end = response.end if response.end is not None else turn.end
    answered = [tool for tool in turn.tools.values() if tool.end is not None and tool.end <= response.start]
    called = [tool for tool in turn.tools.values() if tool.start is not None and response.start <= tool.start <= end]
    given = tool_messages(_last_of(answered))
    if not given and turn.user.text:
        given = [chat_message("user", turn.user.text)]
    return given, [*tool_messages(_last_of(called))[:1], *spoken]


def _last_of(tools: list[Tool]) -> list[Tool]:
    room, kept = TOOLS_LIMIT, list[Tool]()
    for tool in reversed(tools):
        room -= len(json(tool_messages([tool])))
        if kept and room < 0:
            break
        kept.append(tool)
    return kept[::-1]


def _tool_error(tool: Tool) -> tuple[str | None, str | None]:
    if tool.cancelled:
        return "cancelled", None
    if tool.end is None:
        return UNANSWERED, "no result came before the session ended"
    if tool.error is not UNSET:
        return TOOL_ERROR, text_of(tool.error)[:1024]
    return None, None


def _iso(ms: float) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
