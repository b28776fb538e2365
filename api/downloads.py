"""Downloads of stored files: complete or in ranges, with the SHA-256 as ETag."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import quote

import structlog
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from zipstream import ZIP_STORED, ZipStream

from api.problems import MEDIA_TYPE
from core.errors import InvalidRequest, NotFound, RangeNotSatisfiable, StorageFailed, StoredFileDamaged
from core.settings import Settings
from core.store.artifact_store import ArtifactStore
from core.store.tables import Artifact

log = structlog.get_logger(__name__)

_RANGE = re.compile(r"bytes\s*=\s*(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))\s*")


@dataclass(frozen=True, slots=True)
class StoredContent:
    """A stored file as recorded in the database."""

    key: str
    filename: str
    media_type: str
    size_bytes: int
    sha256: str


def file_response(request: Request, store: ArtifactStore, content: StoredContent) -> Response:
    """Return the file, the requested range of it, or 304.

    Stored files never change, so the hash of the content is a strong validator. A request for several ranges gets
    the complete file, as RFC 9110 allows. Raises :class:`NotFound`, :class:`RangeNotSatisfiable`.
    """
    etag = f'"{content.sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
        "Vary": "Authorization, Cookie",
        "Content-Disposition": attachment(content.filename),
    }
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    if store.size(content.key) is None:
        raise NotFound(f"{content.filename} is no longer stored.")
    requested = _requested_range(request, etag, content.size_bytes)
    start, end = requested or (0, content.size_bytes)
    headers["Content-Length"] = str(end - start)
    if requested is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{content.size_bytes}"
    try:
        body = _empty_body() if request.method == "HEAD" else store.open(content.key, start, end - start)
    except StoredFileDamaged:  # a checkpoint that a newer one has just replaced
        raise NotFound(f"{content.filename} is no longer stored.") from None
    return StreamingResponse(body, 206 if requested else 200, headers, media_type=content.media_type)


class DirectTransferUnavailable(InvalidRequest):
    """The store is no bucket, or direct transfers are off (`POTSTILL_DIRECT_URL_SECONDS`); use the API's own routes."""

    code = "direct_transfer_unavailable"
    title = "Direct transfers are not available"


@dataclass(frozen=True, slots=True)
class DirectUrl:
    """A presigned URL of the bucket."""

    url: str
    expires_at: datetime


def sign_direct(store: ArtifactStore, settings: Settings, key: str, method: Literal["GET", "PUT"]) -> DirectUrl:
    """Return a presigned URL of a file. Raises :class:`DirectTransferUnavailable`."""
    seconds = settings.direct_url_seconds
    url = store.sign_url(key, method, seconds) if seconds else None
    if url is None:
        raise DirectTransferUnavailable(
            "Direct transfers are not available: the artifact store is no bucket, or the operator has not set "
            "POTSTILL_DIRECT_URL_SECONDS. Send and receive files through the API."
        )
    return DirectUrl(url, datetime.now(UTC) + timedelta(seconds=seconds))


def zip_response(request: Request, store: ArtifactStore, name: str, artifacts: Iterable[Artifact]) -> Response:
    """Return all artifacts in one zip with one folder; uncompressed, as weights do not compress."""
    archive = ZipStream(compress_type=ZIP_STORED, sized=True)
    for artifact in artifacts:
        if store.size(artifact.key) is None:
            raise NotFound(f"{artifact.name} is no longer stored.")
        archive.add(_open_lazily(store, artifact.key), f"{name}/{artifact.name}", size=artifact.size_bytes)
    headers = {
        "Content-Disposition": attachment(f"{name}.zip"),
        "Cache-Control": "no-store",
        "Content-Length": str(len(archive)),
    }
    body = _empty_body() if request.method == "HEAD" else iter(archive)
    return StreamingResponse(body, headers=headers, media_type="application/zip")


def discard(store: ArtifactStore, keys: Iterable[str]) -> None:
    """Delete files that no row references; garbage collection retries failed deletions."""
    for key in keys:
        try:
            store.delete(key)
        except StorageFailed as error:
            log.warning("storage.delete_failed", key=key, detail=error.detail)


def attachment(filename: str) -> str:
    """Return a ``Content-Disposition`` header that saves under this name (RFC 6266)."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", filename)
    extended = "" if plain == filename else f"; filename*=UTF-8''{quote(filename, safe='')}"
    return f'attachment; filename="{plain}"{extended}'


def download_responses(media_type: str) -> dict[int | str, dict[str, Any]]:
    """Return the responses of a download besides problems, for OpenAPI."""
    binary = {"content": {media_type: {"schema": {"type": "string", "format": "binary"}}}}
    return {
        200: {"description": "The file. `ETag` is its SHA-256.", **binary},
        206: {"description": "The requested range.", **binary},
        304: {"description": "The file matches `If-None-Match`."},
        416: {
            "description": "`range_not_satisfiable`: the range starts after the end of the file.",
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        },
    }


def _requested_range(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    """Return the first byte and the exclusive end of the range to send, or None for the complete file.

    Raises :class:`RangeNotSatisfiable`.
    """
    match = _RANGE.fullmatch(request.headers.get("range", ""))
    if match is None or request.headers.get("if-range", etag) != etag:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        start, end = max(0, size - int(suffix)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None  # an invalid range is ignored (RFC 9110)
    if start >= end:
        raise RangeNotSatisfiable(f"The file has {size} bytes.", extra={"size_bytes": size})
    return start, end


def _matches(if_none_match: str | None, etag: str) -> bool:
    if if_none_match is None:
        return False
    return any(value.strip().removeprefix("W/") in {etag, "*"} for value in if_none_match.split(","))


def _open_lazily(store: ArtifactStore, key: str) -> Iterator[bytes]:
    """Open the file at the first read, so a download has one file open at a time."""
    yield from store.open(key)


def _empty_body() -> Iterator[bytes]:
    return iter(())
