"""Iterate over the files of a tar archive, and of the WebDataset shards in an archive or a folder.

A shard is a plain tar. It is opened where a source holds shards in place of images: as long as no image came before
it. Any other archive in an archive is rejected. Tars in shards are not opened.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from core.ingest.limits import IngestLimits, UnpackBudget, format_bytes
from core.ingest.paths import NotAccepted, check_suffix, clean_path, is_label_file, printable_name
from core.ingest.source_files import Labels, SourceFile
from core.ingest.table_reader import TableReader, is_table
from core.ingest.tar import TarEntry, tar_entries
from core.ingest_errors import ArchiveUnreadable

SPECIAL_FILE_REASON = "links and special files are not followed; pack the image itself"

_SHARD_SUFFIX = ".tar"


@dataclass(frozen=True, slots=True)
class Readers:
    """Limits of a source, and the readers of the tables and shards in it."""

    limits: IngestLimits
    tables: TableReader
    shards: ShardReader

    @classmethod
    def open(cls, limits: IngestLimits, *, packed_bytes: int | None, labels: Labels, scratch_dir: Path | None) -> Self:
        """Return the readers of a source; ``packed_bytes`` is the size of an archive, None for a trusted folder."""
        tables = TableReader(limits, packed_bytes=packed_bytes, labels=labels, scratch_dir=scratch_dir)
        shards = ShardReader(limits, tables, packed_bytes=packed_bytes, scratch_dir=scratch_dir)
        return cls(limits, tables, shards)


def tar_files(path: Path, readers: Readers) -> Generator[SourceFile]:
    """Iterate over the files of a tar archive, which is untrusted."""
    for entry in tar_entries(path, UnpackBudget(readers.limits, packed_bytes=path.stat().st_size)):
        yield from _tar_file(entry, readers.limits, readers.tables, readers.shards)


class ShardReader:
    """Reads the shards of a source. All of them together have the limits of one archive."""

    def __init__(
        self, limits: IngestLimits, tables: TableReader, *, packed_bytes: int | None, scratch_dir: Path | None
    ) -> None:
        self._limits = limits
        self._tables = tables
        self._budget = UnpackBudget(limits, packed_bytes=packed_bytes)
        self._scratch_dir = scratch_dir
        self._has_images = False

    def opens(self, path: str) -> bool:
        """Whether the file with this path is read as a shard."""
        return is_shard(path) and not self._has_images

    def note_file(self, path: str) -> None:
        """Note an accepted file outside of shards; after an image, no more shards are opened."""
        self._has_images = self._has_images or not is_label_file(path)

    def files(self, path: str, source: Path | IO[bytes]) -> Iterator[SourceFile]:
        """Iterate over the files of a shard, whose names begin with that of the shard.

        Raises :class:`core.errors.DatasetRejected`, and names the shard if it is damaged.
        """
        prefix = path[: -len(_SHARD_SUFFIX)]
        try:
            for entry in tar_entries(source, self._budget):
                yield from _tar_file(entry, self._limits, self._tables, None, prefix=f"{prefix}/")
        except ArchiveUnreadable as error:
            raise ArchiveUnreadable(f"{printable_name(path)}: {error.detail}") from error

    def spooled_files(self, path: str, copy_to: Callable[[IO[bytes]], None]) -> Iterator[SourceFile]:
        """Iterate over the files of a packed shard."""
        with tempfile.TemporaryFile(dir=self._scratch_dir) as file:
            copy_to(file)
            file.seek(0)
            yield from self.files(path, file)


def is_shard(path: str) -> bool:
    """Whether a path is that of a plain tar."""
    return path.casefold().endswith(_SHARD_SUFFIX)


def check_file_size(num_bytes: int, limits: IngestLimits) -> None:
    """Raise :class:`NotAccepted` for a file that is too large to decode."""
    if num_bytes > limits.max_file_bytes:
        limit = format_bytes(limits.max_file_bytes)
        raise NotAccepted(
            f"the file has {format_bytes(num_bytes)}, at most {limit} are accepted", code="file_too_large"
        )


def _tar_file(
    entry: TarEntry, limits: IngestLimits, tables: TableReader, shards: ShardReader | None, *, prefix: str = ""
) -> Iterator[SourceFile]:
    try:
        path = clean_path(entry.name)
        if path is None or entry.is_folder:
            return
        path = prefix + path
        _check_regular_entry(entry)
        if is_table(path):
            yield from tables.spooled_rows(path, entry.copy_to)
            return
        if shards is not None and shards.opens(path):
            yield from shards.spooled_files(path, entry.copy_to)
            return
        check_suffix(path, entry.size)
        check_file_size(entry.size, limits)
        file = SourceFile(path, entry.read())
        if shards is not None:
            shards.note_file(path)
    except NotAccepted as error:
        file = SourceFile(printable_name(prefix + entry.name), reason=str(error), code=error.code)
    yield file


def _check_regular_entry(entry: TarEntry) -> None:
    if not entry.is_regular:
        raise NotAccepted(SPECIAL_FILE_REASON, code="special_file")
