"""Tar archives read as a stream, so that a bomb is noticed while it unpacks and nothing is kept."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn, Protocol, Self, cast

from core.ingest.limits import Budget, IngestLimits
from core.ingest_errors import ArchiveBomb, ArchiveUnreadable

_GZIP, _BZIP2, _XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00"
_BLOCK = 512
_CHUNK = 1 << 20
_XZ_MEMORY = 256 * 1024**2  # xz -9 needs 65 MiB to unpack; the format allows 4 GiB
_MAX_EXTENSION = 64 * 1024  # of one header that only describes the next; a path has at most 4 KiB
_MAX_GLOBAL_HEADERS = 16
_EXTENSIONS = frozenset(
    {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class TarEntry:
    """One entry. ``read`` and ``copy_to`` give its content and work only until the next entry is asked for."""

    name: str
    size: int
    is_folder: bool
    is_plain: bool
    read: Callable[[], bytes]
    copy_to: Callable[[IO[bytes]], None]


def looks_like_tar(head: bytes) -> bool:
    """Whether a file that begins so is a tar archive, compressed or not."""
    if head.startswith((_GZIP, _BZIP2, _XZ)):
        return True
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")  # checks the header's checksum
    except tarfile.HeaderError:
        return False
    return True


def tar_entries(path: Path, limits: IngestLimits) -> Iterator[TarEntry]:
    """The entries of a tar archive, in its order.

    Raises :class:`core.errors.DatasetRejected` for a bomb, and for an archive that is damaged or cut off: unlike a
    zip's, its later files cannot be found then.
    """
    budget = Budget(limits, packed_bytes=path.stat().st_size)
    with _damage_told(), closing(_unpacked(path)) as unpacked:
        yield from _entries(_Metered(unpacked, budget), budget)


@contextmanager
def _damage_told() -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RecursionError) as error:
        # OSError: what gzip and bz2 raise for bad data; RecursionError: headers that describe headers for ever.
        raise ArchiveUnreadable(f"the tar archive is damaged or cut off ({error}); pack or upload it again") from error


def _entries(stream: _Metered, budget: Budget) -> Iterator[TarEntry]:
    headers = _guarded_headers()
    with tarfile.open(
        fileobj=cast("IO[bytes]", stream),
        mode="r|",
        bufsize=_CHUNK,
        tarinfo=headers,
        encoding="utf-8",
        errors="surrogateescape",
    ) as archive:
        for info in archive:
            archive.members = []  # type: ignore[attr-defined]  # else every entry is kept, for going back
            budget.count_file()
            # tarfile would go on reading at the end of the file for as many megabytes as a header states.
            budget.require_room(info.size)
            yield TarEntry(
                name=info.name,
                size=info.size,
                is_folder=info.isdir(),
                is_plain=info.isreg(),
                read=lambda info=info: _content(archive, info),  # type: ignore[misc]
                copy_to=lambda file, info=info: _copy(archive, info, file),  # type: ignore[misc]
            )
    if not headers.ended:  # tarfile takes a damaged header in the middle for the end, silently
        raise ArchiveUnreadable("the tar archive is damaged or cut off: its end mark is missing; upload it again")
    while stream.read(_CHUNK):  # to the end, where gzip and xz keep the checksum of it all
        pass


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    with _damage_told():
        stream = archive.extractfile(info)
        assert stream is not None  # asked for plain files alone
        return stream.read()


def _copy(archive: tarfile.TarFile, info: tarfile.TarInfo, file: IO[bytes]) -> None:
    stream = archive.extractfile(info)
    assert stream is not None  # asked for plain files alone
    while True:
        with _damage_told():
            block = stream.read(_CHUNK)
        if not block:
            return
        file.write(block)  # outside: a full disk is no damage of the archive


class _Headers(tarfile.TarInfo):
    """Set by the parser while it goes over the headers."""

    ended: bool = False


def _guarded_headers() -> type[_Headers]:
    """A header class of its own for one archive, which refuses headers that only eat memory."""

    class Guarded(_Headers):
        num_global = 0

        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
            cls.ended = cls.ended or (len(buf) == _BLOCK and not any(buf))
            header = super().frombuf(buf, encoding, errors)
            cls.num_global += header.type == tarfile.XGLTYPE
            if header.type == tarfile.GNUTYPE_SPARSE:
                cls.refuse_holes()
            too_large = header.type in _EXTENSIONS and header.size > _MAX_EXTENSION
            if too_large or cls.num_global > _MAX_GLOBAL_HEADERS:
                raise ArchiveBomb("the tar archive has headers of absurd size; pack ordinary files")
            return header

        @classmethod
        def refuse_holes(cls, *_: object) -> NoReturn:
            # Lists of holes grow while they are read, out of a few compressed bytes.
            raise ArchiveUnreadable("the tar archive has sparse files; pack it without --sparse")

        # What tarfile calls at the three ways in which pax headers say it.
        _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = refuse_holes

    return Guarded


def _unpacked(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        head = file.read(_BLOCK)
    if head.startswith(_GZIP):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if head.startswith(_BZIP2):
        return cast("IO[bytes]", bz2.open(path, "rb"))
    if head.startswith(_XZ):
        return cast("IO[bytes]", io.BufferedReader(_Xz(path), _CHUNK))
    return path.open("rb")


class _Metered:
    """Counts every byte that comes out of the decompressor, skipped ones too."""

    def __init__(self, stream: _Readable, budget: Budget) -> None:
        self._stream = stream
        self._budget = budget

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._budget.count_bytes(len(data))
        return data


class _Xz(io.RawIOBase):
    """An xz file unpacked within a fixed memory, which ``lzma.open`` cannot be told."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("rb")
        self._decompressor = self._new()

    @staticmethod
    def _new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        while True:
            if self._decompressor.eof:  # an xz file may be several streams, one behind another
                rest = self._decompressor.unused_data.lstrip(b"\0") or self._file.read(_CHUNK).lstrip(b"\0")
                if not rest:
                    return 0
                self._decompressor = self._new()
            elif self._decompressor.needs_input:
                rest = self._file.read(_CHUNK)
                if not rest:
                    raise EOFError("the compressed data ends too early")
            else:
                rest = b""
            data = self._decompressor.decompress(rest, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
