"""What of a conversation is stored: all of it, masked, or only that something was said.

Masked means: e-mail addresses, and whatever could be a phone or a card number, are replaced before an event is logged.
Too much rather than too little: of a piece of text whose next piece is not here yet, every number at an edge goes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, Struct

from otel_voice import events as e
from otel_voice.adapters.allow import ALLOW_LIST
from otel_voice.semconv import NOT_CAPTURED

EMAIL, PHONE, CARD, NUMBER = "[email]", "[phone]", "[card]", "[number]"
# Local calls have as many digits; what has fewer is an amount or a time.
PHONE_DIGITS = 7
# No phone number has more (E.164), no card number fewer or more than these.
LONGEST_PHONE, CARD_DIGITS = 15, range(12, 20)
# A mask may be longer than what it covers; what is logged must still fit the wire's types.
TEXT_CHARS, ATTRIBUTE_CHARS = 262_144, 4_096

Kind = Literal["text", "chunk", "value", "answer"]

# What parts the words of a text; an address outside quotes has none of it.
_APART = r'\s"<>()\[\],;:\\'
_AT = "@\uff20\ufe6b"
# What people put between the digits of a number.
_BETWEEN = r"\s.,/()_+\-\u00ad\u00b7\u2010-\u2015\u2022\u200b-\u200f\u2060\u2212"
_RUN = rf"\d(?:[{_BETWEEN}]{{0,6}}\d)*+"
# Each word is looked at once, from its beginning: a text without blanks must cost no more than any other.
_ADDRESS = re.compile(rf"(?<![^{_APART}])(?:[^{_APART}{_AT}]++[{_AT}][^{_APART}]*|[{_AT}][^{_APART}]+)")
_ADDRESS_IN_CHUNK = re.compile(rf"(?<![^{_APART}])[^{_APART}{_AT}]*+[{_AT}][^{_APART}]*")
_NUMBER = re.compile(rf"\+?{_RUN}")
_NUMBER_IN_CHUNK = re.compile(
    rf"(?P<before>\A[{_BETWEEN}]*+){_RUN}|\+?{_RUN}(?P<after>[{_BETWEEN}]*+\Z)|(?P<inside>\+?{_RUN})"
)


class Treatment(Struct, frozen=True):
    """What becomes of each kind of content: a text, a piece of one, a JSON value, what a tool answered."""

    text: Callable[[str], str]
    chunk: Callable[[str], str]
    value: Callable[[Any], Any]
    answer: Callable[[Any], Any]


# Masked


def masked(text: str) -> str:
    return _NUMBER.sub(_named, _ADDRESS.sub(EMAIL, text))[:TEXT_CHARS]


def masked_chunk(text: str) -> str:
    return _NUMBER_IN_CHUNK.sub(_named_in_chunk, _ADDRESS_IN_CHUNK.sub(EMAIL, text))[:TEXT_CHARS]


def masked_value(value: Any) -> Any:
    """A JSON value, its keys too; a number long enough to be somebody's becomes a string."""
    if isinstance(value, str):
        return _masked_string(value)
    if isinstance(value, dict):
        return {masked(key): masked_value(each) for key, each in value.items()}
    if isinstance(value, list):
        return [masked_value(each) for each in value]
    if isinstance(value, int | float) and abs(value) >= 10 ** (PHONE_DIGITS - 1):
        return masked(f"{value:.0f}")
    return value


def _masked_string(text: str) -> str:
    """JSON in a string stays JSON: it is masked within."""
    plain = masked(text)
    if text.lstrip()[:1] in ("{", "[", '"') and (plain != text or "\\" in text):
        try:
            inner = msgspec.json.decode(text)
            covered = masked_value(inner)
        except (msgspec.DecodeError, RecursionError):
            return plain
        return text if plain == text and covered == inner else msgspec.json.encode(covered).decode()
    return plain


def _named(found: re.Match[str]) -> str:
    return _name(found[0])


def _named_in_chunk(found: re.Match[str]) -> str:
    if (inside := found["inside"]) is not None:
        return _name(inside)
    return (found["before"] or "") + NUMBER + (found["after"] or "")


def _name(run: str) -> str:
    digits = [int(each) for each in run if each.isdecimal()]
    if len(digits) < PHONE_DIGITS:
        return run
    if len(digits) in CARD_DIGITS and _is_luhn(digits):
        return CARD
    return PHONE if len(digits) <= LONGEST_PHONE else NUMBER


def _is_luhn(digits: list[int]) -> bool:
    """The check digit of card numbers."""
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


# Not captured


def _withheld(text: str) -> str:
    """That something was said stays to be seen."""
    return NOT_CAPTURED if text.strip() else text


def _withheld_value(value: Any) -> Any:
    return None if value is None else NOT_CAPTURED


def _withheld_answer(value: Any) -> Any:
    """Whether a function failed, and how its answer is to be spoken, is no content."""
    if not isinstance(value, dict):
        return _withheld_value(value)
    kept: dict[str, Any] = {} if value.get("error") in (None, False) else {"error": NOT_CAPTURED}
    if value.get("scheduling") in ("INTERRUPT", "WHEN_IDLE", "SILENT"):
        kept["scheduling"] = value["scheduling"]
    return kept or NOT_CAPTURED


MASKED: Final = Treatment(masked, masked_chunk, masked_value, masked_value)
WITHHELD: Final = Treatment(_withheld, _withheld, _withheld_value, _withheld_answer)


# Where content is in a provider's messages

# Strings of the allow-list that name something; every other one, and every JSON value, is content.
NAMES = frozenset(
    {
        "audioOffset",
        "code",
        "conversation",
        "modality",
        "reason",
        "role",
        "scheduling",
        "status",
        "timeLeft",
        "turnCompleteReason",
        "type",
        "voiceActivityType",
    }
)
# Below these, a text comes in pieces.
_IN_PIECES = frozenset({"delta", "inputTranscription", "outputTranscription", "modelTurn"})

Tree = dict[str, Any] | list[Any] | Kind


def kind_of(leaf: str, path: tuple[str, ...]) -> Kind | None:
    """None for what is kept as it is."""
    if leaf not in ("string", "json") or path[-1] in NAMES:
        return None
    if leaf == "json":
        return "answer" if path[-1] == "response" else "value"
    return "chunk" if _IN_PIECES.intersection(path) else "text"


def _tree(shape: Any, path: tuple[str, ...]) -> Tree | None:
    """The allow-list's shape with nothing in it but content."""
    if isinstance(shape, str):
        return kind_of(shape, path)
    if isinstance(shape, list):
        inner = _tree(shape[0], path)
        return None if inner is None else [inner]
    found = {key: _tree(inner, (*path, key)) for key, inner in shape.items() if key}
    return {key: inner for key, inner in found.items() if inner is not None} or None


def _trees(listed: dict[str, Any], dir: str) -> dict[str, Tree | None]:
    """By a message's type, or under "" where messages have none."""
    shapes = listed[dir] if "keyed_by" in listed else {"": listed[dir]}
    return {name: _tree(shape, (name,)) for name, shape in shapes.items()}


_TREES: Final = {
    (provider, dir): _trees(listed, dir) for provider, listed in ALLOW_LIST.items() for dir in ("sent", "received")
}


class Content:
    def __init__(self, treatment: Treatment) -> None:
        self._treat = treatment
        self._kinds: dict[Kind, Callable[[Any], Any]] = {
            "text": treatment.text,
            "chunk": treatment.chunk,
            "value": treatment.value,
            "answer": treatment.answer,
        }

    def treat(self, event: e.WireEvent) -> None:
        """In place; a provider's message must be reduced already."""
        match event:
            case e.ProviderMessage():
                trees = _TREES[event.provider, event.dir]
                tree = trees.get(event.message.get("type", "")) if "" not in trees else trees[""]
                event.message = self._message(tree, event.message)
            case e.Transcript():
                event.text = (self._treat.text if event.final else self._treat.chunk)(event.text)
            case e.TurnComplete():
                event.user_text, event.agent_text = self._text(event.user_text), self._text(event.agent_text)
            case e.ToolCall():
                event.arguments = self._treat.value(event.arguments)
            case e.ToolResult():
                event.result, event.error = self._outcome(event.result), self._outcome(event.error)
            case e.ResponseEnd():
                event.error = self._text(event.error)
            case e.Error():
                event.message = self._treat.text(event.message)
            case e.Mark():
                event.attributes = {key: self._attribute(value) for key, value in event.attributes.items()}

    def _message(self, tree: Tree | None, value: Any) -> Any:
        if tree is None:
            return value
        if isinstance(tree, str):
            return self._kinds[tree](value)
        if isinstance(tree, list):
            return [self._message(tree[0], each) for each in value]
        return {key: self._message(tree.get(key), each) for key, each in value.items()}

    def _text(self, text: str | None) -> str | None:
        return None if text is None else self._treat.text(text)

    def _outcome(self, value: Any) -> Any:
        return value if value is UNSET else self._treat.value(value)

    def _attribute(self, value: Any) -> Any:
        return self._treat.text(value)[:ATTRIBUTE_CHARS] if isinstance(value, str) else value


def content(captured: str) -> Content | None:
    """For "on", "off" or "masked"; None where all is stored as it came."""
    return {"on": None, "off": Content(WITHHELD), "masked": Content(MASKED)}[captured]
