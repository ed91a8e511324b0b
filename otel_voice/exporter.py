"""Exporter: pending rows of the store -> OTLP/HTTP -> delivered, kept or set aside.

Rows are encoded requests; they are joined and never decoded. Nothing leaves the store before the next hop's 2xx.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum

import httpx
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from otel_voice.loud import OnceAMinute
from otel_voice.settings import Export
from otel_voice.store import Pending, Store, Unavailable

log = logging.getLogger(__name__)

# A gRPC receiver behind the next hop takes 4 MiB.
JOIN_BYTES = 2 * 2**20
JOIN_SPANS = 512
# Requests in flight to a hop that takes them: 20,000 spans a second at 50 ms an answer, on a core that is half busy.
AT_ONCE = 6
LONGEST_WAIT_S = 30.0
# What the next hop asks for is granted up to this.
LONGEST_ASKED_S = 300.0
# Failures in a row from which on it may be a span's fault; a hop that has a bad moment gets the same request again.
PATIENCE = 3
# So many spans refused, and none taken since: it is no fault of theirs.
REFUSES_ALL = 10
# A span that fails alone makes way for the others for so long.
ASIDE_S = 30.0
# Dead letters that are to be sent again come from another process, which cannot wake this one.
IDLE_S = 5.0
# What an answer has to say is short; the rest of a long one is not read.
ANSWER_BYTES = 64 * 2**10
# 500 too: Langfuse answers it when its own queue is down.
PASSING = frozenset({408, 429, 500, 502, 503, 504})
REFUSED = frozenset({400, 413, 422})


class Verdict(Enum):
    TAKEN = "taken"
    AWAY = "away"
    LATE = "late"
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
    # The answer as it is: nothing is to be unpacked here.
    headers = {"content-type": "application/x-protobuf", "accept-encoding": "identity", **export.headers}
    if export.gzip:
        headers["content-encoding"] = "gzip"
        body = await asyncio.to_thread(gzip.compress, body, 1)
    try:
        # All of it: a hop that sends a byte now and then would never meet the client's own time-outs.
        async with asyncio.timeout(export.timeout):
            headers["content-length"] = str(len(body))
            async with http.stream("POST", export.url, content=_once(body), headers=headers) as response:
                body = _without_secrets(export, await _start_of(response))
                return judge(response.status_code, response.headers, body)
    except TimeoutError:
        return Answer(Verdict.LATE, f"no answer within {export.timeout:g} s")
    except httpx.TimeoutException as error:
        return Answer(Verdict.LATE, f"{type(error).__name__}: no answer within {export.timeout:g} s")
    except httpx.InvalidURL as error:
        return Answer(Verdict.MISCONFIGURED, f"{type(error).__name__}: {error}")
    except httpx.HTTPError as error:
        return Answer(Verdict.AWAY, f"{type(error).__name__}: {error}".rstrip(": "))


async def _once(body: bytes) -> AsyncIterator[bytes]:
    """Given as bytes, it stayed with the request until the next search for cycles: hundreds of megabytes in a drain."""
    yield body


def _without_secrets(export: Export, body: bytes) -> bytes:
    """An answer may repeat the request's headers, and what it says is logged and kept."""
    for secret in export.secrets:
        body = body.replace(secret.encode(), b"[secret]")
    return body


async def _start_of(response: httpx.Response) -> bytes:
    body = b""
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) >= ANSWER_BYTES:
            break
    return body[:ANSWER_BYTES]


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
    except (DecodeError, json_format.ParseError, ValueError, RecursionError):  # the status said that it was taken
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
    until, said = http_date(asked), http_date(headers.get("date", ""))
    return None if until is None or said is None else max(0.0, until - said)


def http_date(text: str) -> float | None:
    """Seconds since the epoch; the zone of such a date is always UTC."""
    try:
        return parsedate_to_datetime(text).replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        return None


def joined(rows: Sequence[Pending], spans: int = JOIN_SPANS) -> list[Pending]:
    """As many of the rows, from the first on, as go into one request."""
    size, count = 0, 0
    for row in rows[:spans]:
        size += len(row.body)
        if count and size > JOIN_BYTES:
            break
        count += 1
    return list(rows[:count])


class Exporter:
    """Drains the store for ever. `hurry` ends a wait between two attempts, `stop` the drain when nothing is pending any
    more or the next hop fails."""

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
        self._work, self._hurry = asyncio.Event(), asyncio.Event()
        self._stopping = False
        self._failures = 0
        self._said_failing_at: float | None = None
        # A hop that fails for a large request may take a small one, and all but the one span that makes it fail.
        self._spans = JOIN_SPANS
        # One until one is taken: a hop in trouble is not to be hit by several.
        self._at_once = 1
        # Requests under way with spans that are not in the store.
        self._past_the_store = 0
        # By number, until when.
        self._aside: dict[int, float] = {}
        self._turn_of_aside = False
        self._failing, self._refused = OnceAMinute(clock), OnceAMinute(clock)
        self.last_error: str | None = None
        # Spans that were refused since one was taken.
        self._refused_since = 0

    @property
    def failing(self) -> bool:
        """Nothing is delivered: the next hop fails, or refuses whatever it gets."""
        return self.last_error is not None or self._refused_since >= REFUSES_ALL

    def wake(self) -> None:
        """There are new rows."""
        self._work.set()

    def hurry(self) -> None:
        """Somebody waits for what is pending: the next attempt is now."""
        self._hurry.set()
        self.wake()

    def stop(self) -> None:
        """`run` returns when nothing is pending, or at the first failure: what is left goes out next time."""
        self._stopping = True
        self.hurry()

    @property
    def is_well(self) -> bool:
        """The next hop takes what it gets."""
        return not self._stopping and self._at_once == AT_ONCE and self._spans == JOIN_SPANS

    def send(self, bodies: list[bytes]) -> asyncio.Future[bool] | None:
        """Spans that are not in the store, and that whoever has them keeps until they are taken. False: they belong in
        the store, where the drain finds out why they were not. None: the hop is in trouble, or has enough to do."""
        if not self.is_well or self._past_the_store >= AT_ONCE:
            return None
        self._past_the_store += 1
        return asyncio.ensure_future(self._send_past_the_store(b"".join(bodies)))

    async def _send_past_the_store(self, body: bytes) -> bool:
        try:
            answer = await post(self._http, self._export, body)
        finally:
            self._past_the_store -= 1
        if answer.verdict is Verdict.TAKEN:
            self._refused_since = 0
            return True
        self._at_once = 1
        return False

    async def run(self) -> None:
        while True:
            self._work.clear()
            if await self.drain_once():
                if self._stopping and self._failures:
                    return
            elif self._stopping:
                return
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._work.wait(), IDLE_S)

    async def drain_once(self) -> bool:
        """Sends what may be in flight at once, and waits for all the answers; False when nothing was pending."""
        try:
            requests = await asyncio.to_thread(self._next)
        except Unavailable as error:
            await self._fail(Answer(Verdict.AWAY, f"store: {error}"))
            return True
        answers = await asyncio.gather(*map(self._answer, requests))
        not_taken = [pair for pair in zip(requests, answers, strict=True) if pair[1].verdict is not Verdict.TAKEN]
        if not_taken:
            self._at_once = 1
            # One speaks for all, the one to come back to last: the others are read again, and go out one by one.
            await self._not_taken(*max(not_taken, key=lambda pair: pair[1].retry_after or 0))
        elif requests:
            self._at_once, self._spans = AT_ONCE, min(JOIN_SPANS, self._spans * 2)
        return bool(requests)

    def _next(self) -> list[list[Pending]]:
        """What to send now, by request: by turns others and a span that has made way long enough."""
        self._turn_of_aside = not self._turn_of_aside
        if self._turn_of_aside and (row := self._one_that_made_way()) is not None:
            return [[row]]
        if requests := self._others():
            return requests
        row = self._one_that_made_way()
        return [] if row is None else [[row]]

    def _others(self) -> list[list[Pending]]:
        rows = self._store.reader.pending(self._at_once * self._spans, self._at_once * JOIN_BYTES, self._aside)
        requests: list[list[Pending]] = []
        while rows and len(requests) < self._at_once:
            requests.append(joined(rows, self._spans))
            del rows[: len(requests[-1])]
        return requests

    def _one_that_made_way(self) -> Pending | None:
        now = self._clock()
        for id_ in [id_ for id_, until in self._aside.items() if until <= now]:
            if (row := self._store.reader.pending_row(id_)) is not None:
                return row
            del self._aside[id_]  # erased, or dropped
        return None

    async def _answer(self, rows: list[Pending]) -> Answer:
        """To one request; what was taken is out of the store then."""
        answer = await post(self._http, self._export, b"".join([row.body for row in rows]))
        if answer.verdict is Verdict.TAKEN:
            self._refused_since = 0
            await self._stored(rows, lambda: self._store.delivered([row.id for row in rows]))
        return answer

    async def _send(self, rows: list[Pending]) -> None:
        answer = await self._answer(rows)
        if answer.verdict is not Verdict.TAKEN:
            await self._not_taken(rows, answer)

    async def _not_taken(self, rows: list[Pending], answer: Answer) -> None:
        if answer.verdict is Verdict.SPLIT and len(rows) > 1:
            half = len(rows) // 2
            await self._send(rows[:half])
            await self._send(rows[half:])
        elif answer.verdict is Verdict.SPLIT:
            self._refused_since += 1
            self._refused.say(log.error, "a span was refused, see `otel-voice dead-letters`: %s", answer.reason)
            await self._stored(rows, lambda: self._store.set_aside(rows[0], answer.reason))
        elif rows[0].id in self._aside and answer.verdict is not Verdict.AWAY:
            # Its own fault, it seems: the others need not wait for it.
            self._say(answer)
            self._aside[rows[0].id] = self._clock() + ASIDE_S
        else:
            known = self._failures >= PATIENCE and answer.verdict is not Verdict.AWAY
            if known or answer.verdict is Verdict.LATE:
                await asyncio.to_thread(self._ask_for_less, rows)
            await self._fail(answer)

    def _ask_for_less(self, rows: list[Pending]) -> None:
        self._spans = max(1, len(rows) // 2)
        if len(rows) == 1 and self._store.reader.pending(1, 0, {rows[0].id, *self._aside}):
            self._aside[rows[0].id] = self._clock() + ASIDE_S

    async def _stored(self, rows: list[Pending], write: Callable[[], asyncio.Future[None]]) -> None:
        """The next hop has said what becomes of the rows: to write that down is tried until the store can."""
        while True:
            try:
                await write()
                return self._recover(rows)
            except Unavailable as error:
                await self._fail(Answer(Verdict.AWAY, f"store: {error}"))
                if self._stopping:
                    return

    def _recover(self, rows: list[Pending]) -> None:
        if self._aside:
            for row in rows:
                self._aside.pop(row.id, None)
        if self._said_failing_at is not None:
            log.info("export to %s works again after %.0f s", self._export.url, self._clock() - self._said_failing_at)
        self._failures, self._said_failing_at, self.last_error = 0, None, None

    async def _fail(self, answer: Answer) -> None:
        """Says so, and waits; not while somebody waits for the end."""
        self._failures += 1
        self.last_error = answer.reason
        self._say(answer)
        if not self._stopping:
            backoff = min(LONGEST_WAIT_S, 0.5 * 2 ** min(self._failures, 10)) * (0.5 + self._jitter() / 2)
            await self._wait(max(backoff, min(answer.retry_after or 0, LONGEST_ASKED_S)))

    def _say(self, answer: Answer) -> None:
        wrong = answer.verdict is Verdict.MISCONFIGURED
        write = log.error if wrong else log.warning
        hint = " (check the address and the keys: `otel-voice doctor` tells them apart)" if wrong else ""
        line = "export to %s fails, spans are kept: %s%s"
        if self._failing.say(write, line, self._export.url, answer.reason, hint) and self._said_failing_at is None:
            self._said_failing_at = self._clock()

    async def _wait(self, seconds: float) -> None:
        waits = [asyncio.ensure_future(wait) for wait in (self._sleep(seconds), self._hurry.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._hurry.clear()
            for wait in waits:
                wait.cancel()
