"""``/v1/uploads``: files that are sent in parts (tus 1.0), and the one place that knows how uploads travel."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from potstill._async.runtime import run_blocking, sleep
from potstill._async.transport import AsyncTransport
from potstill.archives import CountedFile, packed_archive
from potstill.calls import Call, create_call, json_body, object_path, read_call, retry_delay_seconds
from potstill.documents import DirectUpload, Upload
from potstill.downloads import file_sha256
from potstill.errors import (
    ChecksumMismatch,
    InvalidArgument,
    NotFound,
    ServiceUnreachable,
    Unavailable,
    UploadOffsetMismatch,
)
from potstill.transfers import ProgressOption, Transfer, transfer
from potstill.upload_parts import UploadLimits, UploadMemory, create_headers, part_headers, read_part

_FORM_BYTES = 8 * 1024 * 1024  # a smaller file travels in the request that creates its object
_MAX_BREAKS = 8  # consecutive breaks without a part
_PART_SECONDS = 300.0
_BLOCK_BYTES = 256 * 1024


class AsyncUploads:
    """``/v1/uploads``. Datasets and models use it for larger files, so most programs do not need it."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def send(self, path: Path | str, *, progress: ProgressOption = False) -> Upload:
        """Send a file in parts with checksums; resume after a broken connection, also in a later call.

        Create a dataset from it with the source ``{"type": "upload", "upload": upload.id}``. Raises
        :class:`InvalidArgument` if there is no such file, :class:`ServiceUnreachable` after all retries.
        """
        path = Path(path)
        if not path.is_file():
            raise InvalidArgument(f"there is no file {path}")
        memory = UploadMemory(self._transport.base_url, path)
        upload = await self._find_started(memory) or await self.create(path.stat().st_size, path.name)
        memory.save(upload.id)
        with transfer(progress, path.name, upload.size_bytes) as count:
            upload = await self._send_parts(upload, path, count)
        memory.forget()
        return upload

    async def send_direct(self, path: Path | str) -> Upload:
        """Send a file with one request to the service's bucket; its bytes do not pass through the API.

        Raises :class:`DirectTransferUnavailable` if the service has no bucket.
        """
        path = Path(path)
        if not path.is_file():
            raise InvalidArgument(f"there is no file {path}")
        upload = await self.create(path.stat().st_size, path.name)
        direct = await self.direct_url(upload.id)
        sha256 = await run_blocking(lambda: file_sha256(path))
        await self._transport.put_elsewhere(direct.url, _read_blocks(path), upload.size_bytes)
        return await self.complete(upload.id, sha256)

    async def create(self, size_bytes: int, filename: str = "", *, idempotency_key: str | None = None) -> Upload:
        """Create an upload without bytes."""
        call = create_call("/v1/uploads", idempotency_key=idempotency_key)
        headers = {**call.headers, **create_headers(size_bytes, filename)}
        return await self._transport.read(Call("POST", call.path, repeatable=True, headers=headers), Upload)

    async def append(self, upload_id: str, offset: int, content: bytes) -> int:
        """Send the next bytes, and return the offset of those that follow. Raises :class:`UploadOffsetMismatch`."""
        call = Call(
            "PATCH",
            object_path("uploads", upload_id),
            repeatable=True,  # bytes that have arrived are refused, because of their offset
            headers=part_headers(offset, content),
            body=lambda _: {"content": content},
            read_seconds=_PART_SECONDS,
        )
        response = await self._transport.send(call)
        return int(response.headers.get("upload-offset", offset + len(content)))

    async def get(self, upload_id: str) -> Upload:
        """Get an upload."""
        return await self._transport.read(read_call(object_path("uploads", upload_id)), Upload)

    def list(self, *, limit: int | None = None) -> AsyncIterator[Upload]:
        """Iterate over the uploads, newest first."""
        return self._transport.pages("/v1/uploads", Upload, limit=limit)

    async def delete(self, upload_id: str) -> None:
        """Delete an upload that no processing dataset or model reads. Raises :class:`InUse`."""
        await self._transport.delete(object_path("uploads", upload_id))

    async def limits(self) -> UploadLimits:
        """Return what the service accepts."""
        headers = (await self._transport.send(Call("OPTIONS", "/v1/uploads", repeatable=True))).headers
        return UploadLimits(
            version=headers.get("tus-version", ""),
            extensions=tuple(headers.get("tus-extension", "").split(",")),
            max_bytes=int(headers.get("tus-max-size", 0)),
            checksum_algorithms=tuple(headers.get("tus-checksum-algorithm", "").split(",")),
        )

    async def direct_url(self, upload_id: str) -> DirectUpload:
        """Get a URL of the service's bucket that takes the file with one PUT request."""
        call = Call("POST", object_path("uploads", upload_id, "direct"), repeatable=True)
        return await self._transport.read(call, DirectUpload)

    async def complete(self, upload_id: str, sha256: str) -> Upload:
        """Complete an upload whose file was sent to the URL of :meth:`direct_url`."""
        path = object_path("uploads", upload_id, "complete")
        return await self._transport.read(
            Call("POST", path, repeatable=True, body=json_body({"sha256": sha256})), Upload
        )

    async def _find_started(self, memory: UploadMemory) -> Upload | None:
        upload_id = memory.load()
        if upload_id is None:
            return None
        try:
            return await self.get(upload_id)
        except NotFound:  # expired
            return None

    async def _send_parts(self, upload: Upload, path: Path, count: Transfer) -> Upload:
        count.restart(upload.received_bytes)
        breaks = 0
        while upload.status != "complete":
            offset = upload.received_bytes
            part = await run_blocking(lambda: read_part(path, offset))  # noqa: B023 - called at once
            try:
                await self.append(upload.id, offset, part)
            except (ServiceUnreachable, Unavailable, UploadOffsetMismatch, ChecksumMismatch):
                if breaks >= _MAX_BREAKS:
                    raise
                await sleep(retry_delay_seconds(breaks))
                breaks += 1
            else:
                breaks = 0
            upload = await self.get(upload.id)  # also after a break: some of the bytes may have arrived
            count.restart(upload.received_bytes)
        return upload


async def create_from_file(
    transport: AsyncTransport,
    route: str,
    source: Path,
    fields: Mapping[str, Any],
    *,
    document: Callable[[str], Mapping[str, Any]],
    progress: ProgressOption,
    idempotency_key: str | None,
) -> httpx.Response:
    """Create an object of ``route`` from a file or folder; a folder is packed first.

    A small file travels with the form ``fields`` in one request. A larger one is an upload of its own, and
    ``document`` returns the JSON body that refers to it by its id.
    """
    with ExitStack() as resources:
        packing = packed_archive(source)
        archive = await run_blocking(lambda: resources.enter_context(packing))
        if archive.stat().st_size > _FORM_BYTES:
            upload = await AsyncUploads(transport).send(archive, progress=progress)
            return await transport.send(
                create_call(route, json_body(document(upload.id)), idempotency_key=idempotency_key)
            )
        count = resources.enter_context(transfer(progress, archive.name, archive.stat().st_size))
        form = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}

        def body(attempt: ExitStack) -> dict[str, Any]:
            file = attempt.enter_context(CountedFile(archive.open("rb"), count))
            return {"data": form, "files": {"file": (archive.name, file)}}

        return await transport.send(create_call(route, body, idempotency_key=idempotency_key))


async def _read_blocks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block
