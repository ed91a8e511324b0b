"""Exporter: pending rows of the store -> OTLP/HTTP -> delivered, kept or set aside.

Rows are encoded requests; they are joined and never decoded. Nothing leaves the store before the next hop's 2xx.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum

import httpx
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from otel_voice.settings import Export
from otel_voice.store import Pending, Store, Unavailable

log = logging.getLogger(__name__)

# A gRPC receiver behind the next hop takes 4 MiB.
JOIN_BYTES = 2 * 2**20
JOIN_SPANS = 512
LONGEST_WAIT_S = 30.0
# What the next hop asks for is granted up to this.
LONGEST_ASKED_S = 300.0
LOUD_EVERY_S = 60.0
# 500 too: Langfuse answers it when its own queue is down.
PASSING = frozenset({408, 429, 500, 502, 503, 504})
REFUSED = frozenset({400, 413, 422})


class Verdict(Enum):
    TAKEN = "taken"
    RETRY = "retry"
    SPLIT = "split"
    MISCONFIGURED = "misconfigured"


class Answer:
    """What the next hop said: a verdict, why, and after how many seconds to come again."""

    def __init__(self, verdict: Verdict, reason: str = "", retry_after: float | None = None) -> None:
        self.verdict, self.reason, self.retry_after = verdict, reason, retry_after


def client(export: Export) -> httpx.AsyncClient:
    verify = ssl.create_default_context(cafile=export.certificate) if export.certificate else True
    return httpx.AsyncClient(timeout=export.timeout, verify=verify, trust_env=False, follow_redirects=False)


async def post(http: httpx.AsyncClient, export: Export, body: bytes) -> Answer:
    """One request; every way it can end is a verdict."""
    headers = {"content-type": "application/x-protobuf", **export.headers}
    if export.gzip:
        headers["content-encoding"] = "gzip"
        body = await asyncio.to_thread(gzip.compress, body, 1)
    try:
        response = await http.post(export.url, content=body, headers=headers)
    except httpx.HTTPError as error:
        return Answer(Verdict.RETRY, f"{type(error).__name__}: {error}".rstrip(": "))
    return judge(response.status_code, response.headers, response.content)


def judge(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """The decision table."""
    reason = f"{status} {body[:300].decode(errors='replace')!r}" if body else str(status)
    if 200 <= status < 300 and headers.get("content-type", "").startswith("text/html"):
        # A page for people (Jaeger's own answers every path with one): nobody took a span there.
        return Answer(Verdict.MISCONFIGURED, f"{status} with a web page: that is no OTLP receiver")
    if 200 <= status < 300:
        rejected = _rejected(headers, body)
        return Answer(Verdict.SPLIT, rejected) if rejected else Answer(Verdict.TAKEN)
    if status in PASSING:
        return Answer(Verdict.RETRY, reason, _retry_after(headers))
    if status in REFUSED:
        return Answer(Verdict.SPLIT, reason)
    return Answer(Verdict.MISCONFIGURED, reason, _retry_after(headers))


def _rejected(headers: Mapping[str, str], body: bytes) -> str:
    """What a partial success says; it names no span."""
    try:
        if headers.get("content-type", "").startswith("application/json"):
            response = json_format.Parse(body, ExportTraceServiceResponse(), ignore_unknown_fields=True)
        else:
            response = ExportTraceServiceResponse.FromString(body)
    except (DecodeError, json_format.ParseError):  # the status said that it was taken
        return ""
    partial = response.partial_success
    return (
        f"partial success: {partial.rejected_spans} rejected, {partial.error_message!r}"
        if partial.rejected_spans
        else ""
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; a date counts from the answer's own, since the clocks may differ."""
    asked = headers.get("retry-after", "").strip()
    if asked.isdecimal():
        return float(asked)
    try:
        until, said = parsedate_to_datetime(asked), parsedate_to_datetime(headers.get("date", ""))
        # Without a zone both are in UTC.
        return max(0.0, (until.replace(tzinfo=UTC) - said.replace(tzinfo=UTC)).total_seconds())
    except ValueError:
        return None


def joined(rows: Sequence[Pending]) -> list[Pending]:
    """As many of the rows, from the first on, as go into one request."""
    size, count = 0, 0
    for row in rows[:JOIN_SPANS]:
        size += len(row.body)
        if count and size > JOIN_BYTES:
            break
        count += 1
    return list(rows[:count])


class Exporter:
    def __init__(
        self,
        store: Store,
        export: Export,
        http: httpx.AsyncClient,
        clock: Callable[[], float],
        jitter: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store, self._export, self._http = store, export, http
        self._clock, self._jitter, self._sleep = clock, jitter, sleep
        self._work = asyncio.Event()
        self._failures = 0
        self._loud_at = float("-inf")
        self.last_error: str | None = None

    def wake(self) -> None:
        """There are new rows."""
        self._work.set()

    async def run(self) -> None:
        """Drains for ever."""
        while True:
            self._work.clear()
            if not await self.drain_once():
                await self._work.wait()

    async def drain_once(self) -> bool:
        """Sends one request's worth; False when nothing was pending."""
        try:
            rows = await asyncio.to_thread(self._store.reader.pending, JOIN_SPANS, JOIN_BYTES)
        except Unavailable as error:
            await self._wait(Answer(Verdict.RETRY, f"store: {error}"))
            return True
        if rows:
            await self._send(rows)
        return bool(rows)

    async def _send(self, rows: list[Pending]) -> None:
        answer = await post(self._http, self._export, b"".join(row.body for row in rows))
        if answer.verdict is Verdict.TAKEN:
            await self._stored(lambda: self._store.delivered([row.id for row in rows]))
            self._failures, self.last_error = 0, None
        elif answer.verdict is Verdict.SPLIT and len(rows) > 1:
            half = len(rows) // 2
            await self._send(rows[:half])
            await self._send(rows[half:])
        elif answer.verdict is Verdict.SPLIT:
            log.error("a span was refused and set aside: %s", answer.reason)
            await self._stored(lambda: self._store.set_aside(rows[0], answer.reason))
        else:
            await self._wait(answer)

    async def _stored(self, write: Callable[[], asyncio.Future[None]]) -> None:
        """The next hop has the rows already: to write that down is tried until the store can."""
        while True:
            try:
                return await write()
            except Unavailable as error:
                await self._wait(Answer(Verdict.RETRY, f"store: {error}"))

    async def _wait(self, answer: Answer) -> None:
        self._failures += 1
        self.last_error = answer.reason
        now = self._clock()
        if now - self._loud_at >= LOUD_EVERY_S:
            self._loud_at = now
            hint = " (this speaks of configuration: check the address and the keys)"
            wrong = hint if answer.verdict is Verdict.MISCONFIGURED else ""
            log.warning("export to %s fails, spans are kept: %s%s", self._export.url, answer.reason, wrong)
        backoff = min(LONGEST_WAIT_S, 0.5 * 2 ** min(self._failures, 10)) * (0.5 + self._jitter() / 2)
        await self._sleep(max(backoff, min(answer.retry_after or 0, LONGEST_ASKED_S)))
