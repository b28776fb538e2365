# Generated from `potstill._async` by `make docs`; do not edit.
"""Send and receive files."""

from __future__ import annotations

import secrets
from pathlib import Path

import httpx

from potstill._sync.runtime import run_blocking, sleep
from potstill._sync.transport import Transport
from potstill.calls import Call, is_temporary, retry_delay_seconds
from potstill.downloads import Download, StoredFile
from potstill.errors import ApiError, ServiceUnreachable
from potstill.transfers import ProgressOption, Transfer, transfer

_MAX_BREAKS = 5  # consecutive breaks without a byte


def download_file(transport: Transport, file: StoredFile, folder: Path, progress: ProgressOption) -> Path:
    """Download one file into ``folder``; resume after a broken connection.

    The file gets its name only after its SHA-256 is verified. Raises :class:`DownloadDamaged` on a mismatch and
    :class:`ServiceUnreachable` after all retries.
    """
    download = Download(file, folder)
    if run_blocking(download.is_present):
        return download.target
    with transfer(progress, file.name, file.size_bytes) as count:
        _receive(transport, download, count)
    return run_blocking(download.finish)


def download_plain(transport: Transport, call: Call, path: Path, progress: ProgressOption) -> Path:
    """Download a response without a hash to a file, which gets its name only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        for attempt in range(_MAX_BREAKS):
            try:
                with transport.stream(call) as response:
                    total = int(response.headers.get("content-length", 0))
                    with transfer(progress, path.name, total) as count, part.open("wb") as out:
                        for block in response.iter_bytes():
                            out.write(block)
                            count.advance(len(block))
                return part.replace(path)
            except (httpx.TransportError, ApiError) as error:
                _pause_after_break(error, path.name, attempt)
    finally:
        part.unlink(missing_ok=True)
    raise AssertionError("the last attempt returns or raises")


def _receive(transport: Transport, download: Download, count: Transfer) -> None:
    breaks = 0
    while not download.is_received:
        received = download.num_received
        count.restart(received)
        call = Call("GET", download.file.path, repeatable=True, headers=download.headers())
        try:
            with transport.stream(call) as response:
                with download.receive(response) as write:
                    if response.status_code != httpx.codes.PARTIAL_CONTENT:
                        count.restart()
                    for block in response.iter_bytes():  # as received; do not wait for full blocks
                        write(block)
                        count.advance(len(block))
        except (httpx.TransportError, ApiError) as error:
            breaks = 0 if download.num_received > received else breaks
            _pause_after_break(error, download.file.name, breaks)
            breaks += 1
        else:
            return


def _pause_after_break(error: httpx.TransportError | ApiError, name: str, breaks: int) -> None:
    """Wait before the next attempt. Raises if there is none."""
    if isinstance(error, ApiError) and not is_temporary(error):
        raise error
    if breaks >= _MAX_BREAKS - 1:
        raise ServiceUnreachable(f"the download of {name} keeps breaking: {error}") from error
    sleep(retry_delay_seconds(breaks))
