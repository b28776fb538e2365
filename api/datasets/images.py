"""One image of a stored dataset, as it was uploaded.

The API decodes no image: it reads the image's record and the part of the blob that the record names.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from fastapi import Request
from fastapi.responses import Response

from core.data.records import BLOB, PACKED_RECORD, RECORDS_SUFFIX, Record
from core.errors import NotFound, StorageFailed
from core.store.artifact_store import ArtifactStore, StoredFile

_HEADER_BYTES = 16  # magic, version and length of the header of a .npy file, and more
_SIGNATURES = (  # of the formats that browsers show
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)
_OTHER = "application/octet-stream"
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
    content = _read(store, keys[BLOB], record.offset, record.size)
    if zlib.crc32(content) != record.crc32:
        raise StorageFailed(f"image {index} of the {split} split is damaged; upload the dataset again")
    return Response(content, headers=headers, media_type=media_type(content))


def media_type(content: bytes) -> str:
    """Return the media type of an image that browsers show, or that of unknown bytes."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return next((type_ for signature, type_ in _SIGNATURES if content.startswith(signature)), _OTHER)


def _read_record(store: ArtifactStore, key: str, split: str, index: int) -> Record:
    """Read one record of a ``.npy`` file: its header tells where the records start."""
    prefix = _read(store, key, 0, _HEADER_BYTES)
    length_bytes = 2 if prefix[6] == 1 else 4  # of format 1.0, and of later ones
    start = 8 + length_bytes + int.from_bytes(prefix[8 : 8 + length_bytes], "little")
    size = store.size(key)
    num_images = 0 if size is None else (size - start) // PACKED_RECORD.size
    if index >= num_images:
        raise NotFound(f"The {split} split has {num_images} images, numbered from 0.")
    content = _read(store, key, start + index * PACKED_RECORD.size, PACKED_RECORD.size)
    return Record(*PACKED_RECORD.unpack(content))


def _read(store: ArtifactStore, key: str, start: int, length: int) -> bytes:
    return b"".join(store.open(key, start, length))
