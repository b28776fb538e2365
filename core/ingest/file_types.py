"""What kind of file something is, from its first bytes. Nothing beyond them is looked at."""

from __future__ import annotations

_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")  # a tar may be inside: who unpacks it sees
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_PARQUET = b"PAR1"
_TAR_HEADER_BYTES = 512
_TAR_CHECKSUM = slice(148, 156)

WANTED = (
    "The file is neither a zip nor a tar (plain, gz, bz2 or xz) nor Parquet. Pack an image folder "
    "(train/CLASS/*.jpg, test/ beside it) into one and send that."
)


def may_be_archive(head: bytes) -> bool:
    """Whether a file that begins so may be a zip, a tar or Parquet; a kilobyte is enough to see."""
    return head.startswith((*_ZIP, *_COMPRESSED, _PARQUET)) or _is_tar(head)


def _is_tar(head: bytes) -> bool:
    """Whether the first block carries tar's own checksum (also of archives older than the ``ustar`` mark)."""
    if len(head) < _TAR_HEADER_BYTES:
        return False
    block = bytearray(head[:_TAR_HEADER_BYTES])
    stated = bytes(block[_TAR_CHECKSUM]).strip(b" \0")
    block[_TAR_CHECKSUM] = b" " * 8
    try:
        return int(stated, 8) == sum(block)
    except ValueError:
        return False
