# Generated from `potstill._async` by `make docs`; do not edit.
"""The client: one connection pool, and the resources of the API."""

from __future__ import annotations

from typing import Self

import httpx

from potstill._sync.catalog import Architectures, Methods
from potstill._sync.datasets import Datasets
from potstill._sync.jobs import Jobs
from potstill._sync.keys import Keys
from potstill._sync.models import Models
from potstill._sync.service import Service
from potstill._sync.sweeps import Sweeps
from potstill._sync.transport import Transport
from potstill._sync.uploads import Uploads
from potstill._sync.webhooks import Webhooks
from potstill.configuration import find_connection


class Potstill:
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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        connection = find_connection(base_url, api_key)
        self._transport = Transport(connection.url, connection.api_key, max_retries=max_retries, transport=transport)
        self.base_url = self._transport.base_url
        self.datasets = Datasets(self._transport)
        self.models = Models(self._transport)
        self.uploads = Uploads(self._transport)
        self.jobs = Jobs(self._transport)
        self.sweeps = Sweeps(self._transport)
        self.methods = Methods(self._transport)
        self.architectures = Architectures(self._transport)
        self.keys = Keys(self._transport)
        self.webhooks = Webhooks(self._transport)
        self.service = Service(self._transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()
