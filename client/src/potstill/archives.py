"""Pack folders for upload."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Self

from potstill.errors import InvalidArgument
from potstill.transfers import Transfer


@contextmanager
def packed_archive(source: Path) -> Iterator[Path]:
    """Yield ``source`` if it is a file, or a temporary zip of the folder ``source``.

    The zip is not compressed, because images already are. Raises :class:`InvalidArgument` if the path is missing.
    """
    if source.is_file():
        yield source
        return
    if not source.is_dir():
        raise InvalidArgument(f"there is no file or folder {source}")
    with tempfile.TemporaryDirectory(prefix="potstill-") as folder:
        archive = Path(folder) / f"{source.resolve().name or 'dataset'}.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED, strict_timestamps=False) as out:
            for path in sorted(source.rglob("*")):
                if path.is_file() and not path.is_symlink():
                    out.write(path, path.relative_to(source))
        yield archive


class CountedFile:
    """A file that reports to a transfer what is read from it."""

    def __init__(self, file: BinaryIO, transfer: Transfer) -> None:
        self._file = file
        self._transfer = transfer
        transfer.restart()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int = -1) -> bytes:
        """Read at most ``size`` bytes."""
        block = self._file.read(size)
        self._transfer.advance(len(block))
        return block

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def fileno(self) -> int:
        """Return the descriptor, from which httpx takes the size."""
        return self._file.fileno()
