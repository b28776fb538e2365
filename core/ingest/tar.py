"""Read tar archives as a stream, so that a decompression bomb is detected while unpacking."""

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

from core.ingest.limits import UnpackBudget
from core.ingest_errors import ArchiveBomb, ArchiveUnreadable

_GZIP, _BZIP2, _XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00"
_BLOCK_BYTES = 512
_CHUNK_BYTES = 1 << 20
_MAX_XZ_MEMORY_BYTES = 256 * 1024**2  # xz -9 needs 65 MiB; the format allows 4 GiB
_MAX_EXTENSION_BYTES = 64 * 1024  # one extension header; a path has at most 4 KiB
_MAX_GLOBAL_HEADERS = 16
_EXTENSIONS = frozenset(
    {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
)


class _ByteSource(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class TarEntry:
    """One entry. ``read`` and ``copy_to`` return its content and are valid until the next entry is read."""

    name: str
    size: int
    is_folder: bool
    is_regular: bool
    read: Callable[[], bytes]
    copy_to: Callable[[IO[bytes]], None]


def looks_like_tar(head: bytes) -> bool:
    """Whether a file with this beginning is a tar archive, compressed or not."""
    if head.startswith((_GZIP, _BZIP2, _XZ)):
        return True
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")  # checks the header's checksum
    except tarfile.HeaderError:
        return False
    return True


def tar_entries(source: Path | IO[bytes], budget: UnpackBudget) -> Iterator[TarEntry]:
    """Iterate over the entries of a tar archive in archive order; a file object is read as a plain tar.

    Raises :class:`core.errors.DatasetRejected` for a decompression bomb and for a damaged or truncated archive.
    Unlike in a zip, files after the damage cannot be located.
    """
    with _translate_errors(), closing(_open_decompressed(source)) as stream:
        yield from _entries(_MeteredStream(stream, budget), budget)


@contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RecursionError) as error:
        # OSError: gzip and bz2 raise it for bad data. RecursionError: an endless chain of extension headers.
        raise ArchiveUnreadable(
            f"the tar archive is damaged or truncated ({error}); pack or upload it again"
        ) from error


def _entries(stream: _MeteredStream, budget: UnpackBudget) -> Iterator[TarEntry]:
    headers = _bounded_header_class()
    with tarfile.open(
        fileobj=cast("IO[bytes]", stream),
        mode="r|",
        bufsize=_CHUNK_BYTES,
        tarinfo=headers,
        encoding="utf-8",
        errors="surrogateescape",
    ) as archive:
        for info in archive:
            archive.members = []  # type: ignore[attr-defined]  # otherwise tarfile retains every entry
            budget.count_file()
            # tarfile tries to read as many bytes as a header declares, even at the end of the file.
            budget.check_bytes(info.size)
            yield TarEntry(
                name=info.name,
                size=info.size,
                is_folder=info.isdir(),
                is_regular=info.isreg(),
                read=lambda info=info: _content(archive, info),  # type: ignore[misc]
                copy_to=lambda file, info=info: _copy(archive, info, file),  # type: ignore[misc]
            )
    if not headers.ended:  # tarfile treats a damaged header as the end of the archive
        raise ArchiveUnreadable("the tar archive is damaged or truncated: its end mark is missing; upload it again")
    while stream.read(_CHUNK_BYTES):  # gzip and xz verify their checksum at the end of the stream
        pass


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    with _translate_errors():
        stream = archive.extractfile(info)
        assert stream is not None  # called for regular files only
        return stream.read()


def _copy(archive: tarfile.TarFile, info: tarfile.TarInfo, file: IO[bytes]) -> None:
    stream = archive.extractfile(info)
    assert stream is not None  # called for regular files only
    while True:
        with _translate_errors():
            block = stream.read(_CHUNK_BYTES)
        if not block:
            return
        file.write(block)  # outside the block: a full disk is not a damaged archive


class _HeaderClass(tarfile.TarInfo):
    """Tar header class that records whether the end of the archive was read."""

    ended: bool = False


def _bounded_header_class() -> type[_HeaderClass]:
    """Create a header class for one archive that rejects headers with excessive memory use."""

    class BoundedHeader(_HeaderClass):
        num_global = 0

        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
            cls.ended = cls.ended or (len(buf) == _BLOCK_BYTES and not any(buf))
            header = super().frombuf(buf, encoding, errors)
            cls.num_global += header.type == tarfile.XGLTYPE
            if header.type == tarfile.GNUTYPE_SPARSE:
                cls.reject_sparse()
            too_large = header.type in _EXTENSIONS and header.size > _MAX_EXTENSION_BYTES
            if too_large or cls.num_global > _MAX_GLOBAL_HEADERS:
                raise ArchiveBomb("the tar archive has too large or too many extension headers; pack ordinary files")
            return header

        @classmethod
        def reject_sparse(cls, *_: object) -> NoReturn:
            # Hole lists expand from a few compressed bytes while they are read.
            raise ArchiveUnreadable("the tar archive has sparse files; pack it without --sparse")

        # tarfile's hooks for the three pax formats of sparse files.
        _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = reject_sparse

    return BoundedHeader


def _open_decompressed(path: Path | IO[bytes]) -> IO[bytes]:
    if not isinstance(path, Path):
        return path
    with path.open("rb") as file:
        head = file.read(_BLOCK_BYTES)
    if head.startswith(_GZIP):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if head.startswith(_BZIP2):
        return cast("IO[bytes]", bz2.open(path, "rb"))
    if head.startswith(_XZ):
        return cast("IO[bytes]", io.BufferedReader(_XzStream(path), _CHUNK_BYTES))
    return path.open("rb")


class _MeteredStream:
    """Counts every decompressed byte, including skipped ones."""

    def __init__(self, stream: _ByteSource, budget: UnpackBudget) -> None:
        self._stream = stream
        self._budget = budget

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._budget.count_bytes(len(data))
        return data


class _XzStream(io.RawIOBase):
    """An xz stream with a memory limit, which ``lzma.open`` does not support."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("rb")
        self._decompressor = self._new_decompressor()

    @staticmethod
    def _new_decompressor() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MAX_XZ_MEMORY_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        while True:
            if self._decompressor.eof:  # an xz file may contain several concatenated streams
                data_in = self._decompressor.unused_data.lstrip(b"\0") or self._file.read(_CHUNK_BYTES).lstrip(b"\0")
                if not data_in:
                    return 0
                self._decompressor = self._new_decompressor()
            elif self._decompressor.needs_input:
                data_in = self._file.read(_CHUNK_BYTES)
                if not data_in:
                    raise EOFError("unexpected end of compressed data")
            else:
                data_in = b""
            data = self._decompressor.decompress(data_in, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
