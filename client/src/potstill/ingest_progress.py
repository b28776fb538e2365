"""Show the progress of a dataset or model that the service reads."""

from __future__ import annotations

from typing import Self

from rich.console import Console

from potstill.documents import DatasetDocument, ModelDocument
from potstill.errors import IngestFailed, NotReady

IngestDocument = DatasetDocument | ModelDocument


class IngestView:
    """A line in a terminal that tells what the service has read; nothing elsewhere."""

    def __init__(self, *, progress: bool) -> None:
        console = Console(stderr=True)
        self._status = console.status("Reading the upload") if progress and console.is_terminal else None

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, document: IngestDocument) -> None:
        """Show the state of the document."""
        if self._status is not None and isinstance(document, DatasetDocument):
            self._status.update(format_ingest_progress(document))


def format_ingest_progress(dataset: DatasetDocument) -> str:
    """Format the progress of a dataset that is processed: ``Reading images: 1,200 of 60,000, 2,100 per second``."""
    progress = dataset.progress
    if progress is None or not progress.processed:
        return "Reading images"
    total = "" if progress.total is None else f" of {progress.total:,}"
    rate = progress.images_per_second
    speed = "" if rate is None else f", {rate:,.0f} per second"
    return f"Reading images: {progress.processed:,}{total}{speed}"


def is_done(document: IngestDocument, *, is_late: bool, timeout_seconds: float) -> bool:
    """Whether the document is ready. Raises :class:`IngestFailed`, and :class:`NotReady` if it ``is_late``."""
    name = f"{document.object} {document.id}"
    if document.status == "failed":
        error = document.error
        reason, code = (error.message, error.code) if error is not None else ("no reason was given", "unknown")
        raise IngestFailed(f"{name} failed: {reason}", code)
    if document.status != "ready" and is_late:
        raise NotReady(f"{name} is still {document.status} after {timeout_seconds:g} s")
    return document.status == "ready"
