"""What Gemini Live's messages hold, once reduced: the allow-list has seen to the types."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from otel_voice.events import Usage


class Part(Struct, rename="camel", frozen=True):
    """A thought has neither text nor data left."""

    text: str = ""
    inline_data: dict[str, Any] | None = None

    @property
    def is_output(self) -> bool:
        return bool(self.text) or self.inline_data is not None


class Content(Struct, frozen=True):
    role: str = "user"
    parts: list[Part] = []

    @property
    def text(self) -> str:
        return "\n".join(part.text for part in self.parts if part.text)


class Setup(Struct, rename="camel", frozen=True):
    model: str = ""
    system_instruction: Content = Content()


class ClientContent(Struct, rename="camel", frozen=True):
    turns: list[Content] = []
    turn_complete: bool | None = None


class RealtimeInput(Struct, rename="camel", frozen=True):
    text: str = ""
    activity_start: dict[str, Any] | None = None
    activity_end: dict[str, Any] | None = None


class FunctionResponse(Struct, rename="camel", frozen=True):
    id: str | None = None
    name: str | None = None
    response: Any = None
    scheduling: str | None = None
    will_continue: bool = False


class ToolResponse(Struct, rename="camel", frozen=True):
    function_responses: list[FunctionResponse] = []


class FunctionCall(Struct, frozen=True):
    id: str | None = None
    name: str = "unknown"
    args: Any = None


class Transcription(Struct, frozen=True):
    text: str = ""
    finished: bool = False


class ServerContent(Struct, rename="camel", frozen=True):
    model_turn: Content | None = None
    input_transcription: Transcription | None = None
    output_transcription: Transcription | None = None
    generation_complete: bool = False
    interrupted: bool = False
    turn_complete: bool = False
    turn_complete_reason: str = ""


class TokenCount(Struct, rename="camel", frozen=True):
    modality: str = ""
    token_count: int = 0


class UsageMetadata(Struct, rename="camel", frozen=True):
    prompt_token_count: int | None = None
    tool_use_prompt_token_count: int = 0
    cached_content_token_count: int | None = None
    response_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    prompt_tokens_details: list[TokenCount] = []
    cache_tokens_details: list[TokenCount] = []
    response_tokens_details: list[TokenCount] = []
    candidates_tokens_details: list[TokenCount] = []


class ProviderError(Struct, frozen=True):
    code: Any = None
    status: str | None = None
    message: str = ""


class ToolCalls(Struct, rename="camel", frozen=True):
    function_calls: list[FunctionCall] = []


class Cancellation(Struct, frozen=True):
    ids: list[str] = []


class SetupComplete(Struct, rename="camel", frozen=True):
    session_id: str | None = None


class GoAway(Struct, rename="camel", frozen=True):
    time_left: str = ""


class Resumption(Struct, frozen=True):
    resumable: bool | None = None


class VoiceActivity(Struct, rename="camel", frozen=True):
    voice_activity_type: str = ""


class LiveMessage(Struct, rename="camel", frozen=True):
    """A reduced message of either direction: the allow-list has seen to the types."""

    setup: Setup | None = None
    client_content: ClientContent | None = None
    realtime_input: RealtimeInput | None = None
    tool_response: ToolResponse | None = None
    setup_complete: SetupComplete | None = None
    server_content: ServerContent | None = None
    tool_call: ToolCalls | None = None
    tool_call_cancellation: Cancellation | None = None
    usage_metadata: UsageMetadata | None = None
    go_away: GoAway | None = None
    session_resumption_update: Resumption | None = None
    voice_activity: VoiceActivity | None = None
    error: ProviderError | None = None

    @property
    def has_output(self) -> bool:
        content = self.server_content
        return self.tool_call is not None or (
            content is not None and (content.model_turn is not None or content.output_transcription is not None)
        )

    @property
    def has_input(self) -> bool:
        content = self.server_content
        heard = content is not None and content.input_transcription is not None
        return heard or bool(self.realtime_input or self.tool_response or self.voice_activity)


def usage(said: UsageMetadata) -> Usage:
    """Thoughts are not in the response's count; here they are part of the output."""
    given, thoughts = said.response_token_count, said.thoughts_token_count
    output = given if given is not None else said.candidates_token_count
    details = said.response_tokens_details or said.candidates_tokens_details
    if output is None and details:
        output = sum(detail.token_count for detail in details)
    prompt = said.prompt_token_count
    return Usage(
        input_tokens=None if prompt is None else prompt + said.tool_use_prompt_token_count,
        output_tokens=None if output is None and thoughts is None else (output or 0) + (thoughts or 0),
        input_text_tokens=_of("TEXT", said.prompt_tokens_details),
        input_audio_tokens=_of("AUDIO", said.prompt_tokens_details),
        input_image_tokens=_of("IMAGE", said.prompt_tokens_details),
        output_text_tokens=_of("TEXT", details),
        output_audio_tokens=_of("AUDIO", details),
        cached_tokens=said.cached_content_token_count,
        cached_text_tokens=_of("TEXT", said.cache_tokens_details),
        cached_audio_tokens=_of("AUDIO", said.cache_tokens_details),
        reasoning_tokens=thoughts,
    )


def _of(modality: str, details: list[TokenCount]) -> int | None:
    counts = [detail.token_count for detail in details if detail.modality == modality]
    return sum(counts) if counts else None
