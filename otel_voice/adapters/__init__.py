"""A provider's own messages -> our facts: the one mapping for pages, replay and servers. Pure."""

from __future__ import annotations

from typing import Final, Protocol

from otel_voice import events as e
from otel_voice.adapters.gemini_live import GeminiLive
from otel_voice.adapters.openai_realtime import OpenAIRealtime


class Adapter(Protocol):
    """One for each session, source and provider; messages come in the source's order."""

    def feed(self, message: e.ProviderMessage, key: str) -> list[e.Fact]: ...


ADAPTERS: Final[dict[str, type[Adapter]]] = {"gemini-live": GeminiLive, "openai-realtime": OpenAIRealtime}

__all__ = ["ADAPTERS", "Adapter", "GeminiLive", "OpenAIRealtime"]
