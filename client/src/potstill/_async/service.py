"""The project and the service: usage, audit log, workers, health."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from potstill._async.transport import AsyncTransport
from potstill.calls import read_call
from potstill.documents import AuditEntry, Health, Ready, Usage, UsageHistory, Workers


class AsyncService:
    """The project of the key, and the service itself."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def usage(self) -> Usage:
        """Return usage and limits of the project, and rate limits of this key."""
        return await self._transport.read(read_call("/v1/usage"), Usage)

    async def usage_history(self, *, days: int | None = None) -> UsageHistory:
        """Return jobs, time on devices and stored bytes of the last ``days`` (30) in UTC, oldest first."""
        return await self._transport.read(read_call("/v1/usage/history", days=days), UsageHistory)

    def audit_log(
        self,
        *,
        key: str | None = None,
        action: str | None = None,
        object_id: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[AuditEntry]:
        """Iterate over the entries of the audit log that match all filters, newest first. Requires the scope admin."""
        filters = {
            "key": key,
            "action": action,
            "object_id": object_id,
            "created_after": created_after.astimezone().isoformat() if created_after is not None else None,
            "created_before": created_before.astimezone().isoformat() if created_before is not None else None,
        }
        return self._transport.pages("/v1/audit-log", AuditEntry, limit=limit, **filters)

    async def workers(self) -> Workers:
        """Return the workers with their devices and jobs, and the lengths of the queues."""
        return await self._transport.read(read_call("/v1/workers"), Workers)

    async def health(self) -> Health:
        """Check that the API process is running."""
        return await self._transport.read(read_call("/healthz"), Health)

    async def ready(self) -> Ready:
        """Check that the service can serve requests. Raises :class:`ServiceNotReady`."""
        return await self._transport.read(read_call("/readyz"), Ready)

    async def prometheus_metrics(self) -> str:
        """Return the metrics of the service in the text format of Prometheus."""
        return (await self._transport.send(read_call("/metrics"))).text
