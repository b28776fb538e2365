"""What a file is, from its first bytes: the wrong kind is refused before it has been received."""

from __future__ import annotations

from core.errors import UnsupportedMedia

_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")  # a tar may be inside: the ingest worker sees
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_PARQUET = b"PAR1"
_TAR_HEADER_BYTES = 512
_TAR_CHECKSUM = slice(148, 156)
# Real ones have some hundred kilobytes. The format allows 100 MB, which would fill this process.
_MAX_WEIGHTS_HEADER_BYTES = 8 * 1024 * 1024


def require_archive(head: bytes) -> None:
    """Accept the beginning of a zip, a tar or a Parquet file. Raises :class:`UnsupportedMedia`."""
    if not (head.startswith((*_ZIP, *_COMPRESSED, _PARQUET)) or _is_tar(head)):
        raise UnsupportedMedia(
            "The file is neither a zip nor a tar (plain, gz, bz2 or xz) nor Parquet. Pack an image folder "
            "(train/CLASS/*.jpg, test/ beside it) into one and send that."
        )


def require_weights(head: bytes) -> None:
    """Accept the beginning of a safetensors file. Raises :class:`UnsupportedMedia`; a pickle is never opened."""
    length = int.from_bytes(head[:8], "little")
    if len(head) > 8 and head[8:9] == b"{" and length <= _MAX_WEIGHTS_HEADER_BYTES:
        return
    what = "a pickle or an archive" if head.startswith((b"\x80", b"PK", b"\x1f\x8b")) else "not a safetensors file"
    raise UnsupportedMedia(
        f"The file is {what}. Only safetensors is read here: save the weights with "
        "safetensors.torch.save_file and send that file."
    )


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
