"""The files of a folder or an archive, one after the other.

Nothing is unpacked to a path of the archive's choosing: images stay in memory, and a Parquet table, which is
read from its end, goes through a temporary file without a name.

An archive is hostile until shown otherwise. Sizes are checked as declared, before anything is read,
and again as read; links, devices and nested archives are reported, never followed or opened.
"""

from __future__ import annotations

import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from io import BufferedReader, FileIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

from core.errors import DatasetRejected
from core.ingest.limits import Budget, IngestLimits, readable, too_many_files
from core.ingest.paths import NotAccepted, check_kind, clean_path, shown
from core.ingest.source_files import Labels, SourceFile
from core.ingest.tar import TarEntry, looks_like_tar, tar_entries
from core.ingest_errors import ArchiveBomb, ArchiveUnreadable, TableUnclear

if TYPE_CHECKING:
    from core.ingest.parquet import Tables

__all__ = ["SourceFile", "archive_files", "folder_files"]

_UTF8_NAME = 0x800  # zip general purpose bits
_ENCRYPTED = 0x1
_ENTRY_SIGNATURE = b"PK\x01\x02"
_LOCAL_HEADER_BYTES = 30  # the least that stands before a member
_MAX_DIRECTORY_BYTES = 512 * 1024**2  # a million entries with names of usual length have a fifth of it

_SHORT = "the file is damaged in the archive: it is shorter than declared"
_SPECIAL = "a link or special file is not followed; pack the image itself"

_PARQUET = b"PAR1"
_TABLE_SUFFIXES = (".parquet", ".parq")
_ONE_TABLE = "data.parquet"  # whatever its name was: the same content makes the same dataset
_CHUNK = 1 << 20

_REFUSED_KINDS = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; send a zip or a tar instead",
    b"Rar!": "a RAR archive; send a zip or a tar instead",
    b"\x28\xb5\x2f\xfd": "compressed by zstd, which is not read here; send a zip or a tar.gz instead",
}


def archive_files(
    path: Path, limits: IngestLimits, *, labels: Labels = "auto", scratch: Path | None = None
) -> Generator[SourceFile]:
    """The files of a zip or tar archive (plain, gz, bz2, xz) or of one Parquet file, known by content, not by name.

    ``labels`` is for Parquet files: whether their label column is looked for. ``scratch`` is where packed
    ones are put while they are read, the system's own place by default. Raises :class:`DatasetRejected`
    for anything else, for a damaged archive and for a bomb.
    """
    with path.open("rb") as file:
        head = file.read(512)
    for magic, kind in _REFUSED_KINDS.items():
        if head.startswith(magic):
            raise ArchiveUnreadable(f"the file is {kind}")
    tables = _Spool(limits, packed_bytes=path.stat().st_size, labels=labels, scratch=scratch)
    if head.startswith(_PARQUET):
        return _one_table(path, tables)
    if looks_like_tar(head):
        return _tar_files(path, limits, tables)
    if _is_zip(path):
        return _zip_files(path, limits, tables)
    if head.startswith(b"PK"):
        raise ArchiveUnreadable("the zip archive is cut off: its directory is missing; upload it again")
    raise ArchiveUnreadable(
        "the file is not an archive that is read here; send a zip or a tar (plain, gz, bz2 or xz), or a Parquet file"
    )


def folder_files(folder: Path, limits: IngestLimits, *, labels: Labels = "auto") -> Generator[SourceFile]:
    """The files below a folder of one's own machine; linked files are read, linked folders are not entered."""
    if not folder.is_dir():
        raise DatasetRejected(f"{folder} is not a folder")
    budget = Budget(limits, packed_bytes=None)
    tables = _Spool(limits, packed_bytes=None, labels=labels, scratch=None)
    for parent, folders, names in os.walk(folder):
        folders.sort()
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in sorted(names) + links:
            found = Path(parent, name)
            yield from _folder_file(found, found.relative_to(folder).as_posix(), limits, budget, tables)


def _folder_file(found: Path, name: str, limits: IngestLimits, budget: Budget, tables: _Spool) -> Iterator[SourceFile]:
    budget.count_file()
    try:
        path = clean_path(name)
        if path is None:
            return
        status = found.stat()
        _check_ordinary(status.st_mode)
        if _is_table(path):
            yield from tables.rows(path, found)
            return
        check_kind(path)
        _check_file_size(status.st_size, limits)
        budget.count_bytes(status.st_size)
        file = SourceFile(path, found.read_bytes())
    except NotAccepted as reason:
        file = SourceFile(shown(name), problem=str(reason), code=reason.code)
    except OSError as error:  # a broken link, a file without read permission: the others are still good
        file = SourceFile(shown(name), problem=f"the file cannot be read: {error.strerror}", code="file_unreadable")
    yield file


def _check_ordinary(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise NotAccepted("a linked folder is not entered; copy it", code="special_file")
    if not stat.S_ISREG(mode):
        raise NotAccepted("not an ordinary file", code="special_file")


def _check_file_size(num_bytes: int, limits: IngestLimits) -> None:
    if num_bytes > limits.max_file_bytes:
        most = readable(limits.max_file_bytes)
        raise NotAccepted(f"the file has {readable(num_bytes)}, at most {most} are accepted", code="file_too_large")


# --- zip ----------------------------------------------------------------------------------------


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # it is one, and says of itself that it cannot be read
        return True


class _CountedDirectory(BufferedReader):
    """Refuses a zip directory of too many entries or bytes before ``zipfile`` makes an object of each."""

    def __init__(self, path: Path, limits: IngestLimits) -> None:
        super().__init__(FileIO(path))
        self._limits = limits

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_DIRECTORY_BYTES:
            raise ArchiveBomb("the zip archive has a directory of absurd size; pack ordinary files")
        data = super().read(size)
        if data.count(_ENTRY_SIGNATURE) > self._limits.max_archive_files:
            raise too_many_files(self._limits)
        return data


def _zip_files(path: Path, limits: IngestLimits, tables: _Spool) -> Generator[SourceFile]:
    budget = Budget(limits, packed_bytes=path.stat().st_size)
    with _CountedDirectory(path, limits) as file:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, OSError) as error:
            raise ArchiveUnreadable(f"the zip archive is damaged ({error}); pack or upload it again") from error
        with archive:
            _check_places(archive)
            # Before anything is read: zipfile never reads more of a member than it declares.
            for entry in archive.infolist():
                budget.count_file()
                budget.count_bytes(entry.file_size)
            for entry in archive.infolist():
                yield from _zip_file(archive, entry, limits, tables)


def _check_places(archive: zipfile.ZipFile) -> None:
    """Refuse members that share bytes, which is how small zips unpack to petabytes, and parts of a split archive."""
    behind = archive.start_dir
    for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset, reverse=True):
        if not 0 <= entry.header_offset < archive.start_dir:
            raise ArchiveUnreadable("the zip archive is damaged: a file lies outside of it; pack or upload it again")
        if entry.volume:
            raise ArchiveUnreadable("the zip archive is one of several parts; join them or pack it whole")
        if entry.header_offset + _LOCAL_HEADER_BYTES + entry.compress_size > behind:
            raise ArchiveBomb("files of the zip archive overlap, as no archiver writes them; pack it again")
        behind = entry.header_offset


def _zip_file(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limits: IngestLimits, tables: _Spool
) -> Iterator[SourceFile]:
    name = _zip_name(entry)
    try:
        path = clean_path(name)
        if path is None or name.endswith(("/", "\\")):
            return
        _check_zip_entry(entry)
        if _is_table(path):
            yield from tables.spooled_rows(path, lambda file: _zip_copy(archive, entry, file))
            return
        check_kind(path)
        _check_file_size(entry.file_size, limits)
        file = SourceFile(path, _zip_content(archive, entry))
    except NotAccepted as reason:
        file = SourceFile(shown(name), problem=str(reason), code=reason.code)
    yield file


def _zip_name(entry: zipfile.ZipInfo) -> str:
    """The entry's name; UTF-8 also where the archiver forgot to say so (``zipfile`` takes it for cp437)."""
    name = entry.orig_filename  # zipfile's own ends at the first NUL
    if entry.flag_bits & _UTF8_NAME:
        return name
    try:
        return name.encode("cp437").decode("utf-8")
    except UnicodeError:
        return name


def _check_zip_entry(entry: zipfile.ZipInfo) -> None:
    mode = entry.external_attr >> 16  # zero where the archive was not made on Unix
    if stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
        raise NotAccepted(_SPECIAL, code="special_file")
    if entry.flag_bits & _ENCRYPTED:
        raise NotAccepted("the file is encrypted; pack without a password", code="archive_encrypted")
    if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        # zipfile's bzip2 and LZMA readers unpack without a bound on what one read may give.
        reason = "the file is compressed by another method than deflate; pack the usual way"
        raise NotAccepted(reason, code="compression_unknown")


def _zip_content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    content = b"".join(_zip_blocks(archive, entry, entry.file_size))
    if len(content) != entry.file_size:
        raise NotAccepted(_SHORT, code="file_damaged")
    return content


def _zip_copy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: IO[bytes]) -> None:
    for block in _zip_blocks(archive, entry, _CHUNK):
        file.write(block)
    if file.tell() != entry.file_size:
        raise NotAccepted(_SHORT, code="file_damaged")


def _zip_blocks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, size: int) -> Iterator[bytes]:
    """A member in blocks; its checksum is looked at when the end is reached."""
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
        reason = f"the file is damaged in the archive: {error or 'it ends too early'}"
        raise NotAccepted(reason, code="file_damaged") from error


# --- tar ----------------------------------------------------------------------------------------


def _tar_files(path: Path, limits: IngestLimits, tables: _Spool) -> Generator[SourceFile]:
    for entry in tar_entries(path, limits):
        yield from _tar_file(entry, limits, tables)


def _tar_file(entry: TarEntry, limits: IngestLimits, tables: _Spool) -> Iterator[SourceFile]:
    try:
        path = clean_path(entry.name)
        if path is None or entry.is_folder:
            return
        _check_plain(entry)
        if _is_table(path):
            yield from tables.spooled_rows(path, entry.copy_to)
            return
        check_kind(path)
        _check_file_size(entry.size, limits)
        file = SourceFile(path, entry.read())
    except NotAccepted as reason:
        file = SourceFile(shown(entry.name), problem=str(reason), code=reason.code)
    yield file


def _check_plain(entry: TarEntry) -> None:
    if not entry.is_plain:
        raise NotAccepted(_SPECIAL, code="special_file")


# --- parquet ------------------------------------------------------------------------------------


class _Spool:
    """The upload's Parquet tables; their reader is made when the first one comes."""

    def __init__(self, limits: IngestLimits, *, packed_bytes: int | None, labels: Labels, scratch: Path | None) -> None:
        self._limits = limits
        self._packed_bytes = packed_bytes
        self._labels: Labels = labels
        self._scratch = scratch
        self._tables: Tables | None = None

    def rows(self, path: str, source: Path | IO[bytes]) -> Iterator[SourceFile]:
        """The rows of a table that lies on disk."""
        if self._tables is None:
            from core.ingest.parquet import Tables  # slow to import and needed here alone

            self._tables = Tables(self._limits, packed_bytes=self._packed_bytes, labels=self._labels)
        yield from self._tables.files(path, source)

    def spooled_rows(self, path: str, copy_to: Callable[[IO[bytes]], None]) -> Iterator[SourceFile]:
        """The rows of a packed table. Whoever packed it has counted its bytes."""
        with tempfile.TemporaryFile(dir=self._scratch) as file:
            copy_to(file)
            file.seek(0)
            yield from self.rows(path, file)


def _is_table(path: str) -> bool:
    return path.casefold().endswith(_TABLE_SUFFIXES)


def _one_table(path: Path, tables: _Spool) -> Generator[SourceFile]:
    try:
        yield from tables.rows(_ONE_TABLE, path)
    except NotAccepted as reason:
        kind = TableUnclear if reason.code == TableUnclear.code else ArchiveUnreadable
        raise kind(str(reason)) from reason
