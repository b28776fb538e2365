"""Send and receive files."""

from __future__ import annotations

import secrets
from pathlib import Path

import httpx

from potstill._async.runtime import run_blocking, sleep
from potstill._async.transport import AsyncTransport
from potstill.calls import Call, is_temporary, retry_delay_seconds
from potstill.downloads import Download, StoredFile
from potstill.errors import ApiError, ServiceUnreachable
from potstill.transfers import ProgressOption, Transfer, transfer

_MAX_BREAKS = 5  # consecutive breaks without a byte


async def download_file(transport: AsyncTransport, file: StoredFile, folder: Path, progress: ProgressOption) -> Path:
    """Download one file into ``folder``; resume after a broken connection.

    The file gets its name only after its SHA-256 is verified. Raises :class:`DownloadDamaged` on a mismatch and
    :class:`ServiceUnreachable` after all retries.
    """
    download = Download(file, folder)
    if await run_blocking(download.is_present):
        return download.target
    with transfer(progress, file.name, file.size_bytes) as count:
        await _receive(transport, download, count)
    return await run_blocking(download.finish)


async def download_plain(transport: AsyncTransport, call: Call, path: Path, progress: ProgressOption) -> Path:
    """Download a response without a hash to a file, which gets its name only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        for attempt in range(_MAX_BREAKS):
            try:
                async with transport.stream(call) as response:
                    total = int(response.headers.get("content-length", 0))
                    with transfer(progress, path.name, total) as count, part.open("wb") as out:
                        async for block in response.aiter_bytes():
                            out.write(block)
                            count.advance(len(block))
                return part.replace(path)
            except (httpx.TransportError, ApiError) as error:
                await _pause_after_break(error, path.name, attempt)
    finally:
        part.unlink(missing_ok=True)
    raise AssertionError("the last attempt returns or raises")


async def _receive(transport: AsyncTransport, download: Download, count: Transfer) -> None:
    breaks = 0
    while not download.is_received:
        received = download.num_received
        count.restart(received)
        call = Call("GET", download.file.path, repeatable=True, headers=download.headers())
        try:
            async with transport.stream(call) as response:
                with download.receive(response) as write:
                    if response.status_code != httpx.codes.PARTIAL_CONTENT:
                        count.restart()
                    async for block in response.aiter_bytes():  # as received; do not wait for full blocks
                        write(block)
                        count.advance(len(block))
        except (httpx.TransportError, ApiError) as error:
            breaks = 0 if download.num_received > received else breaks
            await _pause_after_break(error, download.file.name, breaks)
            breaks += 1
        else:
            return


async def _pause_after_break(error: httpx.TransportError | ApiError, name: str, breaks: int) -> None:
    """Wait before the next attempt. Raises if there is none."""
    if isinstance(error, ApiError) and not is_temporary(error):
        raise error
    if breaks >= _MAX_BREAKS - 1:
        raise ServiceUnreachable(f"the download of {name} keeps breaking: {error}") from error
    await sleep(retry_delay_seconds(breaks))
