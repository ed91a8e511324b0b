"""DurableSpanProcessor: any OpenTelemetry TracerProvider's spans, delivered as this package's own are.

In place of BatchSpanProcessor. A span is in the store when `on_end` returns, and leaves it after the next hop's 2xx.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from opentelemetry import context
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from otel_voice.exporter import Exporter, client
from otel_voice.loud import OnceAMinute
from otel_voice.settings import MAX_STORE_MIB, BadSetting, Export, export
from otel_voice.store import Damaged, Ledger, Store, Unavailable

log = logging.getLogger(__name__)
T = TypeVar("T")

# Spans that the store cannot take now wait in memory up to this; what comes on top of them is lost, and said to be.
UNSAVED_BYTES = 16 * 2**20
AGAIN_S = 1.0
LOOK_S = 0.02
DRAIN_S = 5.0
THREAD = "otel-voice-spans"


class DurableSpanProcessor(SpanProcessor):
    """Keeps spans in `data_dir`, one process a directory, and sends them to `endpoint` (the address to which /v1/traces
    is added) or to where OTEL_EXPORTER_OTLP_* or LANGFUSE_* say. What an earlier process left there goes out too.

    Make it after a fork. `max_store_mib` is how much may wait; `synchronous` NORMAL is safe against a crash of the
    process, FULL against a power cut, at the price of the disk's own time in each `on_end`, which returns when the span
    is stored. Raises BadSetting, Locked, OtherSchema, Unavailable or OSError."""

    def __init__(
        self,
        data_dir: str | Path,
        endpoint: str | None = None,
        headers: Mapping[str, str] | None = None,
        max_store_mib: int = MAX_STORE_MIB,
        synchronous: str = "NORMAL",
    ) -> None:
        if synchronous not in ("NORMAL", "FULL"):
            raise BadSetting(f"synchronous must be NORMAL or FULL, not {synchronous!r}")
        self._export = _export(endpoint, headers)
        self._lock = threading.Lock()
        self._unsaved: list[bytes] = []
        self._unsaved_bytes = 0
        self._lost = 0
        self._pid = os.getpid()
        self._cannot_store, self._damage = OnceAMinute(), OnceAMinute()
        self._forked, self._late = OnceAMinute(), OnceAMinute()
        self._closed = False
        logging.getLogger("httpx").addFilter(_not_ours)
        self._started: Future[None] = Future()
        main = self._main(Path(data_dir), synchronous, max_store_mib * 2**20)
        self._thread = threading.Thread(target=_run, args=(main, self._started), name=THREAD, daemon=True)
        self._thread.start()
        self._started.result()
        self._dead = self.ledger.dead
        atexit.register(self.shutdown)

    # The thread

    async def _main(self, directory: Path, synchronous: str, max_bytes: int) -> None:
        # Sending spans must make none.
        context.attach(context.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._store = Store(directory, self._loop, synchronous, max_bytes)
        self._store.on_damage = self._hear_of_damage
        self._exporter: Exporter | None = None
        if self._export is None:
            log.warning("no OTLP endpoint is set: spans wait in %s", directory)
            await self._until_stopped()
        else:
            async with client(self._export) as http:
                self._exporter = Exporter(self._store, self._export, http, time.monotonic)
                draining = asyncio.create_task(self._exporter.run())
                draining.add_done_callback(_loud)
                await self._until_stopped()
                self._exporter.stop()
                await asyncio.wait({draining}, timeout=DRAIN_S)
                draining.cancel()
                await asyncio.wait({draining})
        await self._store.close()

    def _hear_of_damage(self, damaged: Damaged) -> None:
        self._damage.say(log.critical, "the store of spans is damaged, the next start sets it aside: %s", damaged)

    async def _until_stopped(self) -> None:
        self._started.set_result(None)
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), AGAIN_S)
            await self._save_again()

    async def _save_again(self) -> None:
        """What waits in memory goes into the store, if that takes it now."""
        with self._lock:
            bodies = list(self._unsaved)
        if bodies and self._store.refuses is None:
            with contextlib.suppress(Unavailable):  # it was said when they had to wait
                await asyncio.wrap_future(self._store.put(bodies))
                with self._lock:
                    del self._unsaved[: len(bodies)]
                    self._unsaved_bytes -= sum(map(len, bodies))
                self._tell(Exporter.wake)

    # The provider's side

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        pass

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        if os.getpid() != self._pid:
            self._forked.say(log.error, "span lost: the process was forked after its DurableSpanProcessor was made")
        elif self._closed:
            self._late.say(log.error, "span lost: it ended after the shutdown")
        else:
            self._save(encode_spans([span]).SerializeToString())

    def _save(self, body: bytes) -> None:
        try:
            if self._unsaved:
                raise Unavailable("others wait already")
            if (why := self._store.refuses) is not None:
                raise Unavailable(why)
            self._put(body)
        except Unavailable as error:
            self._keep(body, error)
        else:
            self._tell(Exporter.wake)

    def _put(self, body: bytes) -> None:
        """Raises Unavailable."""
        future = self._store.put([body])
        while True:
            try:
                return future.result(AGAIN_S)
            except TimeoutError:
                if not self._thread.is_alive():
                    raise Unavailable("the store was closed meanwhile") from None

    def _keep(self, body: bytes, error: Unavailable) -> None:
        with self._lock:
            if self._unsaved_bytes + len(body) > UNSAVED_BYTES:
                self._lost += 1
            else:
                self._unsaved.append(body)
                self._unsaved_bytes += len(body)
            waiting, lost = len(self._unsaved), self._lost
        line = "the store cannot take spans: %s; %d wait in memory, %d are lost"
        self._cannot_store.say(log.error, line, error, waiting, lost)

    def _tell(self, what: Callable[[Exporter], None]) -> None:
        if self._exporter is not None:
            self._loop.call_soon_threadsafe(what, self._exporter)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """True when the next hop has taken every span that ended before; False when one is still on its way at the
        time-out, was refused, or was lost. What is on its way stays in the store."""
        if os.getpid() != self._pid or self._closed:
            return False
        ends, pause = time.monotonic() + (timeout_millis / 1000 if self._export else 0), threading.Event()
        with self._lock:
            lost, self._lost = self._lost, 0
        try:
            while (saving := bool(self._unsaved)) and time.monotonic() < ends:
                pause.wait(LOOK_S)
            last = self._store.reader.last_pending()
            self._tell(Exporter.hurry)
            while (pending := self._store.reader.is_pending(last)) and time.monotonic() < ends:
                pause.wait(LOOK_S)
            refused, self._dead = self.ledger.dead - self._dead, self.ledger.dead
        except Unavailable:
            return False
        return not (saving or pending or lost) and refused <= 0

    @property
    def ledger(self) -> Ledger:
        """What became of the spans in this directory, those of earlier processes among them. Raises Unavailable."""
        return self._store.reader.ledger()

    def shutdown(self) -> None:
        """Sends what the next hop takes within five seconds; the rest goes out when the directory is opened again."""
        if os.getpid() != self._pid or self._closed:
            return
        self._closed = True
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        if self._unsaved:
            log.error("%d spans are lost: the store could not take them before the end", len(self._unsaved))


def _not_ours(record: logging.LogRecord) -> bool:
    """A line a request would be in the log of an app that has nothing to do with it."""
    return record.threadName != THREAD


class _Loop(asyncio.SelectorEventLoop):
    """Its thread is its own, so it may wait where others ask an executor; executors end before a process does."""

    def run_in_executor(self, executor: object, work: Callable[..., T], *values: object) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(work(*values))
        except Exception as error:  # whoever awaits it hears of it
            future.set_exception(error)
        return future


def _run(main: Coroutine[None, None, None], started: Future[None]) -> None:
    try:
        with asyncio.Runner(loop_factory=_Loop) as runner:
            runner.run(main)
    except BaseException as error:
        # At the start it is the caller's, who waits for it.
        if started.done():
            raise
        started.set_exception(error)


def _loud(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("spans are kept and no longer sent", exc_info=error)


def _export(endpoint: str | None, headers: Mapping[str, str] | None) -> Export | None:
    own = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": _traces(endpoint)} if endpoint else {}
    if headers is not None:
        pairs = (f"{quote(name)}={quote(value)}" for name, value in headers.items())
        own["OTEL_EXPORTER_OTLP_TRACES_HEADERS"] = ",".join(pairs)
    return export({**os.environ, **own})


def _traces(endpoint: str) -> str:
    return endpoint.rstrip("/").removesuffix("/v1/traces") + "/v1/traces"
