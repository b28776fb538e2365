# Generated from `potstill._async` by `make docs`; do not edit.
"""The project and the service: usage, audit log, workers, health."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from potstill._sync.transport import Transport
from potstill.calls import read_call
from potstill.documents import AuditEntry, Health, Ready, Usage, UsageHistory, Workers


class Service:
    """The project of the key, and the service itself."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def usage(self) -> Usage:
        """Return usage and limits of the project, and rate limits of this key."""
        return self._transport.read(read_call("/v1/usage"), Usage)

    def usage_history(self, *, days: int | None = None) -> UsageHistory:
        """Return jobs, time on devices and stored bytes of the last ``days`` (30) in UTC, oldest first."""
        return self._transport.read(read_call("/v1/usage/history", days=days), UsageHistory)

    def audit_log(
        self,
        *,
        key: str | None = None,
        action: str | None = None,
        object_id: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int | None = None,
    ) -> Iterator[AuditEntry]:
        """Iterate over the entries of the audit log that match all filters, newest first. Requires the scope admin."""
        filters = {
            "key": key,
            "action": action,
            "object_id": object_id,
            "created_after": created_after.astimezone().isoformat() if created_after is not None else None,
            "created_before": created_before.astimezone().isoformat() if created_before is not None else None,
        }
        return self._transport.pages("/v1/audit-log", AuditEntry, limit=limit, **filters)

    def workers(self) -> Workers:
        """Return the workers with their devices and jobs, and the lengths of the queues."""
        return self._transport.read(read_call("/v1/workers"), Workers)

    def health(self) -> Health:
        """Check that the API process is running."""
        return self._transport.read(read_call("/healthz"), Health)

    def ready(self) -> Ready:
        """Check that the service can serve requests. Raises :class:`ServiceNotReady`."""
        return self._transport.read(read_call("/readyz"), Ready)

    def prometheus_metrics(self) -> str:
        """Return the metrics of the service in the text format of Prometheus."""
        return (self._transport.send(read_call("/metrics"))).text
