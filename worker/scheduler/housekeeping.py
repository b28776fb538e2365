"""Deletion of scratch folders and cache entries on this machine."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
from sqlalchemy import select

from core.store.db import Database
from core.store.outbound_tables import OutboundTask
from core.store.tables import Dataset, Job, Model, status_is
from core.system.disk_cache import DiskCache

MIN_AGE_SECONDS = 300.0  # a newer folder may belong to a row that is being claimed
_ATTEMPT_SUFFIX = re.compile(r"(-wrk_\w+)?-a\d+$")  # of a job's own worker, or of one that fills the teacher cache

log = structlog.get_logger(__name__)


def prune_scratch(database: Database, home: Path) -> list[str]:
    """Delete the scratch folders of rows that no worker processes; return their names."""
    min_mtime = time.time() - MIN_AGE_SECONDS
    folders = {path.name: path for path in _list_dir(home / "work") if _mtime(path) < min_mtime}
    if not folders:
        return []
    with database.read() as session:
        busy = set(session.scalars(select(Job.id).where(status_is("running"))))
        for table in (Dataset, Model):
            busy |= set(session.scalars(select(table.id).where(table.status == "processing")))
        busy |= set(session.scalars(select(OutboundTask.id).where(OutboundTask.status == "pending")))
    idle = [name for name in folders if _ATTEMPT_SUFFIX.sub("", name) not in busy]
    for name in idle:
        shutil.rmtree(folders[name], ignore_errors=True)
    return idle


def prune_cache(cache: Path, max_bytes: int) -> int:
    """Delete the least recently used items until the cache has at most ``max_bytes``; return the deleted bytes.

    An entry of a disk cache is deleted completely, and never while a job uses it. A file that a job has mapped stays
    readable for that job.
    """
    disk_caches = [folder for folder in _list_dir(cache) if any(folder.glob("*.lock"))]  # each entry has a lock file
    items = (*_cache_entries(disk_caches), *_files(cache, disk_caches))
    cached_bytes = deleted_bytes = 0
    for item in sorted(items, key=lambda item: item.used_at, reverse=True):
        cached_bytes += item.num_bytes
        if cached_bytes > max_bytes and item.used_at < time.time() - MIN_AGE_SECONDS and item.delete():
            cached_bytes -= item.num_bytes
            deleted_bytes += item.num_bytes
    return deleted_bytes


@dataclass(frozen=True, slots=True)
class _Item:
    """A cache entry or a file. ``delete`` returns whether it was deleted."""

    used_at: float
    num_bytes: int
    delete: Callable[[], bool]


def _list_dir(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _cache_entries(roots: Iterable[Path]) -> Iterator[_Item]:
    for root in roots:
        disk_cache = DiskCache(root, max_bytes=0)
        for key, num_bytes in disk_cache.sizes().items():
            yield _Item(disk_cache.last_used(key), num_bytes, partial(disk_cache.evict, key))


def _files(cache: Path, disk_caches: Collection[Path]) -> Iterator[_Item]:
    for path in cache.rglob("*"):
        try:
            stat = path.lstat()
        except FileNotFoundError:
            continue
        if path.is_file() and not path.is_symlink() and not any(path.is_relative_to(root) for root in disk_caches):
            yield _Item(max(stat.st_atime, stat.st_mtime), stat.st_size, partial(_unlink, path))


def _unlink(path: Path) -> bool:
    path.unlink(missing_ok=True)
    return True
