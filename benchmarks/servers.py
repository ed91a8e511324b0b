"""`python -m benchmarks.servers bare|sdk|langfuse --port P [--sink URL]`: what otel_voice is held against.

`bare` answers and does nothing; `sdk` and `langfuse` are what an engineer would write in an afternoon: each event
becomes a span of the OpenTelemetry SDK, or a call on the Langfuse SDK, in the request; what was not sent yet lies in
memory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import uuid
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Event = dict[str, Any]
# Above what any run has: a queue that is full drops spans, and their work would not be counted.
QUEUE = 1_000_000
NAMES = {
    "turn_id": "turn.id",
    "call_id": "gen_ai.tool.call.id",
    "name": "gen_ai.tool.name",
    "role": "role",
    "text": "text",
    "agent_text": "agent_text",
    "model": "gen_ai.request.model",
}
METADATA = ("seq", "ts", "turn_id", "call_id", "name", "model", "usage")


def app_with(events: Callable[..., Any]) -> Starlette:
    return Starlette(
        routes=[Route("/v1/sessions/{id}/events", events, methods=["POST"]), Route("/readyz", ready, methods=["GET"])]
    )


async def ready(_: Request) -> Response:
    return Response(status_code=204)


def bare(_: str) -> Starlette:
    async def events(_: Request) -> Response:
        return Response(status_code=204)

    return app_with(events)


# (b) the OpenTelemetry SDK


def sdk(sink: str) -> Starlette:
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    provider = TracerProvider(resource=Resource.create({"service.name": "voice-events"}))
    exporter = OTLPSpanExporter(endpoint=f"{sink}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=QUEUE))
    tracer = provider.get_tracer("voice_events")

    @lru_cache(maxsize=10_000)
    def trace_of(session_id: str) -> Context:
        trace, root = uuid.UUID(session_id).int, random.getrandbits(64)
        parent = SpanContext(trace, root, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
        return set_span_in_context(NonRecordingSpan(parent))

    async def events(request: Request) -> Response:
        session_id = request.path_params["id"]
        for event in json.loads(await request.body())["events"]:
            at = int(event["ts"] * 1_000_000)
            span = tracer.start_span(
                event["type"], trace_of(session_id), attributes=attributes_of(session_id, event), start_time=at
            )
            span.end(at)
        return Response(status_code=204)

    return app_with(events)


def attributes_of(session_id: str, event: Event) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        "session.id": session_id,
        "event.type": event["type"],
        "event.seq": event["seq"],
    }
    for field, name in NAMES.items():
        if field in event:
            attributes[name] = event[field]
    for field in ("arguments", "result"):
        if field in event:
            attributes[f"gen_ai.tool.call.{field}"] = json.dumps(event[field])
    for kind, count in event.get("usage", {}).items():
        attributes[f"gen_ai.usage.{kind}"] = count
    return attributes


# (a) the Langfuse SDK


def langfuse(sink: str) -> Starlette:
    os.environ["OTEL_BSP_MAX_QUEUE_SIZE"] = str(QUEUE)  # its processor takes no argument for it
    from langfuse import Langfuse

    client = Langfuse(public_key="pk-lf-benchmark", secret_key="sk-lf-benchmark", base_url=sink)

    async def events(request: Request) -> Response:
        session_id = request.path_params["id"]
        trace_id = session_id.replace("-", "")
        for event in json.loads(await request.body())["events"]:
            client.create_event(
                trace_context={"trace_id": trace_id},
                name=event["type"],
                input=event["text"] if event.get("role") == "user" else event.get("arguments"),
                output=event.get("agent_text") or event.get("result"),
                metadata={"session_id": session_id} | {name: event[name] for name in METADATA if name in event},
            )
        return Response(status_code=204)

    return app_with(events)


SERVERS = {"bare": bare, "sdk": sdk, "langfuse": langfuse}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.servers", description="Serves one of the baselines.")
    parser.add_argument("server", choices=SERVERS)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--sink", default="http://127.0.0.1:4318", metavar="URL")
    chosen = parser.parse_args(arguments)
    app = SERVERS[chosen.server](chosen.sink)
    uvicorn.run(app, port=chosen.port, http="httptools", loop="uvloop", access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
