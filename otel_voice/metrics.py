"""Metrics: the receiver's own numbers in Prometheus' text format, read when they are asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from otel_voice.exporter import Exporter
from otel_voice.sessions import Sessions
from otel_voice.store import Store

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics(Collector):
    def __init__(self, sessions: Sessions, store: Store, exporter: Exporter | None) -> None:
        self._sessions, self._store, self._exporter = sessions, store, exporter
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        sessions, ledger = self._sessions, self._store.reader.ledger()
        # accepted = mapped + open + erased
        yield CounterMetricFamily("otel_voice_events_accepted", "Events that were accepted, ever", ledger.accepted)
        yield CounterMetricFamily("otel_voice_events_mapped", "Events whose session has made its spans", ledger.mapped)
        yield GaugeMetricFamily("otel_voice_events_open", "Events of sessions that go on", ledger.open)
        yield CounterMetricFamily("otel_voice_events_erased", "Events erased before they were mapped", ledger.erased)
        # made = delivered + pending + dead_letter + dropped
        yield CounterMetricFamily("otel_voice_spans_made", "Spans made, ever", ledger.made)
        yield CounterMetricFamily("otel_voice_spans_delivered", "Spans the next hop took, ever", ledger.delivered)
        yield GaugeMetricFamily("otel_voice_spans_pending", "Spans that wait for the next hop", ledger.pending)
        refused = "Spans the next hop refused for good: see `otel-voice dead-letters`"
        yield GaugeMetricFamily("otel_voice_spans_dead_letter", refused, ledger.dead)
        yield CounterMetricFamily("otel_voice_spans_dropped", "Spans the operator dropped, ever", ledger.dropped)
        yield CounterMetricFamily("otel_voice_events_refused", "Events refused since the start", sessions.refused)
        failing = self._exporter is not None and self._exporter.failing
        nothing = "1 while the next hop takes nothing: it fails, or has refused ten spans and more since it took one"
        yield GaugeMetricFamily("otel_voice_export_failing", nothing, float(failing))
        waiting = "Unix time since which the oldest pending span waits; no sample where none does"
        oldest = GaugeMetricFamily("otel_voice_spans_pending_oldest_timestamp_seconds", waiting)
        if (since := self._store.reader.pending_since()) is not None:
            oldest.add_metric([], since / 1000)
        yield oldest
        yield GaugeMetricFamily("otel_voice_sessions_in_memory", "Sessions in memory", sessions.count)
        store = self._store
        yield GaugeMetricFamily("otel_voice_store_queued_bytes", "Bytes that wait to be written", store.queued_bytes)
        yield GaugeMetricFamily("otel_voice_store_used_bytes", "Bytes in use in the store", store.used_bytes)
        yield GaugeMetricFamily("otel_voice_store_max_bytes", "Bytes from which on work is refused", store.max_bytes)

    def routes(self) -> list[Route]:
        return [Route("/metrics", self.metrics, methods=["GET"])]

    async def metrics(self, request: Request) -> Response:
        """The receiver's own numbers, in Prometheus' text format."""
        text = await asyncio.to_thread(generate_latest, self._registry)
        return Response(text, media_type=CONTENT_TYPE)
