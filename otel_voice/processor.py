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
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path

import msgspec
from opentelemetry import context
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from otel_voice.exporter import Exporter, client
from otel_voice.loud import OnceAMinute
from otel_voice.settings import MAX_STORE_MIB, BadSetting, Export, export
from otel_voice.store import Ledger, Store, Unavailable

log = logging.getLogger(__name__)

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
    is stored. Raises BadSetting, Locked,
    Unavailable or OSError."""

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
        self._cannot_store, self._forked, self._late = OnceAMinute(), OnceAMinute(), OnceAMinute()
        self._closed = False
        logging.getLogger("httpx").addFilter(_not_ours)
        started: Future[None] = Future()
        main = self._main(Path(data_dir), synchronous, max_store_mib * 2**20, started)
        self._thread = threading.Thread(target=asyncio.run, args=(main,), name=THREAD, daemon=True)
        self._thread.start()
        started.result()
        self._dead = self.ledger.dead
        # Before the executors end, which the event loop needs for its last requests; `atexit` comes after that.
        getattr(threading, "_register_atexit", atexit.register)(self.shutdown)

    # The thread

    async def _main(self, directory: Path, synchronous: str, max_bytes: int, started: Future[None]) -> None:
        # Sending spans must make none.
        context.attach(context.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        try:
            self._store = Store(directory, self._loop, synchronous, max_bytes)
        # Whatever it is, it is the caller's, who waits for it.
        except BaseException as error:
            started.set_exception(error)
            return
        self._store.on_damage = lambda damaged: log.critical("the store of spans is damaged: %s", damaged)
        self._exporter: Exporter | None = None
        if self._export is None:
            log.warning("no OTLP endpoint is set: spans wait in %s", directory)
            started.set_result(None)
            await self._until_stopped()
        else:
            async with client(self._export) as http:
                self._exporter = Exporter(self._store, self._export, http, time.monotonic)
                draining = asyncio.create_task(self._exporter.run())
                draining.add_done_callback(_loud)
                started.set_result(None)
                await self._until_stopped()
                self._exporter.stop()
                await asyncio.wait({draining}, timeout=DRAIN_S)
                draining.cancel()
                await asyncio.wait({draining})
        await self._store.close()

    async def _until_stopped(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), AGAIN_S)
            await asyncio.to_thread(self._save)

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

    def _save(self, *more: bytes) -> bool:
        """Puts these, and what could not be put before, into the store. False when it cannot take them now."""
        with self._lock:
            bodies = [*self._unsaved, *more]
            self._unsaved, self._unsaved_bytes = [], 0
        if not bodies:
            return True
        try:
            if (why := self._store.refuses) is not None:
                raise Unavailable(why)
            self._put(bodies)
        except Unavailable as error:
            self._keep(bodies, error)
            return False
        self._tell(Exporter.wake)
        return True

    def _put(self, bodies: list[bytes]) -> None:
        """Raises Unavailable."""
        future = self._store.put(bodies)
        while True:
            try:
                return future.result(AGAIN_S)
            except TimeoutError:
                if not self._thread.is_alive():
                    raise Unavailable("the store was closed meanwhile") from None

    def _keep(self, bodies: list[bytes], error: Unavailable) -> None:
        with self._lock:
            for body in bodies:
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
        ends = time.monotonic() + timeout_millis / 1000
        saved = self._save()
        with self._lock:
            lost, self._lost = self._lost, 0
        self._tell(Exporter.hurry)
        pause = threading.Event()
        try:
            last = self._store.reader.last_pending()
            while (pending := self._store.reader.is_pending(last)) and time.monotonic() < ends:
                pause.wait(LOOK_S)
            refused, self._dead = self.ledger.dead - self._dead, self.ledger.dead
        except Unavailable:
            return False
        return saved and not pending and not lost and refused <= 0

    @property
    def ledger(self) -> Ledger:
        """What became of the spans in this directory, those of earlier processes among them. Raises Unavailable."""
        return self._store.reader.ledger()

    def shutdown(self) -> None:
        """Sends what the next hop takes within five seconds; the rest goes out when the directory is opened again."""
        if os.getpid() != self._pid or self._closed:
            return
        self._closed = True
        self._save()
        if self._unsaved:
            log.error("%d spans are lost: the store could not take them before the end", len(self._unsaved))
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()


def _not_ours(record: logging.LogRecord) -> bool:
    """A line a request would be in the log of an app that has nothing to do with it."""
    return record.threadName != THREAD


def _loud(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("spans are kept and no longer sent", exc_info=error)


def _export(endpoint: str | None, headers: Mapping[str, str] | None) -> Export | None:
    chosen = export({**os.environ, **({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": _traces(endpoint)} if endpoint else {})})
    if chosen is None or headers is None:
        return chosen
    return msgspec.structs.replace(chosen, headers={**chosen.headers, **{k.lower(): v for k, v in headers.items()}})


def _traces(endpoint: str) -> str:
    return endpoint.rstrip("/").removesuffix("/v1/traces") + "/v1/traces"
