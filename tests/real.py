"""The real parts of the end-to-end tests: collector, Jaeger and receiver as processes, Langfuse's path as a server."""

from __future__ import annotations

import base64
import contextlib
import gzip
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import httpx
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Found = TypeVar("Found")

COLLECTOR_CONFIG = Path(__file__).parent.parent / "collector-config.yaml"

JAEGER_CONFIG = """
service:
  extensions: [jaeger_storage, jaeger_query, healthcheckv2]
  telemetry: {metrics: {level: none}}
  pipelines:
    traces: {receivers: [otlp], exporters: [jaeger_storage_exporter]}
receivers:
  otlp:
    protocols:
      grpc: {endpoint: "127.0.0.1:${env:GRPC_PORT}"}
      http: {endpoint: "127.0.0.1:${env:HTTP_PORT}"}
exporters:
  jaeger_storage_exporter: {trace_storage: memory}
extensions:
  jaeger_storage: {backends: {memory: {memory: {max_traces: 100000}}}}
  jaeger_query:
    storage: {traces: memory}
    http: {endpoint: "127.0.0.1:${env:QUERY_PORT}"}
    grpc: {endpoint: "127.0.0.1:${env:QUERY_GRPC_PORT}"}
  healthcheckv2:
    use_v2: true
    http: {endpoint: "127.0.0.1:${env:HEALTH_PORT}"}
"""


def wait_for(
    condition: Callable[[], Found | None], deadline_s: float = 20, what: str = "", note: Callable[[], str] = str
) -> Found:
    """The condition's first true value; fails with one sentence and the note when there is none by the deadline."""
    ends = time.monotonic() + deadline_s
    pause = threading.Event()
    while not (found := condition()):
        if time.monotonic() > ends:
            raise AssertionError(f"waited {deadline_s:g} s in vain for {what or condition.__name__}\n{note()}")
        pause.wait(0.02)
    return found


# Below what the system gives to connections, which would take a port between the asking and the listening; each process
# of tests begins elsewhere.
_PORTS = itertools.cycle(range(10_000, 32_000))
for _ in range(os.getpid() * 97 % 22_000):
    next(_PORTS)


def free_port() -> int:
    """A port that nobody listens on, and that no other call is given."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


class Program:
    """A real process, with its output in a file, so that a failing test can show what it said."""

    def __init__(self, name: str, command: list[str], folder: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.output = folder / f"{name}.log"
        with self.output.open("ab") as output:
            # No setting of whoever runs the tests leaks in; HOME and PATH are what any program may need.
            base = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR", "LANG") if key in os.environ}
            self.process = subprocess.Popen(
                command, cwd=folder, env=base | dict(env), stdout=output, stderr=subprocess.STDOUT
            )

    def wait_until_answers(self, url: str, deadline_s: float = 30) -> None:
        wait_for(lambda: self.ended() or _answers(url), deadline_s, f"{self.name} to answer {url}", self.log)
        assert not self.ended(), f"{self.name} ended with {self.process.returncode} at its start\n{self.log()}"

    def ended(self) -> bool:
        return self.process.poll() is not None

    def log(self) -> str:
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-40:])

    def stop(self, deadline_s: float = 20) -> None:
        """SIGTERM; the process must end by itself, and with 0."""
        if not self.ended():
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end within {deadline_s:g} s of SIGTERM\n{self.log()}") from None
        assert code == 0, f"{self.name} ended with {code}\n{self.log()}"

    def kill(self) -> None:
        """SIGKILL: no last word, nothing flushed."""
        self.process.kill()
        self.process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.TransportError:
        return False


class Collector(Program):
    """The real collector with this repository's own configuration."""

    def __init__(self, binary: Path, folder: Path, env: Mapping[str, str]) -> None:
        http, grpc, health, metrics = free_port(), free_port(), free_port(), free_port()
        self.otlp_http_endpoint = f"http://127.0.0.1:{http}"
        self.otlp_grpc_endpoint = f"127.0.0.1:{grpc}"
        self.metrics_url = f"http://127.0.0.1:{metrics}/metrics"
        self.storage = folder / "storage"
        super().__init__(
            "collector",
            [str(binary), "--config", str(COLLECTOR_CONFIG)],
            folder,
            {
                "OTEL_VOICE_COLLECTOR_HTTP": f"127.0.0.1:{http}",
                "OTEL_VOICE_COLLECTOR_GRPC": f"127.0.0.1:{grpc}",
                "OTEL_VOICE_COLLECTOR_HEALTH": f"127.0.0.1:{health}",
                "OTEL_VOICE_COLLECTOR_METRICS_PORT": str(metrics),
                "OTEL_VOICE_COLLECTOR_STORAGE": str(self.storage),
                **env,
            },
        )
        self.wait_until_answers(f"http://127.0.0.1:{health}/")


@dataclass(frozen=True)
class JaegerSpan:
    """One span as Jaeger's query API gives it; times in microseconds since the epoch."""

    span_id: str
    parent_id: str | None
    name: str
    start_us: int
    duration_us: int
    tags: dict[str, Any]


class Jaeger(Program):
    """The real Jaeger 2, traces in memory."""

    def __init__(self, binary: Path, folder: Path) -> None:
        names = ("GRPC_PORT", "HTTP_PORT", "QUERY_PORT", "QUERY_GRPC_PORT", "HEALTH_PORT")
        ports = {name: str(free_port()) for name in names}
        self.otlp_grpc_endpoint = f"127.0.0.1:{ports['GRPC_PORT']}"
        self.otlp_http_endpoint = f"http://127.0.0.1:{ports['HTTP_PORT']}"
        self.query_url = f"http://127.0.0.1:{ports['QUERY_PORT']}"
        config = folder / "jaeger.yaml"
        config.write_text(JAEGER_CONFIG)
        super().__init__("jaeger", [str(binary), "--config", str(config)], folder, ports)
        self.wait_until_answers(f"http://127.0.0.1:{ports['HEALTH_PORT']}/status")
        self.wait_until_answers(f"{self.query_url}/api/services")

    def trace(self, trace_id: str) -> list[JaegerSpan] | None:
        """A trace's spans in order of start, None while Jaeger knows none of them."""
        answer = httpx.get(f"{self.query_url}/api/traces/{trace_id}", timeout=10)
        if answer.status_code == 404:
            return None
        spans = answer.raise_for_status().json()["data"][0]["spans"]
        return sorted((_jaeger_span(span) for span in spans), key=lambda span: (span.start_us, span.span_id))


def _jaeger_span(span: dict[str, Any]) -> JaegerSpan:
    parents = [ref["spanID"] for ref in span["references"] if ref["refType"] == "CHILD_OF"]
    return JaegerSpan(
        span_id=span["spanID"],
        parent_id=parents[0] if parents else None,
        name=span["operationName"],
        start_us=span["startTime"],
        duration_us=span["duration"],
        tags={tag["key"]: tag["value"] for tag in span["tags"]},
    )


def spans_in(export: ExportTraceServiceRequest) -> list[Span]:
    return [span for resource in export.resource_spans for scope in resource.scope_spans for span in scope.spans]


@dataclass(frozen=True)
class LangfuseRequest:
    """One POST as it came in, and the status and the body that it got. It came while `beside` others had no answer."""

    path: str
    authorization: str
    ingestion_version: str
    content_encoding: str
    status: int
    export: ExportTraceServiceRequest
    body: bytes
    answer: bytes = b"{}"
    beside: int = 0

    @property
    def spans(self) -> list[Span]:
        return spans_in(self.export)


@dataclass(frozen=True)
class Reply:
    """An answer that a test asks for; one with `hang_on` comes when the test sets that. One that drips is sent a byte
    a second and is never whole."""

    status: int
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    hang_on: threading.Event | None = None
    drips: bool = False


class _Listening(ThreadingHTTPServer):
    """Knows its connections, so that it can end as a process does: with all of them cut."""

    def __init__(self, port: int, answer: type[BaseHTTPRequestHandler]) -> None:
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), answer)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that breaks off is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def cut(self) -> None:
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@dataclass
class LangfuseServer:
    """A real HTTP server with the path, the Basic auth, the version header and the refusals of Langfuse's endpoint.

    `standing` is what every request gets while it is set, `marked` what one gets that holds the span of that id (hex);
    `pause_s` passes before each answer."""

    public_key: str = "pk-lf-test"
    secret_key: str = "sk-lf-test"
    requests: list[LangfuseRequest] = field(default_factory=list)
    refuses: Callable[[Span], bool] = lambda span: False
    refusal: Reply = Reply(400)
    standing: Reply | None = None
    marked: dict[str, Reply] = field(default_factory=dict)
    pause_s: float = 0
    shown_after: int = 0
    _replies: list[Reply] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._port = self._unanswered = 0
        self.up()

    def up(self) -> None:
        """Listens; after `down`, on the port it had."""
        self.is_down = threading.Event()
        self._server = _Listening(self._port, _langfuse_handler(self))
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def down(self) -> None:
        """Nobody listens on its port any more, and its connections are cut."""
        if self.is_down.is_set():
            return
        self.is_down.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.cut()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def env(self) -> dict[str, str]:
        """The environment that points anything at this server."""
        return {
            "LANGFUSE_BASE_URL": self.base_url,
            "LANGFUSE_PUBLIC_KEY": self.public_key,
            "LANGFUSE_SECRET_KEY": self.secret_key,
        }

    @property
    def spans(self) -> list[Span]:
        """What arrived with a 200, in order of arrival."""
        with self._lock:
            return [span for request in self.requests if request.status == 200 for span in request.spans]

    def answer_next(self, *replies: int | Reply) -> None:
        """These statuses for the next requests, one each; then its own judgement again."""
        with self._lock:
            self._replies += [Reply(reply) if isinstance(reply, int) else reply for reply in replies]

    def reply_to(self, path: str, authorization: str, version: str, export: ExportTraceServiceRequest | None) -> Reply:
        expected = base64.b64encode(f"{self.public_key}:{self.secret_key}".encode()).decode()
        with self._lock:
            if self._replies:
                return self._replies.pop(0)
        if self.standing is not None:
            return self.standing
        if path != "/api/public/otel/v1/traces":
            return Reply(404)
        if authorization != f"Basic {expected}":
            return Reply(401)
        if export is None or version != "4":
            return Reply(400)
        for span in spans_in(export):
            if reply := self.marked.get(span.span_id.hex()):
                return reply
        return self.refusal if any(map(self.refuses, spans_in(export))) else Reply(200)

    def read(self, path: str, authorization: str) -> Reply:
        """What a GET gets."""
        address = urlsplit(path)
        if self.standing is not None:
            return self.standing
        if authorization != f"Basic {base64.b64encode(f'{self.public_key}:{self.secret_key}'.encode()).decode()}":
            return Reply(401, b'{"message": "Invalid credentials"}')
        if address.path == "/api/public/projects":
            owner = {"id": "o1", "name": "Tests"}
            return _json({"data": [{"id": "p1", "name": "voice", "organization": owner, "metadata": {}}]})
        if address.path != "/api/public/v2/observations":
            return Reply(404, b'{"message": "Not Found"}')
        (trace_id,) = parse_qs(address.query)["traceId"]
        self.shown_after -= 1
        found = [span for span in self.spans if span.trace_id.hex() == trace_id and self.shown_after < 0]
        return _json({"data": [_observation(span) for span in found], "meta": {}})

    def note(self, request: LangfuseRequest) -> None:
        with self._lock:
            self.requests.append(replace(request, beside=self._unanswered))
            self._unanswered += 1

    def note_answer(self) -> None:
        """It is about to go out."""
        with self._lock:
            self._unanswered -= 1

    def close(self) -> None:
        self.down()


def _json(value: object) -> Reply:
    return Reply(200, json.dumps(value).encode())


def _observation(span: Span) -> dict[str, str]:
    """The fields that every one has."""
    start = datetime.fromtimestamp(span.start_time_unix_nano / 1e9, UTC).isoformat()
    ids = {"id": span.span_id.hex(), "traceId": span.trace_id.hex(), "projectId": "p1"}
    return {**ids, "startTime": start, "type": "SPAN", "name": span.name}


def _langfuse_handler(server: LangfuseServer) -> type[BaseHTTPRequestHandler]:
    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            sent = self.rfile.read(length)
            if len(sent) < length:
                return
            encoding = self.headers.get("Content-Encoding", "")
            authorization = self.headers.get("Authorization", "")
            version = self.headers.get("x-langfuse-ingestion-version", "")
            export: ExportTraceServiceRequest | None = None
            body = b""
            with contextlib.suppress(DecodeError, gzip.BadGzipFile, EOFError):
                body = gzip.decompress(sent) if encoding == "gzip" else sent
                export = ExportTraceServiceRequest.FromString(body)
            reply = server.reply_to(self.path, authorization, version, export)
            seen = export or ExportTraceServiceRequest()
            server.note(
                LangfuseRequest(self.path, authorization, version, encoding, reply.status, seen, body, reply.body)
            )
            self.wait(reply)
            server.note_answer()
            self.send(reply)

        def do_GET(self) -> None:
            reply = server.read(self.path, self.headers.get("Authorization", ""))
            self.wait(reply)
            self.send(reply)

        def wait(self, reply: Reply) -> None:
            if reply.hang_on is not None:
                reply.hang_on.wait(30)
            server.is_down.wait(server.pause_s)

        def send(self, reply: Reply) -> None:
            with contextlib.suppress(ConnectionError):
                self.drip() if reply.drips else self.answer(reply)

        def drip(self) -> None:
            self.close_connection = True
            for byte in itertools.chain(b"HTTP/1.1 200 OK\r\nx-drops: ", itertools.repeat(ord("."))):
                self.wfile.write(bytes([byte]))
                if server.is_down.wait(1):
                    return

        def answer(self, reply: Reply) -> None:
            self.send_response_only(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, format: str, *args: object) -> None:
            """What it got is in `requests`; a test's output stays clean."""

    return Answer


class Receiver(Program):
    """`otel-voice serve` on a free port, with a data folder that a second one can take over."""

    def __init__(self, data_dir: Path, folder: Path, env: Mapping[str, str], port: int = 0) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = data_dir
        command = [sys.executable, "-c", "from otel_voice.cli import main; raise SystemExit(main())", "serve"]
        # From this checkout, whether or not the package is installed in the environment that runs the tests.
        path = {"PYTHONPATH": str(COLLECTOR_CONFIG.parent)}
        options = ["--port", str(self.port), "--data-dir", str(data_dir)]
        super().__init__("receiver", command + options, folder, path | dict(env))
        self.wait_until_answers(f"{self.url}/readyz")
