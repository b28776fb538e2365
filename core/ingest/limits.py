"""Limits of ingestion and the counters that enforce them while unpacking."""

from __future__ import annotations

from dataclasses import dataclass

from core.errors import DatasetRejected
from core.ingest_errors import ArchiveBomb, TooManyFiles, UnpackedTooLarge

# Up to this unpacked size any compression ratio is accepted.
_RATIO_EXEMPT_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestLimits:
    """Limits on a dataset's files. The defaults suit the command line and the service."""

    max_unpacked_bytes: int = 20 * 1024**3
    max_unpack_ratio: float = 200.0  # unpacked bytes per archive byte
    max_archive_files: int = 1_000_000
    max_image_pixels: int = 64_000_000
    max_file_bytes: int = 256 * 1024**2  # one image file; it is held in memory during decoding


@dataclass(frozen=True, slots=True)
class RejectedFile:
    """A file that was left out, with a readable reason and a stable code."""

    path: str
    reason: str
    code: str


class UnpackBudget:
    """Counts files and unpacked bytes; raises :class:`DatasetRejected` above a limit."""

    def __init__(self, limits: IngestLimits, *, packed_bytes: int | None) -> None:
        self._limits = limits
        self._packed_bytes = packed_bytes
        self._num_files = 0
        self._num_bytes = 0

    def count_file(self) -> None:
        """Count one entry of any kind."""
        self._num_files += 1
        if self._num_files > self._limits.max_archive_files:
            raise too_many_files_error(self._limits)

    def count_bytes(self, num_bytes: int) -> None:
        """Count ``num_bytes`` unpacked bytes."""
        self.check_bytes(num_bytes)
        self._num_bytes += num_bytes
        if self._packed_bytes is None:
            return
        if self._num_bytes > max(_RATIO_EXEMPT_BYTES, self._limits.max_unpack_ratio * self._packed_bytes):
            raise ArchiveBomb(
                f"an archive of {format_bytes(self._packed_bytes)} that unpacks to {format_bytes(self._num_bytes)} or "
                f"more is a decompression bomb (at most {self._limits.max_unpack_ratio:g} times its size is accepted); "
                "pack ordinary image files"
            )

    def check_bytes(self, num_bytes: int) -> None:
        """Raise if ``num_bytes`` more bytes would exceed the limit; do not count them."""
        if self._num_bytes + num_bytes > self._limits.max_unpacked_bytes:
            raise UnpackedTooLarge(
                f"the files take more than {format_bytes(self._limits.max_unpacked_bytes)} unpacked, the maximum "
                "that is accepted; make the images smaller or send fewer"
            )


def too_many_files_error(limits: IngestLimits) -> DatasetRejected:
    """The error for too many entries."""
    return TooManyFiles(f"there are more than {limits.max_archive_files:,} files; send fewer")


def format_bytes(num_bytes: float) -> str:
    """Format a number of bytes, e.g. ``1.6 GB``."""
    for unit in ("bytes", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"
