"""Prometheus metrics: requests of this process; gauges and stored counters that are read at each scrape.

Every API process exposes the same stored values: aggregate them with `max`, not `sum`, over processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, SummaryMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from core.store.counters import METRICS, Metric, Total, Totals

CONTENT_TYPE = CONTENT_TYPE_LATEST
_BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

_GAUGES = {  # name -> (description, labels)
    "potstill_jobs": ("Jobs by status.", ("status",)),
    "potstill_unfinished_jobs": ("Queued and running jobs by accelerator.", ("status", "accelerator")),
    "potstill_queue_age_seconds": ("Age of the oldest queued job, since its creation.", ("accelerator",)),
    "potstill_workers": ("Live processes of the service by state.", ("role", "accelerator", "state")),
    "potstill_queue_messages": ("Messages waiting in a broker queue.", ("queue",)),
    "potstill_webhook_deliveries": ("Deliveries of webhooks that are not finished.", ("status",)),
    "potstill_webhook_due_seconds": ("Time for which the oldest due delivery has waited for a sender.", ("status",)),
    "potstill_outbound_tasks": ("Pushes and tracked jobs that are not finished.", ("kind", "state")),
    "potstill_part_up": ("Whether a component of the service is available.", ("part",)),
}

Values = Mapping[tuple[str, ...], float]
"""Values of a gauge by its labels."""


Family = CounterMetricFamily | HistogramMetricFamily | SummaryMetricFamily


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
        self._stored = _StoredMetrics()
        self._registry.register(self._stored)

    def observe(self, operation: str, method: str, status: int, seconds: float) -> None:
        """Record a request."""
        self._requests.labels(operation, method, str(status)).inc()
        self._seconds.labels(operation).observe(seconds)

    def render(self, gauges: Mapping[str, Values], totals: Totals | None) -> bytes:
        """Return all metrics as text. A gauge without values in ``gauges`` has none, so that stale ones are removed.

        ``totals``: the stored metrics; None if the database is unavailable.
        """
        for name, gauge in self._gauges.items():
            gauge.clear()
            for labels, value in gauges.get(name, {}).items():
                gauge.labels(*labels).set(value)
        self._stored.totals = totals
        return bytes(generate_latest(self._registry))


class _StoredMetrics(Collector):
    """Collector of the totals of ``core.store.counters``."""

    def __init__(self) -> None:
        self.totals: Totals | None = None

    def collect(self) -> Iterator[Family]:
        """Yield one family per stored metric; none if the totals are unknown."""
        if self.totals is not None:
            for metric in METRICS:
                yield _family(metric, self.totals[metric.name])


def _family(metric: Metric, totals: Mapping[tuple[str, ...], Total]) -> Family:
    match metric.kind:
        case "counter":
            counter = CounterMetricFamily(metric.name, metric.description, labels=metric.labels)
            for labels, total in totals.items():
                counter.add_metric(labels, total.sum)
            return counter
        case "summary":
            summary = SummaryMetricFamily(metric.name, metric.description, labels=metric.labels)
            for labels, total in totals.items():
                summary.add_metric(labels, total.count, total.sum)
            return summary
        case "histogram":
            histogram = HistogramMetricFamily(metric.name, metric.description, labels=metric.labels)
            for labels, total in totals.items():
                histogram.add_metric(labels, [(bound, float(count)) for bound, count in total.buckets], total.sum)
            return histogram
