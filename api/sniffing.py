"""What a file is, from its first bytes: the wrong kind is refused before it has been received."""

from __future__ import annotations

from core.errors import UnsupportedMedia
from core.ingest.file_types import WANTED, may_be_archive
from core.ingest_errors import ModelNotSafetensors

# Real ones have some hundred kilobytes. The format allows 100 MB, which would fill this process.
_MAX_WEIGHTS_HEADER_BYTES = 8 * 1024 * 1024


def require_archive(head: bytes) -> None:
    """Accept the beginning of a zip, a tar or a Parquet file. Raises :class:`UnsupportedMedia`."""
    if not may_be_archive(head):
        raise UnsupportedMedia(WANTED)


def require_weights(head: bytes) -> None:
    """Accept the beginning of a safetensors file. Raises :class:`ModelNotSafetensors`; a pickle is never opened."""
    length = int.from_bytes(head[:8], "little")
    if len(head) > 8 and head[8:9] == b"{" and length <= _MAX_WEIGHTS_HEADER_BYTES:
        return
    what = "a pickle or an archive" if head.startswith((b"\x80", b"PK", b"\x1f\x8b")) else "not a safetensors file"
    raise ModelNotSafetensors(
        f"The file is {what}. Only safetensors is read here: save the weights with "
        "safetensors.torch.save_file and send that file."
    )
