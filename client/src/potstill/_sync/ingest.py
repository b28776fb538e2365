# Generated from `potstill._async` by `make docs`; do not edit.
"""Wait until a dataset or a model is ready."""

from __future__ import annotations

from typing import Protocol, TypeVar

from potstill._sync.polling import Poll
from potstill._sync.runtime import sleep
from potstill.ingest_progress import IngestDocument, IngestView, is_done

_FIRST_POLL_SECONDS = 0.1
_MAX_POLL_SECONDS = 2.0

AnyIngest = TypeVar("AnyIngest", bound=IngestDocument, covariant=True)  # noqa: PLC0105 - also of functions


class _Collection(Protocol[AnyIngest]):
    def get(self, object_id: str, /) -> AnyIngest: ...


def wait_until_ready(
    collection: _Collection[AnyIngest], object_id: str, *, timeout_seconds: float, progress: bool
) -> AnyIngest:
    """Read a document until it is ready, and return it. Raises :class:`IngestFailed` or :class:`NotReady`."""
    poll = Poll(timeout_seconds=timeout_seconds)
    pause = _FIRST_POLL_SECONDS
    with IngestView(progress=progress) as view:
        while True:
            document = poll.read(lambda: collection.get(object_id))
            view.show(document)
            if is_done(document, is_late=poll.is_late, timeout_seconds=timeout_seconds):
                return document
            sleep(pause)
            pause = min(_MAX_POLL_SECONDS, pause * 1.5)
