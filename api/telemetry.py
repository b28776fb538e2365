"""Prometheus metrics: request counters, and gauges of jobs, queues and workers that are read at each scrape."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
_BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

_GAUGES = {  # name -> (description, labels)
    "potstill_jobs": ("Jobs by status.", ("status",)),
    "potstill_unfinished_jobs": ("Queued and running jobs by accelerator.", ("status", "accelerator")),
    "potstill_queue_age_seconds": ("Age of the oldest queued job, since its creation.", ("accelerator",)),
    "potstill_workers": ("Live processes of the service; `busy` ones run a job.", ("role", "accelerator", "state")),
    "potstill_queue_messages": ("Messages waiting in a broker queue.", ("queue",)),
    "potstill_webhook_deliveries": ("Deliveries of webhooks that are not finished.", ("status",)),
    "potstill_webhook_due_seconds": ("Time for which the oldest due delivery has waited for a sender.", ("status",)),
    "potstill_part_up": ("Whether a component of the service is available.", ("part",)),
}

Values = Mapping[tuple[str, ...], float]
"""Values of a gauge by its labels."""


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
        self._gauges = {
            name: Gauge(name, description, labels, registry=self._registry)
            for name, (description, labels) in _GAUGES.items()
        }

    def observe(self, operation: str, method: str, status: int, seconds: float) -> None:
        """Record a request."""
        self._requests.labels(operation, method, str(status)).inc()
        self._seconds.labels(operation).observe(seconds)

    def render(self, gauges: Mapping[str, Values]) -> bytes:
        """Return all metrics as text. A gauge without values in ``gauges`` has none, so that stale ones are removed."""
        for name, gauge in self._gauges.items():
            gauge.clear()
            for labels, value in gauges.get(name, {}).items():
                gauge.labels(*labels).set(value)
        return bytes(generate_latest(self._registry))
