"""Recordings in, facts out, one line a fact: what the adapters' tests are written in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from otel_voice import events as e
from otel_voice.adapters import ADAPTERS

RECORDINGS = Path(__file__).parent / "recordings"
SHARED = Path(__file__).parents[2] / "shared" / "recordings"
PREFIX = {"gemini": "gemini-live", "openai": "openai-realtime"}

SHORT = {"turn_id": "turn", "response_id": "response", "item_id": "item", "call_id": "call", "finish_reason": "finish"}

Frame = dict[str, Any]


def frames(path: Path) -> list[Frame]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def recorded(name: str) -> list[Frame]:
    return frames(RECORDINGS / f"{name}.jsonl")


def everything() -> list[tuple[str, Path]]:
    """Provider and path of every recording there is, the shared ones where they are at hand."""
    own = [(PREFIX[path.name.split("_")[0]], path) for path in sorted(RECORDINGS.glob("*.jsonl"))]
    return own + [(path.parent.name, path) for path in sorted(SHARED.glob("*/*.jsonl"))]


def facts(provider: Any, sent_and_received: list[Frame | None]) -> list[e.Fact]:
    """All facts of a recording; a message's key is its line number, so that turn=3 is the turn that line 3 opened."""
    adapter, told = ADAPTERS[provider](), []
    for line, frame in enumerate(sent_and_received, 1):
        if frame is not None:
            ts = frame.get("ts", 1_795_420_800_000.0 + line * 100)
            message = e.ProviderMessage(provider=provider, dir=frame["dir"], message=frame["message"], ts=ts)
            told += adapter.feed(message, str(line))
    return told


def told(name: str, *kinds: str) -> list[str]:
    """The facts of a recording as lines; only these kinds, where some are named."""
    provider = PREFIX[name.split("_")[0]]
    lines = [rendered(fact) for fact in facts(provider, [*recorded(name)])]
    return [line for line in lines if not kinds or line.split()[0] in kinds]


def rendered(fact: e.Fact) -> str:
    """Type and fields, without times, what has its default, and counts of zero."""
    fields = msgspec.structs.asdict(fact)
    default = {field.name: field.default for field in msgspec.structs.fields(fact)}
    shown = [
        f"{SHORT.get(name, name)}={_value(value)}"
        for name, value in fields.items()
        if name not in ("seq", "ts") and value != default[name] and value is not None and value != {}
    ]
    return " ".join([str(type(fact).__struct_config__.tag), *shown])


def _value(value: Any) -> str:
    if isinstance(value, e.Usage):
        counts = {name: count for name, count in msgspec.structs.asdict(value).items() if count}
        return ",".join(f"{name.removesuffix('_tokens').replace('put', '')}:{count}" for name, count in counts.items())
    return value if isinstance(value, str) and " " not in value and value else json.dumps(value, ensure_ascii=False)
