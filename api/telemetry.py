"""Prometheus metrics: request counters, and gauges of jobs and queues that are read at each scrape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
_BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Telemetry:
    """The metrics of one app, in their own registry."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._requests = Counter(
            "potstill_http_requests",
            "HTTP requests.",
            ["operation", "method", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "potstill_http_request_seconds",
            "Time from a request to the end of its response, for streams until they close.",
            ["operation"],
            buckets=_BUCKETS_SECONDS,
            registry=self._registry,
        )
        self._jobs = Gauge("potstill_jobs", "Jobs by status.", ["status"], registry=self._registry)
        self._queues = Gauge(
            "potstill_queue_messages",
            "Messages waiting in a broker queue.",
            ["queue"],
            registry=self._registry,
        )
        self._up = Gauge(
            "potstill_part_up", "Whether a component of the service is available.", ["part"], registry=self._registry
        )

    def observe(self, operation: str, method: str, status: int, seconds: float) -> None:
        """Record a request."""
        self._requests.labels(operation, method, str(status)).inc()
        self._seconds.labels(operation).observe(seconds)

    def render(
        self, *, jobs: Mapping[str, int] | None, queues: Mapping[str, int] | None, up: Iterable[tuple[str, bool]]
    ) -> bytes:
        """Return all metrics as text. Pass None for unavailable values, so that stale ones are removed."""
        for gauge, values in ((self._jobs, jobs), (self._queues, queues)):
            gauge.clear()
            for label, value in (values or {}).items():
                gauge.labels(label).set(value)
        for component, is_up in up:
            self._up.labels(component).set(is_up)
        return bytes(generate_latest(self._registry))
