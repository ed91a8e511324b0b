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
        sessions, counted = self._sessions, self._store.reader.counters()
        yield CounterMetricFamily("otel_voice_events_accepted", "Events stored since the start", sessions.accepted)
        yield CounterMetricFamily("otel_voice_events_refused", "Events refused since the start", sessions.refused)
        yield CounterMetricFamily("otel_voice_spans_made", "Spans made, ever", counted["made"])
        yield CounterMetricFamily("otel_voice_spans_delivered", "Spans the next hop took, ever", counted["delivered"])
        yield CounterMetricFamily("otel_voice_spans_dropped", "Spans the operator dropped, ever", counted["dropped"])
        yield GaugeMetricFamily("otel_voice_spans_pending", "Spans that wait for the next hop", counted["pending"])
        yield GaugeMetricFamily("otel_voice_spans_dead_letter", "Spans the next hop refused", counted["dead"])
        failing = self._exporter is not None and self._exporter.last_error is not None
        yield GaugeMetricFamily("otel_voice_export_failing", "1 while the next hop takes nothing", float(failing))
        yield GaugeMetricFamily("otel_voice_sessions_in_memory", "Sessions in memory", sessions.count)
        yield GaugeMetricFamily(
            "otel_voice_store_queued_bytes", "Bytes that wait to be written", self._store.queued_bytes
        )

    def routes(self) -> list[Route]:
        return [Route("/metrics", self.metrics, methods=["GET"])]

    async def metrics(self, request: Request) -> Response:
        text = await asyncio.to_thread(generate_latest, self._registry)
        return Response(text, media_type=CONTENT_TYPE)
