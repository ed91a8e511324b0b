"""What OpenAI Realtime's messages hold, once reduced: the allow-list has seen to the types."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from otel_voice.events import Usage

DEEPEST: Final = 64  # arguments nested deeper than this stay the string they came as
_FINISH: Final = {"cancelled": "cancelled", "failed": "error", "max_output_tokens": "length"}


class ProviderError(Struct, frozen=True):
    type: str | None = None
    code: str | None = None
    message: str = ""

    @property
    def name(self) -> str | None:
        return self.code or self.type or None


class Part(Struct, frozen=True):
    text: str = ""
    transcript: str = ""


class Item(Struct, frozen=True):
    id: str | None = None
    type: str = ""
    role: str = ""
    status: str = ""
    name: str | None = None
    call_id: str | None = None
    arguments: Any = None
    output: Any = None
    error: Any = None
    content: list[Part] = []

    @property
    def text(self) -> str:
        return "\n".join(text for part in self.content if (text := part.text or part.transcript))


class CachedDetails(Struct, frozen=True):
    text_tokens: int | None = None
    audio_tokens: int | None = None


class TokenDetails(Struct, frozen=True):
    text_tokens: int | None = None
    audio_tokens: int | None = None
    image_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens_details: CachedDetails = CachedDetails()


class TokenUsage(Struct, frozen=True):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_token_details: TokenDetails = TokenDetails()
    output_token_details: TokenDetails = TokenDetails()


class StatusDetails(Struct, frozen=True):
    reason: str = ""
    error: ProviderError | None = None


class ResponseObject(Struct, frozen=True):
    id: str | None = None
    conversation_id: str | None = None
    conversation: str = ""
    status: str = ""
    status_details: StatusDetails = StatusDetails()
    output: list[Item] = []
    usage: TokenUsage | None = None


class SessionObject(Struct, frozen=True):
    id: str | None = None
    model: str | None = None
    instructions: str | None = None


class RealtimeMessage(Struct, frozen=True):
    """A reduced message of either direction: the allow-list has seen to the types."""

    type: str
    item_id: str | None = None
    response_id: str | None = None
    content_index: int = 0
    delta: str = ""
    transcript: str = ""
    text: str = ""
    call_id: str | None = None
    name: str | None = None
    arguments: Any = None
    audio_end_ms: float | None = None
    item: Item = Item()
    response: ResponseObject = ResponseObject()
    session: SessionObject = SessionObject()
    error: ProviderError = ProviderError()
    usage: TokenUsage | None = None

    @property
    def part_id(self) -> str | None:
        """An item's first part goes by its item's id; each part has a text of its own."""
        return f"{self.item_id}/{self.content_index}" if self.item_id and self.content_index else self.item_id


def finish_reason(response: ResponseObject, only_called: bool = False) -> str | None:
    if response.status == "incomplete":
        reason = response.status_details.reason or "incomplete"
        return _FINISH.get(reason, reason)
    if response.status == "completed":
        called = [item.type == "function_call" for item in response.output]
        return "tool_calls" if all(called) and (called or only_called) else "stop"
    return _FINISH.get(response.status, response.status or None)


def usage(said: TokenUsage) -> Usage | None:
    input_, output = said.input_token_details, said.output_token_details
    told = Usage(
        input_tokens=said.input_tokens,
        output_tokens=said.output_tokens,
        input_text_tokens=input_.text_tokens,
        input_audio_tokens=input_.audio_tokens,
        input_image_tokens=input_.image_tokens,
        output_text_tokens=output.text_tokens,
        output_audio_tokens=output.audio_tokens,
        cached_tokens=input_.cached_tokens,
        cached_text_tokens=input_.cached_tokens_details.text_tokens,
        cached_audio_tokens=input_.cached_tokens_details.audio_tokens,
        reasoning_tokens=output.reasoning_tokens,
    )
    return told if told != Usage() else None


def parsed(value: Any) -> Any:
    """The JSON in a string; the string itself where it is none, or nests too deep."""
    if not isinstance(value, str):
        return value
    try:
        decoded = msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return value
    return decoded if _is_shallow(decoded) else value


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return True
    return False
