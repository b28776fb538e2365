"""Disk errors as ``StorageFailed``, and the one atomic write that every file and folder goes through."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.errors import StorageFailed
from core.system.fault_injection import fault_point

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


@contextmanager
def atomic_path(path: Path, *, durable: bool = True, unique: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; rename it to ``path`` when the block succeeds.

    Readers see the old content or the new one, never a part. When the block fails, the temporary file or folder is
    deleted. The block may write a file or a folder; a folder needs a ``path`` that is absent or empty.

    Args:
        path: Final path. Its parent exists.
        durable: Call ``fsync`` on a file before the rename, so that it survives a power cut.
        unique: Use a temporary name that no other writer has. Pass False where a lock admits one writer: the fixed
            name then overwrites what a killed writer left.
    """
    suffix = f"{os.getpid()}-{secrets.token_hex(4)}." if unique else ""
    temporary = path.with_name(f".{path.name}.{suffix}part")
    if not unique:
        _remove(temporary)
    try:
        yield temporary
        if durable and temporary.is_file():
            sync(temporary)
        temporary.replace(path)
    except BaseException:
        _remove(temporary)
        raise


def write_atomic(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file so that it is complete or absent. Raises ``StorageFailed``."""
    with writing(path.name), atomic_path(path, durable=durable, unique=False) as temporary:
        temporary.write_bytes(content)
        fault_point("file.written")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):  # the error of the write is the one to report
        path.unlink(missing_ok=True)


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
