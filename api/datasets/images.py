"""One image of a stored dataset, as it was uploaded or as a thumbnail.

The API decodes no image: it reads the image's record and the part of the blob that the record names.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated

from fastapi import Request
from fastapi.responses import Response
from pydantic import Field, NonNegativeInt, TypeAdapter, ValidationError

from api.datasets.record_files import read_range, records_range
from core.data.records import BLOB, PACKED_RECORD, RECORDS_SUFFIX, THUMBNAIL_INDEX, THUMBNAILS, Record
from core.errors import NotFound, StorageFailed
from core.store.artifact_store import ArtifactStore, StoredFile

_SIGNATURES = (  # of the formats that browsers show
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)
_OTHER = "application/octet-stream"
_CACHED_INDEXES = 64
_MAX_THUMBNAIL_BYTES = 1_000_000
_Size = Annotated[int, Field(ge=0, le=_MAX_THUMBNAIL_BYTES)]
_POSITIONS = TypeAdapter(dict[str, dict[int, tuple[NonNegativeInt, _Size]]])
# The content is untrusted: no browser runs it, or guesses another type.
_HEADERS = {
    "Cache-Control": "private, max-age=86400",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Vary": "Authorization, Cookie",
    "X-Content-Type-Options": "nosniff",
}


def image_response(
    request: Request, store: ArtifactStore, files: Sequence[StoredFile], split: str, index: int
) -> Response:
    """Return an image file of a split. ``files`` are those of the dataset; none before it is ready.

    Raises :class:`NotFound` for an index outside of the split, and ``StorageFailed`` for a damaged image.
    """
    keys = {file.name: file.key for file in files}
    if f"{split}{RECORDS_SUFFIX}" not in keys:
        raise NotFound("The dataset has no images: it is not ready, or it failed.")
    record = _read_record(store, keys[f"{split}{RECORDS_SUFFIX}"], split, index)
    etag = f'"{record.crc32:08x}-{record.size}"'
    headers = {**_HEADERS, "ETag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    content = read_range(store, keys[BLOB], record.offset, record.size)
    if zlib.crc32(content) != record.crc32:
        raise StorageFailed(f"image {index} of the {split} split is damaged; upload the dataset again")
    return Response(content, headers=headers, media_type=media_type(content))


def thumbnail_response(
    request: Request, store: ArtifactStore, files: Sequence[StoredFile], split: str, index: int
) -> Response:
    """Return the small version of an image of a split, or the image itself if it has none.

    Raises as :func:`image_response`.
    """
    keys = {file.name: file.key for file in files}
    position = None
    if THUMBNAIL_INDEX in keys and THUMBNAILS in keys:
        position = _read_positions(store, keys[THUMBNAIL_INDEX]).get((split, index))
    if position is None:
        return image_response(request, store, files, split, index)
    offset, size = position
    etag = f'"thumbnail-{offset}-{size}"'
    headers = {**_HEADERS, "Cache-Control": "private, max-age=31536000, immutable", "ETag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    content = read_range(store, keys[THUMBNAILS], offset, size)
    return Response(content, headers=headers, media_type=media_type(content))


@lru_cache(maxsize=_CACHED_INDEXES)  # a stored file never changes
def _read_positions(store: ArtifactStore, key: str) -> Mapping[tuple[str, int], tuple[int, int]]:
    """Read offset and size of each thumbnail. A process that decodes untrusted files wrote them."""
    try:
        positions = _POSITIONS.validate_json(b"".join(store.open(key)))
    except ValidationError as error:
        raise StorageFailed("the positions of the thumbnails are damaged; upload the dataset again") from error
    return {(split, index): found for split, entries in positions.items() for index, found in entries.items()}


def media_type(content: bytes) -> str:
    """Return the media type of an image that browsers show, or that of unknown bytes."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return next((type_ for signature, type_ in _SIGNATURES if content.startswith(signature)), _OTHER)


def _read_record(store: ArtifactStore, key: str, split: str, index: int) -> Record:
    start, num_images = records_range(store, key)
    if index >= num_images:
        raise NotFound(f"The {split} split has {num_images} images, numbered from 0.")
    content = read_range(store, key, start + index * PACKED_RECORD.size, PACKED_RECORD.size)
    return Record(*PACKED_RECORD.unpack(content))
