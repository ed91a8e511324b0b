"""`python -m benchmarks.sink --port P [--delay MS] [--distinct]`: an OTLP/HTTP backend that only counts spans.

POST to any path counts; GET /count says {"spans": …, "requests": …}, with --distinct also how many ids they have.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
from collections.abc import Sequence
from typing import cast

import httptools
import uvloop
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Counts:
    def __init__(self, distinct: bool) -> None:
        self.spans = self.requests = 0
        self.ids: set[bytes] | None = set() if distinct else None

    def add(self, body: bytes) -> None:
        self.requests += 1
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.spans += len(scope.spans)
                if self.ids is not None:
                    self.ids.update(span.trace_id + span.span_id for span in scope.spans)

    def json(self) -> bytes:
        said = {"spans": self.spans, "requests": self.requests}
        return json.dumps(said if self.ids is None else said | {"distinct": len(self.ids)}).encode()


class Connection(asyncio.Protocol):
    def __init__(self, counts: Counts, delay_s: float) -> None:
        self.counts, self.delay_s = counts, delay_s
        self.parser = httptools.HttpRequestParser(self)
        self.body: list[bytes] = []
        self.path, self.gzip = b"", False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport has the methods and not the class.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_message_begin(self) -> None:
        self.body, self.path, self.gzip = [], b"", False

    def on_url(self, url: bytes) -> None:
        self.path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-encoding":
            self.gzip = value.lower() == b"gzip"

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        if self.parser.get_method() == b"POST":
            self.post(b"".join(self.body))
        else:
            self.answer(b"application/json", self.counts.json() if self.path == b"/count" else b"{}")

    def post(self, body: bytes) -> None:
        try:
            self.counts.add(gzip.decompress(body) if self.gzip else body)
        except Exception:  # protobuf's errors share no class with gzip's
            self.answer(b"text/plain", b"not an OTLP request", b"400 Bad Request")
            return
        if self.delay_s:
            asyncio.get_running_loop().call_later(self.delay_s, self.answer, b"application/x-protobuf", b"")
        else:
            self.answer(b"application/x-protobuf", b"")

    def answer(self, kind: bytes, body: bytes, status: bytes = b"200 OK") -> None:
        head = b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (status, kind, len(body))
        if not self.transport.is_closing():
            self.transport.write(head + body)


async def serve(port: int, delay_s: float, distinct: bool) -> None:
    counts = Counts(distinct)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(counts, delay_s), "127.0.0.1", port, backlog=1024
    )
    print(f"sink on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sink", description="An OTLP backend that counts.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay", type=float, default=0, metavar="MS", help="before each answer")
    parser.add_argument("--distinct", action="store_true", help="count ids too")
    chosen = parser.parse_args(arguments)
    uvloop.run(serve(chosen.port, chosen.delay / 1000, chosen.distinct))


if __name__ == "__main__":
    main()
