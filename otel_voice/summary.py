"""The summary of a session: one row that lists and histograms are made of."""

from __future__ import annotations

import math
from copy import copy
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from otel_voice.turns import Tool, Turn
from otel_voice.usage import counted

# `broken`: this version could not map it; the rest is as far as it came.
Status = Literal["open", "closing", "ended", "broken"]


Epoch = Annotated[float, Meta(description="In ms since the epoch, by the receiver's clock.")]


class Latency(Struct):
    """From the end of the user's input to the answer, in ms, over the turns where both were measured."""

    p50: float | None = None
    p95: float | None = None
    max: float | None = None


class Summary(Struct):
    """What a list says of a session. Times are milliseconds, `tokens` has the names of `events.Usage`."""

    session_id: str
    trace_id: str
    status: Status
    started_at: Epoch
    end_reason: str | None = None
    ended_at: Epoch | None = None
    duration_ms: float = 0
    user_id: str | None = None
    agent_name: str | None = None
    provider: str | None = None
    model: str | None = None
    turn_count: int = 0
    interruption_count: int = 0
    tool_call_count: int = 0
    tool_error_count: int = 0
    tool_cancelled_count: int = 0
    false_start_count: int = 0
    user_bot_latency_ms: Latency = field(default_factory=Latency)
    tokens: dict[str, int] = {}
    events_received: int = 0
    events_lost: int = 0
    events_duplicate: int = 0
    events_conflicting: int = 0


class Totals(Struct):
    """Sums over turns and tools."""

    turns: int = 0
    interruptions: int = 0
    tools: int = 0
    tool_errors: int = 0
    tools_cancelled: int = 0
    latencies: list[float] = []
    usage: dict[str, int] = {}

    def copy(self) -> Totals:
        copied = copy(self)
        copied.latencies, copied.usage = self.latencies.copy(), self.usage.copy()
        return copied

    def add_turn(self, turn: Turn) -> None:
        self.turns += 1
        self.interruptions += turn.interrupted_by is not None
        if turn.latency is not None:
            self.latencies.append(turn.latency)
        usages = [response.usage for response in turn.responses.values()]
        if turn.usage is not None and (not usages or None in usages):
            usages.append(turn.usage)
        for usage in usages:
            for name, count in counted(usage).items() if usage is not None else ():
                self.usage[name] = self.usage.get(name, 0) + count

    def add_tool(self, tool: Tool, over: bool) -> None:
        self.tools += 1
        self.tools_cancelled += tool.cancelled
        self.tool_errors += tool.failed and (over or tool.end is not None)


def latency_of(seconds: list[float]) -> Latency:
    """Percentiles by the nearest rank: each is a latency that somebody had."""
    if not seconds:
        return Latency()
    ordered = sorted(seconds)
    p50, p95, top = (round(ordered[math.ceil(len(ordered) * q) - 1] * 1000, 3) for q in (0.5, 0.95, 1))
    return Latency(p50, p95, top)
