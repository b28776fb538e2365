"""Wait until a dataset or a model is ready."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from client.errors import IngestFailed, NotReady


def wait_until_ready(
    read: Callable[[], Any], kind: str, timeout_seconds: float, on_read: Callable[[Any], object] | None = None
) -> Any:
    """Call ``read`` until its document is ready, and return it; ``on_read`` receives each document.

    Raises :class:`IngestFailed` or :class:`NotReady`.
    """
    deadline = time.monotonic() + timeout_seconds
    pause = 0.1
    while True:
        document = read()
        if on_read is not None:
            on_read(document)
        if document["status"] == "ready":
            return document
        if document["status"] == "failed":
            reason = (document["error"] or {}).get("message", "no reason was given")
            raise IngestFailed(f"{kind} {document['id']} failed: {reason}")
        if time.monotonic() >= deadline:
            raise NotReady(f"{kind} {document['id']} is still {document['status']} after {timeout_seconds:g} s")
        time.sleep(pause)
        pause = min(2.0, pause * 1.5)
