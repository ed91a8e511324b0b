"""`python -m benchmarks.turns [--rounds N] [--turns N] [--only NAME ...]`: what a turn with a tool costs in a process.

Microseconds of CPU a turn, all threads, from the events' JSON on: ours until its spans lie in a store that syncs every
commit, OpenTelemetry's SDK and Langfuse's until their spans are encoded and thrown away. Nobody speaks HTTP. Ours makes
three spans of such a turn (turn, response, tool), since tokens need a generation to be counted on; the competitors make
the same three or, with `-two`, the turn, which then has the tokens, and the tool.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import uvloop
from langfuse import Langfuse, propagate_attributes
from msgspec import Raw
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind

from benchmarks.http import folder
from otel_voice import events as e
from otel_voice.app import encoder
from otel_voice.session import Session
from otel_voice.sessions import Sessions
from otel_voice.settings import Settings
from otel_voice.store import Store

CHECKOUT = Path(__file__).parent.parent
ROUNDS = 5
TURNS = 2_500
SESSIONS = 50
EVENTS = 5
START_S = 1_790_000_000.0
# From one turn of a session to its next: longer than the settle time, so that each step makes the last one's spans.
STEP_S = 3.0
# What OpenTelemetry's own batch processor takes at once.
BATCH = 512
MODEL, TOOL = "gpt-realtime", "search_flights"

Turn = list[bytes]


@dataclass(frozen=True)
class Turns:
    """Microseconds of CPU a turn: each competitor's rounds."""

    turns: int
    cpu_us: dict[str, tuple[float, ...]]

    def median(self, name: str) -> float:
        return statistics.median(self.cpu_us[name])

    def ratio(self, name: str) -> float:
        """How many times ours."""
        return self.median(name) / self.median("ours")


# The events


def session_ids(count: int) -> list[str]:
    return [str(uuid.UUID(int=n)) for n in range(1, count + 1)]


def turn(number: int, seq: int, start_s: float) -> Turn:
    """A turn with a tool as a page tells it: five events, 1.9 kB of JSON."""
    id_, call = f"item_BqZ4xKd7PmR2sT9vW0_{number:06}", f"call_{number:06}_{TOOL}"
    user = (
        f"Can you find me a flight from Lisbon to Copenhagen on day {number}, in the morning if there is one, with a "
        "seat at the window and room for a bicycle? I would rather not change planes more than once on the way, and "
        "if I have to, then please not in London, where I missed the last one."
    )
    agent = (
        f"I found three of them for day {number}: the first leaves at half past seven and arrives at noon without a "
        "stop, the second has one in Amsterdam and costs about forty euros less, the third one in Frankfurt. All of "
        "them take bicycles, and on the first one there are still four seats at the window. Shall I book it for you?"
    )
    arguments: dict[str, Any] = {
        "from": "LIS",
        "to": "CPH",
        "day": number,
        "stops": 1,
        "seat": "window",
        "with": ["bicycle"],
    }
    arguments["not_by_way_of"] = ["LHR", "LGW", "STN"]
    flights = [
        {"flight": "TP 754", "leaves": "07:30", "arrives": "12:05", "stops": [], "price": 219.4, "seats": 4},
        {"flight": "KL 1694", "leaves": "09:10", "arrives": "15:45", "stops": ["AMS"], "price": 178.9, "seats": 11},
        {"flight": "LH 1167", "leaves": "06:00", "arrives": "13:20", "stops": ["FRA"], "price": 184.0, "seats": 2},
    ]
    usage = {
        "input_tokens": 412,
        "output_tokens": 167,
        "input_text_tokens": 120,
        "input_audio_tokens": 292,
        "output_text_tokens": 41,
        "output_audio_tokens": 126,
    }
    told: list[tuple[str, float, dict[str, Any]]] = [
        ("turn_start", 0.0, {"turn_id": id_}),
        ("transcript", 0.4, {"role": "user", "text": user, "final": True, "turn_id": id_}),
        ("tool_call", 0.6, {"call_id": call, "name": TOOL, "arguments": arguments, "turn_id": id_}),
        ("tool_result", 0.9, {"call_id": call, "result": {"flights": flights, "currency": "EUR"}, "turn_id": id_}),
        ("turn_complete", 1.5, {"turn_id": id_, "agent_text": agent, "usage": usage, "model": MODEL}),
    ]
    return [
        compact({"type": type_, "seq": seq + n, "ts": (start_s + at) * 1000, **fields}).encode()
        for n, (type_, at, fields) in enumerate(told)
    ]


def steps(turns: int, sessions: int = SESSIONS) -> list[list[Turn]]:
    """Every session's next turn, step by step."""
    numbers = range(turns // sessions)
    return [[turn(n + 1, n * EVENTS, START_S + n * STEP_S) for _ in range(sessions)] for n in numbers]


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


# Ours


class Clock:
    """Seconds since the epoch, standing still until it is moved."""

    def __init__(self) -> None:
        self.now = START_S

    def __call__(self) -> float:
        return self.now


def ours(turns: int) -> float:
    with folder() as place:
        return uvloop.run(_stored(place, steps(turns), session_ids(SESSIONS)))


async def _stored(place: Path, told: list[list[Turn]], ids: list[str]) -> float:
    clock = Clock()
    store = Store(place, asyncio.get_running_loop())
    sessions = Sessions(store, encoder(Settings()), clock)
    await sessions.start()
    began = time.process_time()
    for turns in told:
        clock.now += STEP_S
        await asyncio.gather(*(sessions.accept(id_, accepted(raws)) for id_, raws in zip(ids, turns, strict=True)))
        await sessions.tick()
    over = e.encode(e.SessionEnd(seq=len(told) * EVENTS, ts=clock.now * 1000))
    await asyncio.gather(*(sessions.accept(id_, accepted([over])) for id_ in ids))
    clock.now += 60
    await sessions.tick()
    cpu = time.process_time() - began
    ledger = await asyncio.to_thread(store.reader.counted_ledger)
    await store.close()
    expected = 3 * len(told) * len(ids) + len(ids)
    assert ledger.adds_up and (ledger.pending, ledger.open) == (expected, 0), f"{ledger}; expected {expected} spans"
    return cpu


def accepted(raws: Turn) -> e.Accepted:
    return e.Accepted([Raw(raw) for raw in raws], source="page")


# OpenTelemetry


class Made(NamedTuple):
    """A span to make: its times are milliseconds."""

    name: str
    kind: SpanKind
    start: float
    end: float
    attributes: dict[str, Any]


class Encoded(SpanProcessor, SpanExporter):
    """Encodes spans in batches, and throws the bytes away. What Langfuse's own processor exports, or a processor."""

    def __init__(self) -> None:
        self.count = 0
        self._ended: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self._ended.append(span)
        if len(self._ended) == BATCH:
            self.force_flush()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        ended, self._ended = self._ended, []
        self.export(ended)
        return True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.count += len(spans)
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


def otel(turns: int, two: bool = False) -> float:
    same_as_ours()
    told, ids = steps(turns), session_ids(SESSIONS)
    encoded = Encoded()
    provider = TracerProvider(resource=Resource({"service.name": "otel_voice"}), shutdown_on_exit=False)
    provider.add_span_processor(encoded)
    tracer = provider.get_tracer("otel_voice", "0")
    began = time.process_time()
    calls = [Call(tracer, id_) for id_ in ids]
    for number, step in enumerate(told, 1):
        for call, raws in zip(calls, step, strict=True):
            call.turn(number, raws, two)
    for call in calls:
        call.end(len(told))
    provider.force_flush()
    cpu = time.process_time() - began
    assert encoded.count == (2 if two else 3) * turns + SESSIONS, encoded.count
    return cpu


class Call:
    """A session as an application would trace it with OpenTelemetry's API."""

    def __init__(self, tracer: trace.Tracer, id_: str) -> None:
        self._tracer, self._common = tracer, common(id_)
        self._root = tracer.start_span("voice_session", start_time=round(START_S * 10**9), attributes=self._common)
        self._context = trace.set_span_in_context(self._root)
        self._messages: list[dict[str, Any]] = []
        self._end = START_S * 1000

    def turn(self, number: int, raws: Turn, two: bool) -> None:
        events = [json.loads(raw) for raw in raws]
        turn, response, tool = made(events, number, self._common)
        if two:
            turn.attributes.update(tokens(events[-1]))
        span = self._start(turn, self._context)
        context = trace.set_span_in_context(span)
        for child in (tool,) if two else (tool, response):
            self._start(child, context).end(_nanos(child.end))
        span.end(_nanos(turn.end))
        user, called, answered, agent = chat(events)
        self._messages += [user, called, answered, agent]
        self._end = turn.end

    def _start(self, made: Made, context: Any) -> trace.Span:
        return self._tracer.start_span(made.name, context, made.kind, made.attributes, start_time=_nanos(made.start))

    def end(self, turns: int) -> None:
        *question, answer = self._messages
        said = {"langfuse.observation.input": compact(question), "langfuse.observation.output": compact([answer])}
        counts = {"voice.turn.count": turns, "voice.tool_call.count": turns, "voice.events.received": EVENTS * turns}
        self._root.set_attributes({**said, **counts, "langfuse.observation.type": "span"})
        self._root.end(_nanos(self._end))


def common(id_: str) -> dict[str, Any]:
    return {"session.id": id_, "gen_ai.conversation.id": id_, "langfuse.trace.name": "voice_session"}


def chat(events: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The user, the call, its result, the agent."""
    _, words, call, result, end = events
    function = {"name": call["name"], "arguments": compact(call["arguments"])}
    calls = [{"id": call["call_id"], "type": "function", "function": function}]
    return (
        {"role": "user", "content": words["text"]},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": compact(result["result"]), "tool_call_id": call["call_id"]},
        {"role": "assistant", "content": end["agent_text"]},
    )


def tokens(end: dict[str, Any]) -> dict[str, Any]:
    usage = end["usage"]
    details = {key.removesuffix("_tokens"): usage[key] for key in usage if key.count("_") == 2}
    modal = {f"gen_ai.usage.{key.split('_')[1]}.{key.split('_')[0]}_tokens": usage[f"{key}_tokens"] for key in details}
    return {
        "gen_ai.request.model": end["model"],
        "gen_ai.response.model": end["model"],
        "gen_ai.output.type": "speech",
        "gen_ai.usage.input_tokens": usage["input_tokens"],
        "gen_ai.usage.output_tokens": usage["output_tokens"],
        **modal,
        "langfuse.observation.usage_details": compact(details),
    }


def made(events: list[dict[str, Any]], number: int, common: dict[str, Any]) -> tuple[Made, Made, Made]:
    """The turn, its response, its tool: with the attributes that ours have."""
    start, _, call, result, end = events
    user, called, answered, agent = chat(events)
    function = called["tool_calls"][0]["function"]
    tool_part = {"type": "tool_call", "id": call["call_id"], **function}
    said_user = compact([parts(user)])
    turn = {
        **common,
        "gen_ai.operation.name": "invoke_agent",
        "langfuse.observation.type": "agent",
        "voice.turn.number": number,
        "gen_ai.agent.invocation.end_reason": "completed",
        "gen_ai.input.messages": said_user,
        "gen_ai.output.messages": compact([parts(agent)]),
        "langfuse.observation.input": compact([user]),
        "langfuse.observation.output": compact([agent]),
    }
    response = {
        **common,
        "gen_ai.operation.name": "generate_content",
        "langfuse.observation.type": "generation",
        "gen_ai.input.messages": said_user,
        "gen_ai.output.messages": compact([{"role": "assistant", "parts": [tool_part]}, parts(agent)]),
        "langfuse.observation.input": compact([user]),
        "langfuse.observation.output": compact([called, agent]),
        **tokens(end),
    }
    tool = {
        **common,
        "gen_ai.operation.name": "execute_tool",
        "langfuse.observation.type": "tool",
        "gen_ai.tool.name": call["name"],
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": call["call_id"],
        "gen_ai.tool.call.arguments": function["arguments"],
        "gen_ai.tool.call.result": answered["content"],
        "langfuse.observation.input": function["arguments"],
        "langfuse.observation.output": answered["content"],
    }
    return (
        Made("invoke_agent", SpanKind.INTERNAL, start["ts"], end["ts"], turn),
        Made(f"generate_content {end['model']}", SpanKind.CLIENT, start["ts"], end["ts"], response),
        Made(f"execute_tool {call['name']}", SpanKind.INTERNAL, call["ts"], result["ts"], tool),
    )


def parts(message: dict[str, Any]) -> dict[str, Any]:
    return {"role": message["role"], "parts": [{"type": "text", "content": message["content"]}]}


def _nanos(ms: float) -> int:
    return round(ms * 1000) * 1000


def same_as_ours() -> None:
    """The comparison is of the same spans, or it is none."""
    (id_,), raws = session_ids(1), turn(1, 0, START_S)
    session = Session(id_)
    session.apply(accepted(raws), START_S * 1000)
    session.advance(float("inf"))
    named = {
        span.name: (span.start_time_unix_nano, span.end_time_unix_nano, span.attributes) for span in session.take()
    }
    named.pop("voice_session")
    theirs = made([json.loads(raw) for raw in raws], 1, common(id_))
    assert named == {span.name: (_nanos(span.start), _nanos(span.end), span.attributes) for span in theirs}


# Langfuse


def langfuse(turns: int, two: bool = False) -> float:
    # All of the turns come at once: its queue is to hold them, or it drops what it is to be measured on.
    os.environ["OTEL_BSP_MAX_QUEUE_SIZE"] = str(4 * turns)
    told, ids = steps(turns), session_ids(SESSIONS)
    encoded = Encoded()
    client = Langfuse(
        public_key="pk-lf-none", secret_key="sk-lf-none", base_url="http://127.0.0.1:9", span_exporter=encoded
    )
    began = time.process_time()
    roots = [client.start_observation(name="voice_session") for _ in ids]
    for step in told:
        for id_, root, raws in zip(ids, roots, step, strict=True):
            with propagate_attributes(session_id=id_):
                _observe(root, [json.loads(raw) for raw in raws], two)
    for root in roots:
        root.end()
    client.flush()
    cpu = time.process_time() - began
    assert encoded.count == (2 if two else 3) * turns + SESSIONS, encoded.count
    return cpu


def _observe(root: Any, events: list[dict[str, Any]], two: bool) -> None:
    _, _, call, result, end = events
    user, called, _, agent = chat(events)
    usage = {key.removesuffix("_tokens"): count for key, count in end["usage"].items() if key.count("_") == 2}
    turn = root.start_observation(name="invoke_agent", as_type="agent", input=[user])
    tool = turn.start_observation(name=call["name"], as_type="tool", input=call["arguments"])
    tool.update(output=result["result"])
    tool.end()
    if two:
        turn.update(metadata={"model": end["model"], "usage": usage})
    else:
        response = turn.start_observation(name=end["model"], as_type="generation", model=end["model"], input=[user])
        response.update(output=[called, agent], usage_details=usage)
        response.end()
    turn.update(output=[agent])
    turn.end()


# All of them


COMPETITORS: dict[str, Callable[[int], float]] = {
    "ours": ours,
    "otel": otel,
    "otel-two": lambda turns: otel(turns, two=True),
    "langfuse": langfuse,
    "langfuse-two": lambda turns: langfuse(turns, two=True),
}


def measure(rounds: int = ROUNDS, turns: int = TURNS, only: Sequence[str] = ()) -> Turns:
    """Each round has every competitor once, in a process of its own on the first core."""
    names = [name for name in COMPETITORS if not only or name in only]
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            found[name].append(_in_process(name, turns))
    return Turns(turns, {name: tuple(cpu_us) for name, cpu_us in found.items()})


def _in_process(name: str, turns: int) -> float:
    code = f"from benchmarks import turns; print(turns.COMPETITORS[{name!r}]({turns}))"
    command = ["taskset", "-c", "0", sys.executable, "-c", code]
    said = subprocess.run(command, cwd=CHECKOUT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(said) / turns * 1e6


def table(found: Turns) -> str:
    lines = [f"{found.turns:,} turns with a tool      us CPU a turn   (least, most)   times ours"]
    for name, cpu_us in found.cpu_us.items():
        ratio = f"{found.ratio(name):.2f}" if "ours" in found.cpu_us else "-"
        lines.append(f"{name:28}{found.median(name):13.0f}   ({min(cpu_us):.0f}, {max(cpu_us):.0f}){ratio:>14}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.turns", description="What a turn with a tool costs.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--turns", type=int, default=TURNS, help=f"of {SESSIONS} sessions together")
    parser.add_argument("--only", nargs="+", choices=COMPETITORS, metavar="NAME", default=())
    chosen = parser.parse_args(arguments)
    print(table(measure(chosen.rounds, chosen.turns // SESSIONS * SESSIONS, chosen.only)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
