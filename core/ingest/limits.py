"""How much an archive may hold, and the counting that stops a bomb before it goes off."""

from __future__ import annotations

from dataclasses import dataclass

from core.errors import DatasetRejected
from core.ingest_errors import ArchiveBomb, TooManyFiles, UnpackedTooLarge

# Small archives may compress as well as they like: what they unpack to harms nobody.
_HARMLESS_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestLimits:
    """What is accepted. The defaults suit a trusted command line as well as the service."""

    max_unpacked_bytes: int = 20 * 1024**3
    max_unpack_ratio: float = 200.0  # of an archive's content to its size
    max_archive_files: int = 1_000_000
    max_image_pixels: int = 64_000_000
    max_file_bytes: int = 256 * 1024**2  # of one image file; it is held in memory while it is decoded


@dataclass(frozen=True, slots=True)
class Rejected:
    """A file that was left out, and why: in words, and in a stable one."""

    path: str
    reason: str
    code: str


class Budget:
    """Counts what comes out of an archive or folder; raises :class:`DatasetRejected` when it is too much."""

    def __init__(self, limits: IngestLimits, *, packed_bytes: int | None) -> None:
        self._limits = limits
        self._packed_bytes = packed_bytes
        self._num_files = 0
        self._num_bytes = 0

    def count_file(self) -> None:
        """One more entry, of whatever kind."""
        self._num_files += 1
        if self._num_files > self._limits.max_archive_files:
            raise too_many_files(self._limits)

    def count_bytes(self, num_bytes: int) -> None:
        """So many more unpacked bytes."""
        self.require_room(num_bytes)
        self._num_bytes += num_bytes
        if self._packed_bytes is None:
            return
        if self._num_bytes > max(_HARMLESS_BYTES, self._limits.max_unpack_ratio * self._packed_bytes):
            raise ArchiveBomb(
                f"an archive of {readable(self._packed_bytes)} that unpacks to {readable(self._num_bytes)} or more "
                f"is taken for a decompression bomb (at most {self._limits.max_unpack_ratio:g} times its size is "
                "accepted); pack ordinary image files"
            )

    def require_room(self, num_bytes: int) -> None:
        """Refuse so many more bytes, where they are too many, without counting them."""
        if self._num_bytes + num_bytes > self._limits.max_unpacked_bytes:
            raise UnpackedTooLarge(
                f"the files take more than {readable(self._limits.max_unpacked_bytes)} unpacked, which is the most "
                "that is accepted; make the images smaller or send a part of them"
            )


def too_many_files(limits: IngestLimits) -> DatasetRejected:
    """The error for too many entries."""
    return TooManyFiles(f"there are more than {limits.max_archive_files:,} files; send fewer")


def readable(num_bytes: float) -> str:
    """A number of bytes for people, e.g. ``1.6 GB``."""
    for unit in ("bytes", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"
