"""The local side of a resumable upload: its parts, and where an interrupted one is remembered."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

PART_BYTES = 8 * 1024 * 1024
TUS_VERSION = "1.0.0"


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """What the service accepts: version and extensions of tus, size of a file, checksums."""

    version: str
    extensions: tuple[str, ...]
    max_bytes: int
    checksum_algorithms: tuple[str, ...]


def create_headers(size_bytes: int, filename: str) -> dict[str, str]:
    """Return the headers that create an upload."""
    encoded = base64.b64encode(filename.encode()).decode("ascii")
    headers = {"Tus-Resumable": TUS_VERSION, "Upload-Length": str(size_bytes)}
    return headers | ({"Upload-Metadata": f"filename {encoded}"} if filename else {})


def part_headers(offset: int, part: bytes) -> dict[str, str]:
    """Return the headers of a part; the service refuses a part with another checksum."""
    digest = base64.b64encode(hashlib.sha256(part).digest()).decode("ascii")
    return {
        "Tus-Resumable": TUS_VERSION,
        "Upload-Offset": str(offset),
        "Upload-Checksum": f"sha256 {digest}",
        "Content-Type": "application/offset+octet-stream",
    }


def read_part(path: Path, offset: int) -> bytes:
    """Return the part of a file at ``offset``."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(PART_BYTES)


class UploadMemory:
    """Remembers the upload of a file in the user's cache, so that a later call resumes it.

    Service, path, size and time of change identify the file.
    """

    def __init__(self, base_url: str, path: Path) -> None:
        state = path.stat()
        identity = json.dumps([base_url, str(path.resolve()), state.st_size, state.st_mtime_ns])
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._file = base / "potstill" / "uploads" / hashlib.sha256(identity.encode()).hexdigest()[:32]

    def load(self) -> str | None:
        """Return the id of the upload, or None."""
        return self._file.read_text(encoding="ascii") if self._file.exists() else None

    def save(self, upload_id: str) -> None:
        """Remember an upload."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(upload_id, encoding="ascii")

    def forget(self) -> None:
        """Forget the upload: the service has the file."""
        self._file.unlink(missing_ok=True)
