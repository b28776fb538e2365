"""The client: one connection pool, and the resources of the API."""

from __future__ import annotations

from typing import Self

import httpx

from potstill._async.catalog import AsyncArchitectures, AsyncMethods
from potstill._async.datasets import AsyncDatasets
from potstill._async.jobs import AsyncJobs
from potstill._async.keys import AsyncKeys
from potstill._async.models import AsyncModels
from potstill._async.service import AsyncService
from potstill._async.sweeps import AsyncSweeps
from potstill._async.transport import AsyncTransport
from potstill._async.uploads import AsyncUploads
from potstill._async.webhooks import AsyncWebhooks
from potstill.configuration import find_connection


class AsyncPotstill:
    """A connection to one service. Close it, or use it as a context manager.

    URL and key default to ``POTSTILL_URL`` and ``POTSTILL_API_KEY``, else to those of ``potstill login``. Raises
    :class:`NotConfigured`. Every call raises :class:`ApiError` for an error response, and
    :class:`ServiceUnreachable` if the service does not respond after ``max_retries`` retries.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        max_retries: int = 4,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        connection = find_connection(base_url, api_key)
        self._transport = AsyncTransport(
            connection.url, connection.api_key, max_retries=max_retries, transport=transport
        )
        self.base_url = self._transport.base_url
        self.datasets = AsyncDatasets(self._transport)
        self.models = AsyncModels(self._transport)
        self.uploads = AsyncUploads(self._transport)
        self.jobs = AsyncJobs(self._transport)
        self.sweeps = AsyncSweeps(self._transport)
        self.methods = AsyncMethods(self._transport)
        self.architectures = AsyncArchitectures(self._transport)
        self.keys = AsyncKeys(self._transport)
        self.webhooks = AsyncWebhooks(self._transport)
        self.service = AsyncService(self._transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()
