# Generated from `potstill._async` by `make docs`; do not edit.
"""Send a file to the service: the one place that knows how uploads travel."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from potstill._sync.runtime import run_blocking
from potstill._sync.transport import Transport
from potstill.archives import CountedFile, packed_archive
from potstill.calls import create_call
from potstill.transfers import ProgressOption, transfer


def upload_file(
    transport: Transport,
    route: str,
    source: Path,
    fields: Mapping[str, str],
    *,
    progress: ProgressOption = False,
    idempotency_key: str | None = None,
) -> httpx.Response:
    """Create an object of ``route`` from form fields and a file or folder; a folder is packed first.

    A broken upload is sent again completely, with the same idempotency key.
    """
    with ExitStack() as resources:
        packing = packed_archive(source)
        archive = run_blocking(lambda: resources.enter_context(packing))
        count = resources.enter_context(transfer(progress, archive.name, archive.stat().st_size))

        def body(attempt: ExitStack) -> dict[str, Any]:
            file = attempt.enter_context(CountedFile(archive.open("rb"), count))
            return {"data": dict(fields), "files": {"file": (archive.name, file)}}

        return transport.send(create_call(route, body, idempotency_key=idempotency_key))
