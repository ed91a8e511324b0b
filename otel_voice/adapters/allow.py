"""The keys of a provider's protocol that are kept, and what a page forwards of them.

`allow_list.json` is the whole list, as data that the page can share: per provider and direction a shape. Its leaves are
string, boolean, count, millis (a duration), id (1 to 256 characters), json (kept as it is), marker (that it was there,
not what it was) and alone (when true, all else in its object goes: thoughts). A list of one shape takes a list, or a
single one. The key "" names where a bare value in place of an object belongs (`"hi"` for `{"text": "hi"}`). Beside a
camelCase key its snake_case spelling is taken. A value of the wrong type counts as absent, so what comes out has the
types that the list says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal, TypeAlias

import msgspec

from otel_voice.adapters.recent import Recent

Provider: TypeAlias = Literal["gemini-live", "openai-realtime"]
Direction: TypeAlias = Literal["sent", "received"]
Message: TypeAlias = dict[str, Any]

ALLOW_LIST: Final[dict[str, Any]] = msgspec.json.decode(files(__package__).joinpath("allow_list.json").read_bytes())
LONGEST_MS: Final = 86_400_000
LARGEST: Final = 2**53  # what a browser's number and an OTLP integer both hold
CHUNK: Final = 160  # characters of a transcript held back at most, and so what a crashing tab can lose of one


def _string(value: Any) -> Any:
    return value if isinstance(value, str) else None


def _id(value: Any) -> Any:
    return value if isinstance(value, str) and 0 < len(value) <= 256 else None


def _number(value: Any, most: int) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and 0 <= value <= most else None


def _count(value: Any) -> Any:
    number = _number(value, LARGEST)
    return int(number) if number is not None and number == int(number) else None


_LEAVES: Final[dict[str, Callable[[Any], Any]]] = {
    "string": _string,
    "id": _id,
    "boolean": lambda value: value if isinstance(value, bool) else None,
    "count": _count,
    "millis": lambda value: _number(value, LONGEST_MS),
    "json": lambda value: value,
    "marker": lambda value: {} if value is not False else None,
    "alone": lambda value: True if value is True else None,
}


@cache
def _snake(key: str) -> str:
    return re.sub(r"(?<=[a-z])([A-Z])", r"_\1", key).lower()


def _kept(shape: Any, value: Any) -> Any:
    """What the shape keeps of a value, or None. The recursion follows the shape, whatever the value nests."""
    if value is None:
        return None
    if isinstance(shape, str):
        return _LEAVES[shape](value)
    if isinstance(shape, list):
        values = value if isinstance(value, list) else [value]
        return [kept for each in values if (kept := _kept(shape[0], each)) is not None] or None
    return _kept_keys(shape, value)


def _kept_keys(shape: dict[str, Any], value: Any) -> Message | None:
    if not isinstance(value, dict):
        if "" not in shape:
            return None
        value = {shape[""]: value}
    kept: Message = {}
    for key, inner in shape.items():
        # Of all that a shape names, a message has little.
        spelled = key if key in value else _snake(key)
        if spelled not in value or not key:
            continue
        found = _kept(inner, value[spelled])
        if found is None:
            continue
        if inner == "alone":
            return {key: found}
        kept[key] = found
    return kept or None


def reduce(provider: Provider, dir: Direction, message: Message) -> Message | None:
    """The part of a message that matters, in the protocol's own spelling; None when nothing does."""
    listed = ALLOW_LIST[provider]
    if "keyed_by" not in listed:
        return _kept_keys(listed[dir], message)
    name = _string(message.get(listed["keyed_by"]))
    name = listed["aliases"].get(name, name)
    if name not in listed[dir]:
        return None
    return {listed["keyed_by"]: name} | (_kept_keys(listed[dir][name], message) or {})


def longest(provider: Provider, dir: Direction, reduced: Message) -> int:
    """How many things the longest list of a reduced message tells of."""
    listed = ALLOW_LIST[provider]
    shape = listed[dir] if "keyed_by" not in listed else listed[dir].get(reduced.get(listed["keyed_by"]), {})
    return _longest(shape, reduced)


def _longest(shape: Any, value: Any) -> int:
    if isinstance(shape, list):
        return max(len(value), *(_longest(shape[0], each) for each in value))
    if isinstance(shape, dict):
        return max((_longest(inner, value[key]) for key, inner in shape.items() if key in value), default=0)
    return 0


class Forward:
    """What a page forwards of a connection: reduced messages, without those that say nothing new.

    Of a response's audio only the first chunk stays. Chunks of a text that a final message will repeat are held back
    and sent on as one, before the response's end at the latest; `flush()`, for a page that closes, gives the rest.
    """

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self._audio: Recent[bool] = Recent()
        self._pending: dict[str, Message] = {}
        self._choose = {"gemini-live": self._gemini_live, "openai-realtime": self._openai_realtime}[provider]

    def __call__(self, dir: Direction, message: Message) -> list[Message]:
        reduced = reduce(self.provider, dir, message)
        chosen = None if reduced is None else self._choose(reduced)
        return [] if chosen is None else [*self._held_of(chosen), chosen]

    def flush(self) -> list[Message]:
        rest = [each for each in self._pending.values() if each["delta"]]
        self._pending.clear()
        return rest

    def _gemini_live(self, message: Message) -> Message | None:
        parts = message.get("serverContent", {}).get("modelTurn", {}).get("parts", [])
        if message != {"serverContent": {"modelTurn": {"parts": parts}}}:
            said = message.keys() | message.get("serverContent", {}).keys()
            if said - {"serverContent", "modelTurn", "outputTranscription"}:
                self._audio.clear()
            return message
        news = repr(parts[0]) if all(each == parts[0] for each in parts) and "text" not in parts[0] else None
        return self._first(news, message) if news else message

    def _openai_realtime(self, message: Message) -> Message | None:
        name = message["type"]
        if name == "response.output_audio.delta":
            return self._first(f"{message.get('response_id')} {message.get('item_id')}", message)
        if name.endswith(".delta"):
            return self._chunk(message)
        if name.endswith((".done", ".completed")):
            self._pending.pop(_chunk_key(message), None)
        item = message.get("item", {})
        if name.startswith("response.output_item."):
            return message if item.get("type") in ("function_call", "mcp_call") else None
        if name == "conversation.item.added" and item.get("type") == "message" and "content" not in item:
            return None
        return message

    def _held_of(self, message: Message) -> list[Message]:
        """The chunks of a response that ends here without telling its text in full."""
        response = message.get("response", {}) if message.get("type") == "response.done" else {}
        told = {item.get("id") for item in response.get("output", []) if "content" in item}
        mine = [
            key for key, held in self._pending.items() if response and held.get("response_id") == response.get("id")
        ]
        rest = [self._pending.pop(key) for key in mine]
        return [held for held in rest if held["delta"] and held.get("item_id") not in told]

    def _first(self, news: str, message: Message) -> Message | None:
        if news in self._audio:
            return None
        self._audio[news] = True
        return message

    def _chunk(self, message: Message) -> Message | None:
        held = self._pending.get(_chunk_key(message))
        if held is None:
            # Not every text has an end: with too many open, others go out as they come.
            if len(self._pending) < Recent.LIMIT:
                self._pending[_chunk_key(message)] = message | {"delta": ""}
            return message
        held["delta"] += message.get("delta", "")
        if len(held["delta"]) < CHUNK:
            return None
        self._pending[_chunk_key(message)] = held | {"delta": ""}
        return held


def _chunk_key(message: Message) -> str:
    kind = message["type"].rpartition(".")[0]
    return f"{kind} {message.get('response_id')} {message.get('item_id')} {message.get('content_index', 0)}"
