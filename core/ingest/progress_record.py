"""The progress of a sandboxed ingestion: a record at the start of a file that both processes hold open."""

from __future__ import annotations

import os
import struct

_RECORD = struct.Struct("<qq")
_UNKNOWN = -1
_MAX_COUNT = 2**53  # exact in JSON


def write_progress(descriptor: int, processed: int, total: int | None) -> None:
    """Overwrite the record: files read, and their total if it is known."""
    os.pwrite(descriptor, _RECORD.pack(processed, _UNKNOWN if total is None else total), 0)


def read_progress(descriptor: int) -> tuple[int, int | None] | None:
    """Return the files read and their total; None if there is no valid record. The writer is not trusted."""
    content = os.pread(descriptor, _RECORD.size, 0)
    if len(content) < _RECORD.size:
        return None
    processed, total = _RECORD.unpack(content)
    if not 0 <= processed <= _MAX_COUNT:
        return None
    return processed, total if processed <= total <= _MAX_COUNT else None
