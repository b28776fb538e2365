"""What Prometheus scrapes: requests as they are answered; jobs and queues as they stand at the scrape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Telemetry:
    """The metrics of one app, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._requests = Counter(
            "potstill_http_requests",
            "Requests answered.",
            ["operation", "method", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "potstill_http_request_seconds",
            "Time until a request was answered to its end; streams last as long as they are read.",
            ["operation"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._jobs = Gauge("potstill_jobs", "Jobs by status.", ["status"], registry=self._registry)
        self._queues = Gauge(
            "potstill_queue_messages",
            "Messages that wait in a queue of the broker.",
            ["queue"],
            registry=self._registry,
        )
        self._up = Gauge(
            "potstill_part_up", "Whether a part of the service answers.", ["part"], registry=self._registry
        )

    def observe(self, operation: str, method: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(operation, method, str(status)).inc()
        self._seconds.labels(operation).observe(seconds)

    def render(
        self, *, jobs: Mapping[str, int] | None, queues: Mapping[str, int] | None, up: Iterable[tuple[str, bool]]
    ) -> bytes:
        """All metrics as text. None where a part could not be asked: its last values would be lies."""
        for gauge, values in ((self._jobs, jobs), (self._queues, queues)):
            gauge.clear()
            for label, value in (values or {}).items():
                gauge.labels(label).set(value)
        for part, alive in up:
            self._up.labels(part).set(alive)
        return bytes(generate_latest(self._registry))
