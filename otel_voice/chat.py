"""What was said and called, as chat: each message encoded once, in the two forms that are read. Pure.

One form is what Langfuse renders (role, content, tool calls), the other OpenTelemetry's own (role and typed parts). A
turn's words stand on its own span, on its response's and on the root, so they are kept as text that is ready.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from otel_voice.turns import Response, Tool, Turn

# A span must stay well under the 4 MiB that a gRPC receiver takes, and carries its text in four forms.
TEXT_LIMIT = 65_536
# Of many tools, a response's span has room for the last ones.
TOOLS_LIMIT = 256 * 1024
CUT_MARK = " … [cut by otel_voice]"

_encode = msgspec.json.encode


class Message(Struct):
    role: str
    json: str
    parts: str


class ToolTold(Struct):
    """A tool call as text: arguments, outcome, and what a chat says of it."""

    arguments: str
    outcome: str
    call: str
    call_part: str
    result: Message


class TurnTold(Struct):
    """A turn's words as messages."""

    user: Message | None
    agent: Message | None


def json(value: Any) -> str:
    return _encode(value).decode()


def text_of(value: Any) -> str:
    """A JSON value as text; a string as it is, and what cannot be long is cut."""
    return cut(value if isinstance(value, str) else _encode(value).decode())


def cut(text: str) -> str:
    return text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT] + CUT_MARK


def array(messages: Sequence[Message]) -> str | None:
    return f"[{','.join([message.json for message in messages])}]" if messages else None


def parts(messages: Sequence[Message]) -> str | None:
    return f"[{','.join([message.parts for message in messages])}]" if messages else None


def message(role: str, content: str) -> Message:
    said = _encode(cut(content)).decode()
    typed = f'{{"type":"text","content":{said}}}' if content else ""
    return Message(role, f'{{"role":"{role}","content":{said}}}', f'{{"role":"{role}","parts":[{typed}]}}')


def outcome_of(tool: Tool) -> Any:
    if tool.cancelled:
        return "cancelled"
    return tool.error if tool.error is not UNSET else _or_none(tool.result)


def tool_told(tool: Tool) -> ToolTold:
    told: ToolTold | None = tool.told
    if told is None:
        told = _tell_tool(tool)
        if tool.end is not None:
            # It will not change any more.
            tool.told = told
    return told


def _tell_tool(tool: Tool) -> ToolTold:
    arguments, outcome = text_of(_or_none(tool.arguments)), text_of(outcome_of(tool))
    id_, name = json(tool.call_id), json(tool.name or "")
    given, got = json(arguments), json(outcome)
    return ToolTold(
        arguments,
        outcome,
        f'{{"id":{id_},"type":"function","function":{{"name":{name},"arguments":{given}}}}}',
        f'{{"type":"tool_call","id":{id_},"name":{name},"arguments":{given}}}',
        Message(
            "tool",
            f'{{"role":"tool","content":{got},"tool_call_id":{id_}}}',
            f'{{"role":"tool","parts":[{{"type":"tool_call_response","id":{id_},"response":{got}}}]}}',
        ),
    )


def tool_messages(tools: Sequence[Tool]) -> list[Message]:
    """An assistant's tool calls and their results, as a chat renders them."""
    results = [tool_told(tool).result for tool in tools if tool.end is not None]
    return [tool_calls(tools), *results] if tools else []


def tool_calls(tools: Sequence[Tool]) -> Message:
    told = [tool_told(tool) for tool in tools]
    calls = ",".join([each.call for each in told])
    typed = ",".join([each.call_part for each in told])
    return Message(
        "assistant",
        f'{{"role":"assistant","content":"","tool_calls":[{calls}]}}',
        f'{{"role":"assistant","parts":[{typed}]}}',
    )


def turn_told(turn: Turn) -> TurnTold:
    told: TurnTold | None = turn.told
    if told is None:
        told = _tell_turn(turn)
        if turn.final:
            turn.told = told
    return told


def _tell_turn(turn: Turn) -> TurnTold:
    user, agent = turn.user.text, turn.agent.text
    return TurnTold(message("user", user) if user else None, message("assistant", agent) if agent else None)


def turn_messages(turn: Turn) -> list[Message]:
    """A turn as chat: the user, the tools, the agent."""
    told = turn_told(turn)
    messages = [told.user] if told.user else []
    if turn.tools:
        messages += tool_messages(list(turn.tools.values()))
    if told.agent:
        messages.append(told.agent)
    return messages


def exchange(
    turn: Turn, response: Response, said: Message | None, repeats: bool
) -> tuple[list[Message], list[Message]]:
    """What a response was given and gave: the user's words or the tools' results; words or tool calls. Only its own
    words where it no longer repeats what other spans tell."""
    spoken = [said] if said else []
    if not repeats:
        return [], spoken
    end = response.end if response.end is not None else turn.end
    answered: list[Tool] = []
    called: list[Tool] = []
    for tool in turn.tools.values():
        if tool.end is not None and tool.end <= response.start:
            answered.append(tool)
        if tool.start is not None and response.start <= tool.start <= end:
            called.append(tool)
    gave = [tool_calls(_last_of(called)), *spoken] if called else spoken
    if answered:
        return tool_messages(_last_of(answered)), gave
    user = turn_told(turn).user
    return [user] if user else [], gave


def _last_of(tools: list[Tool]) -> list[Tool]:
    kept: list[Tool] = []
    room = TOOLS_LIMIT
    for tool in reversed(tools):
        told = tool_told(tool)
        room -= len(told.call) + len(told.result.json)
        if kept and room < 0:
            break
        kept.append(tool)
    return kept[::-1]


def _or_none(value: Any) -> Any:
    return None if value is UNSET else value
