"""The files of a folder or an archive, one after the other. Nothing is ever unpacked to disk.

An archive is hostile until shown otherwise. Sizes are checked as declared, before anything is read,
and again as read; links, devices and nested archives are reported, never followed or opened.
"""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Generator
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path

from core.data.ingest_limits import Budget, IngestLimits, readable, too_many_files
from core.data.ingest_names import NotAccepted, check_kind, clean_path, shown
from core.data.ingest_tar import TarEntry, looks_like_tar, tar_entries
from core.errors import DatasetRejected

_UTF8_NAME = 0x800  # zip general purpose bits
_ENCRYPTED = 0x1
_ENTRY_SIGNATURE = b"PK\x01\x02"

_SPECIAL = "a link or special file is not followed; pack the image itself"

_REFUSED_KINDS = {
    b"PAR1": "a Parquet file; this version reads archives of image files, so write the images out first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; send a zip or a tar instead",
    b"Rar!": "a RAR archive; send a zip or a tar instead",
    b"\x28\xb5\x2f\xfd": "compressed by zstd, which is not read here; send a zip or a tar.gz instead",
}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file: its clean path and content, or its name as found and the reason why it is left out."""

    path: str
    content: bytes = b""
    problem: str | None = None


def archive_files(path: Path, limits: IngestLimits) -> Generator[SourceFile]:
    """The files of a zip or tar archive (plain, gz, bz2, xz), told apart by content, not by name.

    Raises :class:`DatasetRejected` for anything else, for a damaged archive and for a bomb.
    """
    with path.open("rb") as file:
        head = file.read(512)
    for magic, kind in _REFUSED_KINDS.items():
        if head.startswith(magic):
            raise DatasetRejected(f"the file is {kind}")
    if looks_like_tar(head):
        return _tar_files(path, limits)
    if zipfile.is_zipfile(path):
        return _zip_files(path, limits)
    if head.startswith(b"PK"):
        raise DatasetRejected("the zip archive is cut off: its directory is missing; upload it again")
    raise DatasetRejected("the file is not an archive that is read here; send a zip or a tar (plain, gz, bz2 or xz)")


def folder_files(folder: Path, limits: IngestLimits) -> Generator[SourceFile]:
    """The files below a folder of one's own machine; linked files are read, linked folders are not entered."""
    if not folder.is_dir():
        raise DatasetRejected(f"{folder} is not a folder")
    budget = Budget(limits, packed_bytes=None)
    for parent, folders, names in os.walk(folder):
        folders.sort()
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in sorted(names) + links:
            found = Path(parent, name)
            file = _folder_file(found, found.relative_to(folder).as_posix(), limits, budget)
            if file is not None:
                yield file


def _folder_file(found: Path, name: str, limits: IngestLimits, budget: Budget) -> SourceFile | None:
    budget.count_file()
    try:
        path = clean_path(name)
        if path is None:
            return None
        status = found.stat()
        _check_ordinary(status.st_mode)
        check_kind(path)
        _check_file_size(status.st_size, limits)
        budget.count_bytes(status.st_size)
        return SourceFile(path, found.read_bytes())
    except NotAccepted as reason:
        return SourceFile(shown(name), problem=str(reason))
    except OSError as error:  # a broken link, a file without read permission: the others are still good
        return SourceFile(shown(name), problem=f"the file cannot be read: {error.strerror}")


def _check_ordinary(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise NotAccepted("a linked folder is not entered; copy it")
    if not stat.S_ISREG(mode):
        raise NotAccepted("not an ordinary file")


def _check_file_size(num_bytes: int, limits: IngestLimits) -> None:
    if num_bytes > limits.max_file_bytes:
        raise NotAccepted(f"the file has {readable(num_bytes)}, at most {readable(limits.max_file_bytes)} are accepted")


# --- zip ----------------------------------------------------------------------------------------


class _CountedDirectory(BufferedReader):
    """Refuses a zip directory with too many entries before ``zipfile`` makes an object of each."""

    def __init__(self, path: Path, limits: IngestLimits) -> None:
        super().__init__(FileIO(path))
        self._limits = limits

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if data.count(_ENTRY_SIGNATURE) > self._limits.max_archive_files:
            raise too_many_files(self._limits)
        return data


def _zip_files(path: Path, limits: IngestLimits) -> Generator[SourceFile]:
    budget = Budget(limits, packed_bytes=path.stat().st_size)
    with _CountedDirectory(path, limits) as file:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise DatasetRejected(f"the zip archive is damaged ({error}); pack or upload it again") from error
        with archive:
            # Before anything is read: zipfile never reads more of a member than it declares.
            for entry in archive.infolist():
                budget.count_file()
                budget.count_bytes(entry.file_size)
            for entry in archive.infolist():
                found = _zip_file(archive, entry, limits)
                if found is not None:
                    yield found


def _zip_file(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limits: IngestLimits) -> SourceFile | None:
    name = _zip_name(entry)
    try:
        path = clean_path(name)
        if path is None or name.endswith(("/", "\\")):
            return None
        _check_zip_entry(entry)
        check_kind(path)
        _check_file_size(entry.file_size, limits)
        return SourceFile(path, _zip_content(archive, entry))
    except NotAccepted as reason:
        return SourceFile(shown(name), problem=str(reason))


def _zip_name(entry: zipfile.ZipInfo) -> str:
    """The entry's name; UTF-8 also where the archiver forgot to say so (``zipfile`` takes it for cp437)."""
    if entry.flag_bits & _UTF8_NAME:
        return entry.filename
    try:
        return entry.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return entry.filename


def _check_zip_entry(entry: zipfile.ZipInfo) -> None:
    mode = entry.external_attr >> 16  # zero where the archive was not made on Unix
    if stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
        raise NotAccepted(_SPECIAL)
    if entry.flag_bits & _ENCRYPTED:
        raise NotAccepted("the file is encrypted; pack without a password")
    if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        # zipfile's bzip2 and LZMA readers unpack without a bound on what one read may give.
        raise NotAccepted("the file is compressed by another method than deflate; pack the usual way")


def _zip_content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(entry) as stream:
            content = stream.read(entry.file_size)
            stream.read(1)  # the checksum is looked at when the end is reached
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise NotAccepted(f"the file is damaged in the archive: {error or 'it ends too early'}") from error
    if len(content) != entry.file_size:
        raise NotAccepted("the file is damaged in the archive: it is shorter than declared")
    return content


# --- tar ----------------------------------------------------------------------------------------


def _tar_files(path: Path, limits: IngestLimits) -> Generator[SourceFile]:
    for entry in tar_entries(path, limits):
        found = _tar_file(entry, limits)
        if found is not None:
            yield found


def _tar_file(entry: TarEntry, limits: IngestLimits) -> SourceFile | None:
    try:
        path = clean_path(entry.name)
        if path is None or entry.is_folder:
            return None
        _check_plain(entry)
        check_kind(path)
        _check_file_size(entry.size, limits)
        return SourceFile(path, entry.read())
    except NotAccepted as reason:
        return SourceFile(shown(entry.name), problem=str(reason))


def _check_plain(entry: TarEntry) -> None:
    if not entry.is_plain:
        raise NotAccepted(_SPECIAL)
