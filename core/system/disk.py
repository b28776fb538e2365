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

# Errors of the disk, not of the program.
DISK_ERRORS = {
    errno.ENOSPC: "the disk is full; make room, then retry the job",
    errno.EDQUOT: "the disk quota is exceeded; free space or raise the quota, then retry the job",
    errno.EFBIG: "the file exceeds the file size limit; raise the limit, then retry the job",
    errno.EROFS: "the disk is read-only; make it writable, then retry the job",
    errno.EACCES: "the service's user has no access to this file or folder; fix its owner or mode, then retry the job",
    errno.EPERM: "the service's user has no permission for this; fix the owner or mode, then retry the job",
    errno.ENODEV: "the disk is not available; mount it again, then retry the job",
    errno.ENOTCONN: "the disk's server is not connected; mount the disk again, then retry the job",
    errno.ESTALE: "the disk's file handle is stale; mount the disk again, then retry the job",
    errno.EIO: "the disk failed; repair or replace it, then retry the job",
}


@contextmanager
def writing(name: str, *library_errors: type[Exception]) -> Iterator[None]:
    """Raise ``StorageFailed`` if ``name`` cannot be written: for an OSError, or for a library's own write error."""
    errors: tuple[type[Exception], ...] = (OSError, *library_errors)
    try:
        yield
    except errors as error:
        raise StorageFailed(f"{name} cannot be written: {disk_error_reason(error)}.") from error


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
            fsync(temporary)
        temporary.replace(path)
    except BaseException:
        _remove(temporary)
        raise


def write_atomic(path: Path, content: bytes, *, durable: bool = True, mode: int = 0o666) -> None:
    """Write a file so that it is complete or absent. Raises ``StorageFailed``.

    The file has ``mode`` (minus the umask) from its creation on, so that secrets are never readable by others.
    """
    with writing(path.name), atomic_path(path, durable=durable, unique=False) as temporary:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
        fault_point("file.written")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):  # the error of the write is the one to report
        path.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Call ``fsync`` on a file, or on a folder to make its names durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def disk_error_reason(error: Exception) -> str:
    """Return the reason of a disk error and its fix."""
    if not isinstance(error, OSError):
        return f"{error}; check whether the disk is full or read-only, then retry the job"
    return DISK_ERRORS.get(error.errno or 0) or str(error)
