"""Detect a file's type from its first bytes."""

from __future__ import annotations

_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")  # may contain a tar; only decompression shows it
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_PARQUET = b"PAR1"
_TAR_HEADER_BYTES = 512
_TAR_CHECKSUM = slice(148, 156)

UNSUPPORTED_MESSAGE = (
    "The file is not a zip, a tar (plain, gz, bz2 or xz) or a Parquet file. Pack an image folder "
    "(train/CLASS/*.jpg and test/CLASS/*.jpg) into one of these and send it."
)


def may_be_archive(head: bytes) -> bool:
    """Whether a file with this beginning may be a zip, a tar or Parquet. ``head``: at least the first 512 bytes."""
    return head.startswith((*_ZIP, *_COMPRESSED, _PARQUET)) or _is_tar(head)


def _is_tar(head: bytes) -> bool:
    """Whether the first block has a valid tar checksum; also recognizes archives without the ``ustar`` magic."""
    if len(head) < _TAR_HEADER_BYTES:
        return False
    block = bytearray(head[:_TAR_HEADER_BYTES])
    checksum = bytes(block[_TAR_CHECKSUM]).strip(b" \0")
    block[_TAR_CHECKSUM] = b" " * 8
    try:
        return int(checksum, 8) == sum(block)
    except ValueError:
        return False
