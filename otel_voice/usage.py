"""Tokens: OpenTelemetry's keys for them, and Langfuse's, under which each is counted once. Pure."""

from __future__ import annotations

import msgspec

from otel_voice import events as e
from otel_voice import semconv as s


def counted(usage: e.Usage) -> dict[str, int]:
    """What was said, by the names of `events.Usage`."""
    said: dict[str, int] = msgspec.to_builtins(usage)
    return said


def attributes_of(usage: dict[str, int]) -> dict[str, int]:
    return {s.USAGE_KEYS[name]: count for name, count in usage.items()}


def disjoint(usage: e.Usage, provider: str) -> dict[str, int]:
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
