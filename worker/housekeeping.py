"""Folders on this machine that nobody needs any more."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import structlog
from sqlalchemy import select

from core.store.db import Database
from core.store.tables import Dataset, Job, Model, is_now

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
        busy = set(session.scalars(select(Job.id).where(is_now("running"))))
        for table in (Dataset, Model):
            busy |= set(session.scalars(select(table.id).where(table.status == "processing")))
    idle = [name for name in folders if _ATTEMPT.sub("", name) not in busy]
    for name in idle:
        shutil.rmtree(folders[name], ignore_errors=True)
    return idle


def shrink_cache(cache: Path, max_bytes: int) -> int:
    """Delete the files that were used longest ago until the cache is no larger; returns the bytes won.

    A file that a job has mapped stays readable for it.
    """
    files = sorted(((max(f.st_atime, f.st_mtime), f.st_size, path) for path, f in _files(cache)), reverse=True)
    kept = won = 0
    for used_at, size, path in files:
        kept += size
        if kept > max_bytes and used_at < time.time() - YOUNG_SECONDS:
            path.unlink(missing_ok=True)
            kept -= size
            won += size
    return won


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _touched(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.rglob("*"):
        try:
            facts = path.lstat()
        except FileNotFoundError:
            continue
        if path.is_file() and not path.is_symlink():
            yield path, facts
