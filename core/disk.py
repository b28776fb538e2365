"""What a disk refuses, as the one error that a job ends with; and what it is to keep for good."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import StorageFailed

# What the disk is to blame for, and not the program.
REFUSALS = {
    errno.ENOSPC: "the disk is full; make room, then retry the job",
    errno.EDQUOT: "the disk's quota is used up; make room, then retry the job",
    errno.EFBIG: "the file is larger than may be written; raise the limit, then retry the job",
    errno.EROFS: "the disk is read-only; make it writable, then retry the job",
    errno.EACCES: "the service's user may not use this file or folder; set its owner or mode right, then retry the job",
    errno.EPERM: "the service's user may not do this here; set the owner or mode right, then retry the job",
    errno.ENODEV: "the disk is gone; mount it again, then retry the job",
    errno.ENOTCONN: "the disk's server is gone; mount it again, then retry the job",
    errno.ESTALE: "the disk's server forgot it; mount it again, then retry the job",
    errno.EIO: "the disk failed; repair or replace it, then retry the job",
}


@contextmanager
def writing(what: str, *also: type[Exception]) -> Iterator[None]:
    """Raise ``StorageFailed`` where ``what`` cannot be written. ``also``: what a library raises instead of OSError."""
    refusals: tuple[type[Exception], ...] = (OSError, *also)
    try:
        yield
    except refusals as error:
        raise StorageFailed(f"{what} cannot be written: {why(error)}.") from error


def sync(path: Path) -> None:
    """Make a file's bytes, or the names in a folder, durable."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def why(error: Exception) -> str:
    """Why a disk refused, and what to do about it."""
    if not isinstance(error, OSError):
        return f"{error}; see whether the disk is full or read-only, then retry the job"
    return REFUSALS.get(error.errno or 0) or str(error)
