"""Iterate over the files of a folder or an archive.

Nothing is unpacked to a path from the archive. Images stay in memory. A Parquet table goes through an unnamed
temporary file, because its reader seeks to the end.

Archives are untrusted. Declared sizes are checked before reading, and actual sizes while reading. Links, devices
and nested archives are rejected, never followed or opened; WebDataset shards are the exception (``tar_files``).
"""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from io import BufferedReader, FileIO
from pathlib import Path
from typing import IO

from core.errors import DatasetRejected
from core.ingest.limits import IngestLimits, UnpackBudget, too_many_files_error
from core.ingest.paths import NotAccepted, check_suffix, clean_path, printable_name
from core.ingest.source_files import Labels, SourceFile, SourceSize
from core.ingest.table_reader import TableReader, is_table
from core.ingest.tar import looks_like_tar
from core.ingest.tar_files import SPECIAL_FILE_REASON, Readers, check_file_size, is_shard, tar_files
from core.ingest.zip_names import ZipNames
from core.ingest_errors import ArchiveBomb, ArchiveUnreadable, TableUnclear
from core.job_warnings import JobWarning

__all__ = ["SourceFile", "archive_files", "folder_files"]

Warn = Callable[[JobWarning], None]

_ENCRYPTED = 0x1  # zip general purpose bits
_ENTRY_SIGNATURE = b"PK\x01\x02"
_MIN_LOCAL_HEADER_BYTES = 30
_MAX_DIRECTORY_BYTES = 512 * 1024**2  # a million entries with typical names take about 100 MiB

_TOO_SHORT_REASON = "the file is damaged in the archive: it is shorter than declared"

_PARQUET_MAGIC = b"PAR1"
_SINGLE_TABLE_PATH = "data.parquet"  # independent of the upload's name: the same content makes the same dataset
_CHUNK_BYTES = 1 << 20

_UNSUPPORTED_FORMATS = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; send a zip or a tar instead",
    b"Rar!": "a RAR archive; send a zip or a tar instead",
    b"\x28\xb5\x2f\xfd": "compressed with zstd, which is not supported; send a zip or a tar.gz instead",
}


def archive_files(
    path: Path,
    limits: IngestLimits,
    *,
    labels: Labels = "auto",
    scratch_dir: Path | None = None,
    warn: Warn = lambda _: None,
    size: SourceSize | None = None,
) -> Generator[SourceFile]:
    """Iterate over a zip or tar archive (plain, gz, bz2, xz) or one Parquet file; the content decides the format.

    Args:
        path: The archive.
        limits: Limits on sizes and counts.
        labels: Whether to use the label column of Parquet files.
        scratch_dir: Folder for temporary copies of packed Parquet files. Default: the system's temporary folder.
        warn: Called with each warning about the archive while its files are read.
        size: Receives the number of files once it is known.

    Raises:
        DatasetRejected: The format is unsupported, the archive is damaged, or it is a decompression bomb.
    """
    with path.open("rb") as file:
        head = file.read(512)
    for magic, description in _UNSUPPORTED_FORMATS.items():
        if head.startswith(magic):
            raise ArchiveUnreadable(f"the file is {description}")
    readers = Readers.open(limits, packed_bytes=path.stat().st_size, labels=labels, scratch_dir=scratch_dir)
    if head.startswith(_PARQUET_MAGIC):
        return _single_table_files(path, readers.tables, size or SourceSize())
    if looks_like_tar(head):
        return tar_files(path, readers)
    if _is_zip(path):
        return _zip_files(path, readers, size or SourceSize(), warn)
    if head.startswith(b"PK"):
        raise ArchiveUnreadable("the zip archive is truncated: its directory is missing; upload it again")
    raise ArchiveUnreadable(
        "the file is not a supported archive; send a zip or a tar (plain, gz, bz2 or xz), or a Parquet file"
    )


def folder_files(folder: Path, limits: IngestLimits, *, labels: Labels = "auto") -> Generator[SourceFile]:
    """Iterate over the files in a trusted local folder. Symlinks to files are followed, to folders are not."""
    if not folder.is_dir():
        raise DatasetRejected(f"{folder} is not a folder")
    budget = UnpackBudget(limits, packed_bytes=None)
    readers = Readers.open(limits, packed_bytes=None, labels=labels, scratch_dir=None)
    for parent, folders, names in os.walk(folder):
        folders.sort()
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in sorted(names) + links:
            path = Path(parent, name)
            yield from _folder_file(path, path.relative_to(folder).as_posix(), budget, readers)


def _folder_file(source: Path, name: str, budget: UnpackBudget, readers: Readers) -> Iterator[SourceFile]:
    budget.count_file()
    try:
        path = clean_path(name)
        if path is None:
            return
        status = source.stat()
        _check_regular(status.st_mode)
        if is_table(path):
            yield from readers.tables.rows(path, source)
            return
        if readers.shards.opens(path):
            yield from readers.shards.files(path, source)
            return
        check_suffix(path, status.st_size)
        check_file_size(status.st_size, readers.limits)
        budget.count_bytes(status.st_size)
        file = SourceFile(path, source.read_bytes())
        readers.shards.note_file(path)
    except NotAccepted as error:
        file = SourceFile(printable_name(name), reason=str(error), code=error.code)
    except OSError as error:  # a broken link or a file without read permission; read the other files
        file = SourceFile(
            printable_name(name), reason=f"the file cannot be read: {error.strerror}", code="file_unreadable"
        )
    yield file


def _check_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise NotAccepted("linked folders are not followed; copy the folder", code="special_file")
    if not stat.S_ISREG(mode):
        raise NotAccepted("not a regular file", code="special_file")


# --- zip ----------------------------------------------------------------------------------------


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # a zip with an unreadable directory
        return True


class _BoundedDirectory(BufferedReader):
    """Rejects a zip directory with too many entries or bytes before ``zipfile`` creates an object per entry."""

    def __init__(self, path: Path, limits: IngestLimits) -> None:
        super().__init__(FileIO(path))
        self._limits = limits
        self.has_directory = False  # the directory has been read; what follows are the files

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_DIRECTORY_BYTES:
            raise ArchiveBomb("the zip archive has a directory of absurd size; pack ordinary files")
        data = super().read(size)
        if not self.has_directory and data.count(_ENTRY_SIGNATURE) > self._limits.max_archive_files:
            raise too_many_files_error(self._limits)
        return data


def _zip_files(path: Path, readers: Readers, size: SourceSize, warn: Warn) -> Generator[SourceFile]:
    limits = readers.limits
    budget = UnpackBudget(limits, packed_bytes=path.stat().st_size)
    with _BoundedDirectory(path, limits) as file:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, OSError) as error:
            raise ArchiveUnreadable(f"the zip archive is damaged ({error}); pack or upload it again") from error
        file.has_directory = True
        with archive:
            _check_entry_offsets(archive)
            # Declared sizes suffice: zipfile never reads more of a member than it declares.
            for entry in archive.infolist():
                budget.count_file()
                budget.count_bytes(entry.file_size)
            names = ZipNames(archive.infolist())
            if names.is_guessed:
                warn(_guessed_names_warning(names, archive.infolist()))
            size.num_files = _count_zip_files(archive)
            for entry in archive.infolist():
                yield from _zip_file(archive, entry, names.decode(entry), readers)


def _check_entry_offsets(archive: zipfile.ZipFile) -> None:
    """Reject overlapping members, which let small zips unpack to petabytes, and parts of a split archive."""
    next_start = archive.start_dir
    for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset, reverse=True):
        if not 0 <= entry.header_offset < archive.start_dir:
            raise ArchiveUnreadable(
                "the zip archive is damaged: a file lies outside the archive; pack or upload it again"
            )
        if entry.volume:
            raise ArchiveUnreadable("the zip archive is one of several parts; join the parts or pack one archive")
        if entry.header_offset + _MIN_LOCAL_HEADER_BYTES + entry.compress_size > next_start:
            raise ArchiveBomb("files of the zip archive overlap; pack it again")
        next_start = entry.header_offset


def _count_zip_files(archive: zipfile.ZipFile) -> int | None:
    """Count the entries that are files; None if tables or shards are among them."""
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
    return None if any(is_table(name) or is_shard(name) for name in names) else len(names)


def _zip_file(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str, readers: Readers) -> Iterator[SourceFile]:
    try:
        path = clean_path(name)
        if path is None or name.endswith(("/", "\\")):
            return
        _check_zip_entry(entry)
        if is_table(path):
            yield from readers.tables.spooled_rows(path, lambda file: _zip_copy(archive, entry, file))
            return
        if readers.shards.opens(path):
            yield from readers.shards.spooled_files(path, lambda file: _zip_copy(archive, entry, file))
            return
        check_suffix(path, entry.file_size)
        check_file_size(entry.file_size, readers.limits)
        file = SourceFile(path, _zip_content(archive, entry))
        readers.shards.note_file(path)
    except NotAccepted as error:
        file = SourceFile(printable_name(name), reason=str(error), code=error.code)
    yield file


def _guessed_names_warning(names: ZipNames, entries: Iterable[zipfile.ZipInfo]) -> JobWarning:
    example = next(name for entry in entries if not (name := names.decode(entry)).isascii())
    message = (
        f"The names in the zip archive declare no encoding; they are read as {names.encoding}, "
        f"e.g. {printable_name(example)}."
    )
    return JobWarning(code="file_names_guessed", message=message, fix="If they look wrong, pack with UTF-8 names.")


def _check_zip_entry(entry: zipfile.ZipInfo) -> None:
    mode = entry.external_attr >> 16  # zero unless the archive was made on Unix
    if stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
        raise NotAccepted(SPECIAL_FILE_REASON, code="special_file")
    if entry.flag_bits & _ENCRYPTED:
        raise NotAccepted("the file is encrypted; pack without a password", code="archive_encrypted")
    if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        # zipfile's bzip2 and LZMA readers do not limit the output of one read.
        reason = "the compression method is not supported; use deflate or no compression"
        raise NotAccepted(reason, code="compression_unknown")


def _zip_content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    content = b"".join(_zip_blocks(archive, entry, entry.file_size))
    if len(content) != entry.file_size:
        raise NotAccepted(_TOO_SHORT_REASON, code="file_damaged")
    return content


def _zip_copy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: IO[bytes]) -> None:
    for block in _zip_blocks(archive, entry, _CHUNK_BYTES):
        file.write(block)
    if file.tell() != entry.file_size:
        raise NotAccepted(_TOO_SHORT_REASON, code="file_damaged")


def _zip_blocks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, size: int) -> Iterator[bytes]:
    """Read a member in blocks. The checksum is verified at the end."""
    try:
        with archive.open(entry) as stream:
            while block := stream.read(max(1, size)):
                yield block
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        OverflowError,
    ) as error:
        reason = f"the file is damaged in the archive: {error or 'unexpected end'}"
        raise NotAccepted(reason, code="file_damaged") from error


# --- parquet ------------------------------------------------------------------------------------


def _single_table_files(path: Path, tables: TableReader, size: SourceSize) -> Generator[SourceFile]:
    try:
        for file in tables.rows(_SINGLE_TABLE_PATH, path):
            size.num_files = tables.num_rows
            yield file
    except NotAccepted as error:
        error_type = TableUnclear if error.code == TableUnclear.code else ArchiveUnreadable
        raise error_type(str(error)) from error
