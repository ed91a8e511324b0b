"""The words of a turn, as its span has them: what a search for them finds. None where content is not captured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from otel_voice import semconv as s
from otel_voice.spans import Span


class _Part(Struct):
    content: str = ""


class _Message(Struct):
    parts: list[_Part]


_messages = msgspec.json.Decoder(list[_Message])


def said_in(spans: Iterable[Span]) -> list[tuple[int, str]]:
    """The number and the text of each turn among these spans that has words."""
    turns = [span.attributes for span in spans if span.attributes.get(s.OPERATION_NAME) == s.TURN]
    told = [(attributes[s.TURN_NUMBER], _text(attributes)) for attributes in turns]
    return [(number, text) for number, text in told if text and isinstance(number, int)]


def _text(attributes: Mapping[str, object]) -> str:
    said = [attributes.get(key) for key in (s.INPUT_MESSAGES, s.OUTPUT_MESSAGES)]
    messages = [message for text in said if isinstance(text, str) for message in _messages.decode(text)]
    return "\n".join(part.content for message in messages for part in message.parts if part.content)
