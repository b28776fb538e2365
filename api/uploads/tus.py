"""Headers of the tus protocol 1.0 (https://tus.io/protocols/resumable-upload)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import format_datetime

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import invalid_field
from core.errors import InvalidRequest, PotstillError
from core.store.upload_tables import Upload

VERSION = "1.0.0"
EXTENSIONS = "creation,expiration,checksum,termination"
CHECKSUM_ALGORITHMS = ("sha1", "sha256")
OFFSET_STREAM = "application/offset+octet-stream"
MAX_METADATA_CHARACTERS = 4096
_KEY = re.compile(r"[!-+\--~]{1,200}")  # visible ASCII without a comma


class ProtocolVersionUnsupported(PotstillError):
    """The header `Tus-Resumable` is missing or names another version of the protocol; send `Tus-Resumable: 1.0.0`."""

    code = "tus_version_unsupported"
    title = "This version of the upload protocol is not supported"
    status = 412


class ChecksumMismatch(PotstillError):
    """The received bytes do not have the checksum that the request states; send them again."""

    code = "checksum_mismatch"
    title = "The received bytes are damaged"
    status = 460  # of the tus protocol


class TusResumable:
    """Pure ASGI middleware that adds ``Tus-Resumable`` to each response below a prefix, as the protocol demands."""

    def __init__(self, app: ASGIApp, *, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def send_with_version(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Tus-Resumable"] = VERSION
            await send(message)

        is_tus = scope["type"] == "http" and scope["path"].startswith(self._prefix)
        await self._app(scope, receive, send_with_version if is_tus else send)


@dataclass(frozen=True, slots=True)
class Checksum:
    """Checksum of a request's body."""

    algorithm: str
    digest: bytes

    def matches(self, blocks: Iterable[bytes]) -> bool:
        """Whether the bytes have this checksum."""
        actual = hashlib.new(self.algorithm, usedforsecurity=False)
        for block in blocks:
            actual.update(block)
        return actual.digest() == self.digest


def require_version(version: str | None) -> None:
    """Raise :class:`ProtocolVersionUnsupported` unless the client speaks version 1.0.0."""
    if version != VERSION:
        raise ProtocolVersionUnsupported(f"Send the header Tus-Resumable: {VERSION}.", extra={"supported": [VERSION]})


def parse_filename(metadata: str) -> str:
    """Return the value of ``filename`` in ``Upload-Metadata``; empty without one. Raises :class:`InvalidRequest`."""
    filename = ""
    for pair in filter(None, (part.strip() for part in metadata.split(","))):
        key, _, encoded = pair.partition(" ")
        try:
            value = base64.b64decode(encoded.strip(), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise _invalid_metadata(f"the value of {key[:60]!r} is not text in base 64") from None
        if not _KEY.fullmatch(key):
            raise _invalid_metadata("a key is empty, too long, or has a character that is not visible ASCII")
        if "\0" in value:
            raise _invalid_metadata(f"the value of {key[:60]!r} contains a NUL character")
        if key == "filename":
            filename = value[:200]
    return filename


def parse_checksum(header: str | None) -> Checksum | None:
    """Parse ``Upload-Checksum``. Raises :class:`InvalidRequest`."""
    if header is None:
        return None
    algorithm, _, encoded = header.partition(" ")
    if algorithm not in CHECKSUM_ALGORITHMS:
        known = ", ".join(CHECKSUM_ALGORITHMS)
        raise invalid_field("/Upload-Checksum", f"the algorithm {algorithm[:40]!r} is not supported; use {known}")
    try:
        return Checksum(algorithm, base64.b64decode(encoded, validate=True))
    except binascii.Error:
        raise invalid_field("/Upload-Checksum", "the checksum is not in base 64") from None


def upload_headers(upload: Upload) -> dict[str, str]:
    """Return the headers that describe an upload."""
    return {
        "Upload-Offset": str(upload.received_bytes),
        "Upload-Length": str(upload.size_bytes),
        "Upload-Expires": format_datetime(upload.expires_at, usegmt=True),
        **({"Upload-Metadata": upload.tus_metadata} if upload.tus_metadata else {}),
    }


def _invalid_metadata(detail: str) -> InvalidRequest:
    return invalid_field("/Upload-Metadata", f"{detail}; send `key BASE64, key BASE64`")
