"""File type checks on the first bytes of an upload, so a wrong type is rejected before the rest is received."""

from __future__ import annotations

from core.errors import UnsupportedMedia
from core.ingest.file_types import UNSUPPORTED_MESSAGE, may_be_archive
from core.ingest_errors import ModelNotSafetensors

# Real headers have a few hundred kilobytes. The format allows 100 MB, which would exhaust this process's memory.
_MAX_WEIGHTS_HEADER_BYTES = 8 * 1024 * 1024


def require_archive(head: bytes) -> None:
    """Check that a file starts as a zip, tar or Parquet file does. Raises :class:`UnsupportedMedia`."""
    if not may_be_archive(head):
        raise UnsupportedMedia(UNSUPPORTED_MESSAGE)


def require_weights(head: bytes) -> None:
    """Check that a file starts as a safetensors file does. Raises :class:`ModelNotSafetensors`.

    A pickle is never opened.
    """
    length = int.from_bytes(head[:8], "little")
    if len(head) > 8 and head[8:9] == b"{" and length <= _MAX_WEIGHTS_HEADER_BYTES:
        return
    kind = "a pickle or an archive" if head.startswith((b"\x80", b"PK", b"\x1f\x8b")) else "not a safetensors file"
    raise ModelNotSafetensors(
        f"The file is {kind}. Only safetensors files are accepted: save the weights with "
        "safetensors.torch.save_file and send that file."
    )
