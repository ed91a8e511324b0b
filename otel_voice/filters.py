"""Filters: which sessions a list or a plot is about, as a request's query says it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from otel_voice.edge import Rejected
from otel_voice.store import Condition, Filter

TEXT_CHARS = 256
EXACT = {
    "user": "user_id",
    "agent": "agent_name",
    "provider": "provider",
    "model": "model",
    "end_reason": "end_reason",
    "status": "status",
}
LEAST = {
    "from": "started_at",
    "min_duration": "duration_ms",
    "min_turns": "turns",
    "min_interruptions": "interruptions",
    "min_tools": "tools",
    "min_errors": "tool_errors",
    "min_p50": "p50_ms",
    "min_p95": "p95_ms",
    "min_tokens": "tokens",
    "min_lost": "lost",
}
BELOW = {"to": "started_at"}


def filter_of(query: Mapping[str, str]) -> Filter:
    """What is empty is not said. Raises Rejected: 422."""
    said = {name: value for name, value in query.items() if value}
    conditions = [Condition(column, "=", _text(name, said[name])) for name, column in EXACT.items() if name in said]
    conditions += [Condition(column, ">=", _number(name, said[name])) for name, column in LEAST.items() if name in said]
    conditions += [Condition(column, "<", _number(name, said[name])) for name, column in BELOW.items() if name in said]
    return Filter(tuple(conditions), _text("q", said["q"]).strip() if "q" in said else "")


def _text(name: str, value: str) -> str:
    if len(value) > TEXT_CHARS:
        raise Rejected(422, f"{name}: must have at most {TEXT_CHARS} characters")
    return value


def _number(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise Rejected(422, f"{name}: must be a number from 0 on")
    return number
