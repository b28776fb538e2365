"""``potstill-server backup``: a copy of everything that the service keeps, taken while it runs.

The database is the truth, so its snapshot decides what belongs to a backup: every file that it names. Named files
never change, but a job that goes on replaces its checkpoints, so that a file of the snapshot may be deleted before
it is copied. Therefore most is copied first; then a transaction that only reads holds the snapshot still, what is
new since is copied, and the database is written out last, which may take long. Where a file slipped away between
snapshot and copy, a newer snapshot is taken.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy import func, make_url, select
from sqlalchemy.orm import Session

from core.errors import PotstillError, StorageFailed
from core.settings import Settings
from core.store.artifact_store import ArtifactStore, StoredFile, check_key
from core.store.engine import is_sqlite, make_engine, sqlite_file
from core.store.garbage import referenced_files
from core.store.storage_url import open_store
from server.home_lock import lock_home

SQLITE_FILE = "potstill.db"  # as in a home, so that a backup is one
POSTGRESQL_FILE = "potstill.dump"
ARTIFACTS = "artifacts"
MOST_SNAPSHOTS = 10  # should a file slip away each time

Named = Mapping[str, StoredFile | None]

log = structlog.get_logger(__name__)


class BackupFailed(PotstillError):
    """A backup could not be completed; the one that was there before is still whole."""

    code = "backup_failed"
    title = "The backup could not be completed"


@dataclass(frozen=True, slots=True)
class Backup:
    """What a finished backup holds. ``num_copied``: the other files were there, from a backup before."""

    num_files: int
    num_copied: int
    num_bytes: int


def back_up(settings: Settings, folder: Path) -> Backup:
    """Back up database and artefacts into ``folder``; what is there from an earlier backup is not copied again.

    On SQLite the folder is then a home: ``potstill-server up --home`` starts from it. On PostgreSQL it holds a
    ``pg_dump`` beside the artefacts. No key and no secret is in it, but all data are, so only its owner may read it.
    Raises :class:`BackupFailed`, and :class:`~server.home_lock.CannotStart` where a stack runs on the folder.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock_home(folder):
        return _back_up(settings, folder)


def _back_up(settings: Settings, folder: Path) -> Backup:
    url = settings.resolved_database_url()
    _require_database(url)
    snapshot = _sqlite_snapshot if is_sqlite(url) else _postgresql_snapshot
    source = open_store(settings.resolved_storage_url())
    target = open_store(f"file://{(folder / ARTIFACTS).resolve()}")
    copied, _ = _copy(source, target, folder, _named_now(url))
    for _ in range(MOST_SNAPSHOTS):
        with snapshot(url) as (named, write):
            more, missing = _copy(source, target, folder, named)
            copied += more
            if missing:
                log.info("backup.again", missing=len(missing), first=missing[0])
                continue
            write(folder)
        num_bytes = _forget_others(target, folder, named)
        return Backup(len(named), copied, num_bytes)
    raise BackupFailed(
        f"{len(missing)} files that the database names are not in the store, first {missing[0]}. A running job may "
        "have replaced it just now: try again. If it is the same file again, the store has lost it."
    )


def _require_database(url: str) -> None:
    """SQLite would make an empty one where there is none."""
    file = sqlite_file(url)
    if is_sqlite(url) and (file is None or not file.is_file()):
        raise BackupFailed(f"There is no database at {file}; give the service's folder with --home.")


def _named_now(url: str) -> Named:
    engine = make_engine(url)
    try:
        with Session(engine) as session:
            return referenced_files(session)
    finally:
        engine.dispose()


def _copy(source: ArtifactStore, target: ArtifactStore, folder: Path, named: Named) -> tuple[int, list[str]]:
    """Copy what the target does not have; how many files that were, and which are nowhere."""
    copied, missing = 0, []
    for key, file in sorted(named.items()):
        there = target.size(key)
        if there is not None and (file is None or there == file.size_bytes):
            continue  # whole, and nothing under a key ever changes
        try:
            source.fetch(key, folder / ARTIFACTS / check_key(key), sha256=None if file is None else file.sha256)
        except StorageFailed as error:
            if source.size(key) is not None:
                raise BackupFailed(f"{error.detail} The backup that was there before is still whole.") from error
            missing.append(key)
        else:
            copied += 1
    return copied, missing


def _forget_others(target: ArtifactStore, folder: Path, named: Named) -> int:
    """Delete what only an earlier backup named, or one that did not end; how many bytes are left."""
    for listed in list(target.list_prefix()):
        if listed.key not in named:
            target.delete(listed.key)
    for partial in (folder / ARTIFACTS).rglob(".*.*"):
        partial.unlink(missing_ok=True)
    return sum(listed.size_bytes for listed in target.list_prefix())


# --- the database at one moment ---------------------------------------------------------------------

Snapshot = tuple[Named, Callable[[Path], None]]  # the files that it names, and what writes it into a folder


@contextmanager
def _sqlite_snapshot(url: str) -> Iterator[Snapshot]:
    engine = make_engine(url)
    try:
        # In WAL mode a transaction goes on reading what it saw first, and lets others write.
        with engine.connect().execution_options(rw=False) as connection, Session(connection) as session:
            named = referenced_files(session)
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            yield named, lambda folder: _write_sqlite(driver, folder)
    finally:
        engine.dispose()


def _write_sqlite(connection: sqlite3.Connection, folder: Path) -> None:
    partial, final = folder / f".{SQLITE_FILE}", folder / SQLITE_FILE
    partial.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(partial)) as copy:
            connection.backup(copy)
            (verdict,) = copy.execute("PRAGMA integrity_check").fetchone()
        if verdict != "ok":
            raise BackupFailed(f"The copy of the database is damaged: {verdict[:200]}")
        os.sync()  # what the database names, and the database, before it is called by its name
        for beside in ("-wal", "-shm"):  # of the database that goes: they would be taken for the new one's
            final.with_name(final.name + beside).unlink(missing_ok=True)
        partial.replace(final)
    finally:
        for left in (partial, *(partial.with_name(partial.name + end) for end in ("-wal", "-shm", "-journal"))):
            left.unlink(missing_ok=True)


@contextmanager
def _postgresql_snapshot(url: str) -> Iterator[Snapshot]:
    program = shutil.which("pg_dump")
    if program is None:
        raise BackupFailed("A backup of PostgreSQL needs its `pg_dump`, of the server's version or newer, on the PATH.")
    engine = make_engine(url)
    try:
        # The dump sees what this transaction sees, and so what it reads of the files.
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            moment = connection.execute(select(func.pg_export_snapshot())).scalar_one()
            with Session(connection) as session:
                named = referenced_files(session)
                yield named, lambda folder: _write_postgresql(program, url, moment, folder)
    finally:
        engine.dispose()


def _write_postgresql(program: str, url: str, moment: str, folder: Path) -> None:
    partial = folder / f".{POSTGRESQL_FILE}"
    try:
        _dump(program, url, moment, partial)
        os.sync()
        partial.replace(folder / POSTGRESQL_FILE)
    finally:
        partial.unlink(missing_ok=True)


def _dump(program: str, url: str, moment: str, file: Path) -> None:
    parts = make_url(url)
    # The password goes by the environment: everybody on the machine can read command lines.
    environment = os.environ | ({"PGPASSWORD": str(parts.password)} if parts.password else {})
    address = parts.set(drivername="postgresql")._replace(password=None).render_as_string(hide_password=False)
    command = [program, "--format=custom", "--no-owner", f"--snapshot={moment}", f"--file={file}", address]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if run.returncode != 0:
        raise BackupFailed(f"pg_dump failed: {run.stderr.strip()[-500:]}")
