"""Handing out stored files: whole or a range of them, with their SHA-256 as validator."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import structlog
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from zipstream import ZIP_STORED, ZipStream

from api.problems import MEDIA_TYPE
from core.errors import NotFound, RangeNotSatisfiable, StorageFailed, StoredFileDamaged
from core.store.artifact_store import ArtifactStore
from core.store.tables import Artifact

log = structlog.get_logger(__name__)

_RANGE = re.compile(r"bytes\s*=\s*(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))\s*")


@dataclass(frozen=True, slots=True)
class StoredContent:
    """What is to be handed out, as the database knows it."""

    key: str
    filename: str
    media_type: str
    size_bytes: int
    sha256: str


def file_answer(request: Request, store: ArtifactStore, content: StoredContent) -> Response:
    """The file, the range of it that was asked for, or 304.

    Stored files never change, so the hash of their content is a strong validator for ever. Several
    ranges at once are answered with the whole file, as RFC 9110 allows. Raises :class:`NotFound`,
    :class:`RangeNotSatisfiable`.
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
        raise NotFound(f"{content.filename} is not stored any more.")
    part = _part(request, etag, content.size_bytes)
    start, end = part or (0, content.size_bytes)
    headers["Content-Length"] = str(end - start)
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{content.size_bytes}"
    try:
        body = _nothing() if request.method == "HEAD" else store.open(content.key, start, end - start)
    except StoredFileDamaged:  # a checkpoint that a newer one has just outdated
        raise NotFound(f"{content.filename} is not stored any more.") from None
    return StreamingResponse(body, 206 if part else 200, headers, media_type=content.media_type)


def zip_answer(request: Request, store: ArtifactStore, name: str, artifacts: Iterable[Artifact]) -> Response:
    """All artefacts in one zip with one folder; stored, not deflated, as weights do not get smaller."""
    archive = ZipStream(compress_type=ZIP_STORED, sized=True)
    for artifact in artifacts:
        if store.size(artifact.key) is None:
            raise NotFound(f"{artifact.name} is not stored any more.")
        archive.add(_opened_late(store, artifact.key), f"{name}/{artifact.name}", size=artifact.size_bytes)
    headers = {
        "Content-Disposition": attachment(f"{name}.zip"),
        "Cache-Control": "no-store",
        "Content-Length": str(len(archive)),
    }
    body = _nothing() if request.method == "HEAD" else iter(archive)
    return StreamingResponse(body, headers=headers, media_type="application/zip")


def discard(store: ArtifactStore, keys: Iterable[str]) -> None:
    """Delete files that no row names any more; what cannot be deleted now is left to the collector."""
    for key in keys:
        try:
            store.delete(key)
        except StorageFailed as error:
            log.warning("storage.left_behind", key=key, detail=error.detail)


def attachment(filename: str) -> str:
    """A ``Content-Disposition`` that saves under this name (RFC 6266)."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", filename)
    extended = "" if plain == filename else f"; filename*=UTF-8''{quote(filename, safe='')}"
    return f'attachment; filename="{plain}"{extended}'


def file_responses(media_type: str) -> dict[int | str, dict[str, Any]]:
    """What a download may answer besides problems, for OpenAPI."""
    binary = {"content": {media_type: {"schema": {"type": "string", "format": "binary"}}}}
    return {
        200: {"description": "The file. `ETag` is its SHA-256.", **binary},
        206: {"description": "The range that was asked for.", **binary},
        304: {"description": "The file is the one that `If-None-Match` names."},
        416: {
            "description": "`range_not_satisfiable`: the range lies behind the end of the file.",
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        },
    }


def _part(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    """First byte and end of the range to send, or None for the whole file. Raises :class:`RangeNotSatisfiable`."""
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    if asked is None or request.headers.get("if-range", etag) != etag:
        return None
    first, last, suffix = asked.groups()
    if suffix is not None:
        start, end = max(0, size - int(suffix)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None  # no range at all, so it is ignored
    if start >= end:
        raise RangeNotSatisfiable(f"The file has {size} bytes.", extra={"size_bytes": size})
    return start, end


def _matches(if_none_match: str | None, etag: str) -> bool:
    if if_none_match is None:
        return False
    return any(each.strip().removeprefix("W/") in {etag, "*"} for each in if_none_match.split(","))


def _opened_late(store: ArtifactStore, key: str) -> Iterator[bytes]:
    """Opened when its turn comes, so that a download holds one file at a time."""
    yield from store.open(key)


def _nothing() -> Iterator[bytes]:
    return iter(())
