"""The progress of a dataset's ingestion, in its row."""

from __future__ import annotations

import time

import structlog

from core.errors import Unavailable
from core.store import datasets
from core.store.ingest_leases import IngestLeaseToken
from worker.context import Context

WRITE_SECONDS = 1.0  # interval between two writes

log = structlog.get_logger(__name__)


class ProgressWriter:
    """Writes files read, their total and the rate, at most once a second. Raises ``LeaseLost``."""

    def __init__(self, context: Context, lease: IngestLeaseToken) -> None:
        self._database = context.database
        self._lease = lease
        self._first: tuple[float, int] | None = None
        self._last_write = float("-inf")

    def __call__(self, processed: int, total: int | None) -> None:
        """Report the current numbers."""
        now = time.monotonic()
        self._first = self._first or (now, processed)
        if now - self._last_write < WRITE_SECONDS:
            return
        self._last_write = now
        seconds, count = now - self._first[0], processed - self._first[1]
        rate = round(count / seconds, 1) if count > 0 and seconds > 0 else None
        try:
            with self._database.write() as session:
                datasets.record_progress(session, self._lease, processed=processed, total=total, images_per_second=rate)
        except Unavailable as error:  # the ingestion continues while the database is down
            log.warning("ingest.progress_not_recorded", error=error.detail)
