"""Read the Parquet tables of a source, on disk or packed in an archive."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from core.ingest.limits import IngestLimits
from core.ingest.source_files import Labels, SourceFile

if TYPE_CHECKING:
    from core.ingest.parquet import ParquetReader

_SUFFIXES = (".parquet", ".parq")


class TableReader:
    """Reads the upload's Parquet tables; imports the Parquet reader at the first table."""

    def __init__(
        self, limits: IngestLimits, *, packed_bytes: int | None, labels: Labels, scratch_dir: Path | None
    ) -> None:
        self._limits = limits
        self._packed_bytes = packed_bytes
        self._labels: Labels = labels
        self._scratch_dir = scratch_dir
        self._tables: ParquetReader | None = None

    @property
    def num_rows(self) -> int:
        """Number of rows of the tables so far."""
        return 0 if self._tables is None else self._tables.num_rows

    def rows(self, path: str, source: Path | IO[bytes]) -> Iterator[SourceFile]:
        """Iterate over the rows of a table on disk."""
        if self._tables is None:
            from core.ingest.parquet import ParquetReader  # slow import

            self._tables = ParquetReader(self._limits, packed_bytes=self._packed_bytes, labels=self._labels)
        yield from self._tables.files(path, source)

    def spooled_rows(self, path: str, copy_to: Callable[[IO[bytes]], None]) -> Iterator[SourceFile]:
        """Iterate over the rows of a packed table. The archive reader counts its unpacked bytes."""
        with tempfile.TemporaryFile(dir=self._scratch_dir) as file:
            copy_to(file)
            file.seek(0)
            yield from self.rows(path, file)


def is_table(path: str) -> bool:
    """Whether a path is that of a Parquet table."""
    return path.casefold().endswith(_SUFFIXES)
