"""The local side of a download: what has arrived, what is missing, and the verified result."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from potstill.errors import DownloadDamaged


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the service: the path of its route, its name, size and SHA-256."""

    path: str
    name: str
    size_bytes: int
    sha256: str


class Download:
    """A file that is downloaded into a folder, and gets its name only after its SHA-256 is verified.

    The part that has arrived has the hash in its name. A later download of the same file resumes it.
    """

    def __init__(self, file: StoredFile, folder: Path) -> None:
        self.file = file
        self.target = folder / _check_name(file.name)
        self._part = self.target.with_name(f".{self.target.name}.{file.sha256[:16]}.part")
        self.target.parent.mkdir(parents=True, exist_ok=True)
        if self.num_received > file.size_bytes:
            self._part.unlink()

    @property
    def num_received(self) -> int:
        """Number of bytes that have arrived."""
        return self._part.stat().st_size if self._part.exists() else 0

    @property
    def is_received(self) -> bool:
        """All bytes have arrived."""
        return self._part.exists() and self.num_received == self.file.size_bytes

    def is_present(self) -> bool:
        """Whether an earlier download has left the same content under the name. Reads the file."""
        target, file = self.target, self.file
        return target.is_file() and target.stat().st_size == file.size_bytes and file_sha256(target) == file.sha256

    def headers(self) -> dict[str, str]:
        """Return the headers of a request for the missing bytes.

        If-Range: if the file has changed meanwhile, the service sends it from the start.
        """
        headers = {"Accept-Encoding": "identity"}  # ranges refer to the unencoded file
        if offset := self.num_received:
            headers |= {"Range": f"bytes={offset}-", "If-Range": f'"{self.file.sha256}"'}
        return headers

    @contextmanager
    def receive(self, response: httpx.Response) -> Iterator[Callable[[bytes], object]]:
        """Yield a function that stores a block of the response."""
        is_rest = self.num_received > 0 and response.status_code == httpx.codes.PARTIAL_CONTENT
        with self._part.open("ab" if is_rest else "wb") as file:
            try:
                yield file.write
            finally:
                file.flush()
                os.fsync(file.fileno())

    def finish(self) -> Path:
        """Verify the file and give it its name. Raises :class:`DownloadDamaged`."""
        if file_sha256(self._part) != self.file.sha256:
            self._part.unlink()
            raise DownloadDamaged(f"{self.file.name} is damaged: its SHA-256 does not match; try again")
        self._part.replace(self.target)
        return self.target


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_name(name: str) -> str:
    """Reject a file name that leads outside the folder, or more than one folder down."""
    parts = name.split("/")
    if len(parts) > 2 or any(part in {"", ".", ".."} for part in parts) or "\\" in name:
        raise DownloadDamaged(f"the service lists a file with an invalid name: {name!r}")
    return name
