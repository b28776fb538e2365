"""Folders on this machine that nobody needs any more."""

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
from core.store.tables import Dataset, Job, Model, status_is
from core.system.disk_cache import DiskCache

YOUNG_SECONDS = 300.0  # a folder that was touched just now may belong to work that is being claimed
_ATTEMPT = re.compile(r"-a\d+$")

log = structlog.get_logger(__name__)


def clean_scratch(database: Database, home: Path) -> list[str]:
    """Remove the scratch folders of what is not at work any more; returns their names."""
    before = time.time() - YOUNG_SECONDS
    folders = {path.name: path for path in _entries(home / "work") if _touched(path) < before}
    if not folders:
        return []
    with database.read() as session:
        busy = set(session.scalars(select(Job.id).where(status_is("running"))))
        for table in (Dataset, Model):
            busy |= set(session.scalars(select(table.id).where(table.status == "processing")))
    idle = [name for name in folders if _ATTEMPT.sub("", name) not in busy]
    for name in idle:
        shutil.rmtree(folders[name], ignore_errors=True)
    return idle


def shrink_cache(cache: Path, max_bytes: int) -> int:
    """Delete what was used longest ago until the cache is no larger; returns the bytes won.

    An entry of a shared folder goes as a whole, and never while a job uses it; a file that a job has mapped stays
    readable for it.
    """
    shared = [folder for folder in _entries(cache) if any(folder.glob("*.lock"))]  # an entry has its lock beside it
    pieces = sorted((*_shared(shared), *_files(cache, shared)), key=lambda piece: piece.used_at, reverse=True)
    kept = won = 0
    for piece in pieces:
        kept += piece.num_bytes
        if kept > max_bytes and piece.used_at < time.time() - YOUNG_SECONDS and piece.delete():
            kept -= piece.num_bytes
            won += piece.num_bytes
    return won


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is deleted at once. ``delete`` says whether it is gone."""

    used_at: float
    num_bytes: int
    delete: Callable[[], bool]


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _touched(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _shared(roots: Iterable[Path]) -> Iterator[_Piece]:
    for root in roots:
        shared = DiskCache(root, max_bytes=0)
        for key, num_bytes in shared.sizes().items():
            yield _Piece(shared.used_at(key), num_bytes, partial(shared.evict, key))


def _files(cache: Path, shared: Collection[Path]) -> Iterator[_Piece]:
    for path in cache.rglob("*"):
        try:
            facts = path.lstat()
        except FileNotFoundError:
            continue
        if path.is_file() and not path.is_symlink() and not any(path.is_relative_to(root) for root in shared):
            yield _Piece(max(facts.st_atime, facts.st_mtime), facts.st_size, partial(_unlink, path))


def _unlink(path: Path) -> bool:
    path.unlink(missing_ok=True)
    return True
