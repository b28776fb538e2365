"""``potstill-server backup``: copy database and artifacts while the service runs.

A database snapshot defines the backup: it contains every file that the snapshot references. Referenced files never
change, but a running job replaces its checkpoints, so a file may be deleted before it is copied.

1. Copy all files that the database references now.
2. Open a read-only transaction (the snapshot) and copy the files that are new since step 1.
3. Write the database, which may take long.
4. If a file was deleted between snapshot and copy, repeat with a newer snapshot. A job deletes a file after it has
   removed the reference, so a file that is missing in two snapshots in a row is lost.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy import func, make_url, select
from sqlalchemy.orm import Session

from core.errors import PotstillError, StorageFailed
from core.settings import Settings
from core.store.artifact_store import ArtifactStore, StoredFile, check_key
from core.store.engine import is_sqlite, make_engine, sqlite_path
from core.store.garbage import referenced_files
from core.store.storage_url import open_store
from core.system.disk import atomic_path
from server.home_lock import lock_home

SQLITE_FILE = "potstill.db"  # the name in a home folder, so that a backup is a home folder
POSTGRESQL_FILE = "potstill.dump"
ARTIFACTS = "artifacts"
MAX_SNAPSHOTS = 100

ReferencedFiles = Mapping[str, StoredFile | None]  # by key

log = structlog.get_logger(__name__)


class BackupFailed(PotstillError):
    """The backup failed; the previous backup is unchanged."""

    code = "backup_failed"
    title = "The backup could not be completed"


@dataclass(frozen=True, slots=True)
class Backup:
    """Contents of a completed backup. ``num_copied`` excludes files from an earlier backup."""

    num_files: int
    num_copied: int
    num_bytes: int


def back_up(settings: Settings, folder: Path) -> Backup:
    """Back up database and artifacts into ``folder``; reuse files of an earlier backup.

    With SQLite the folder is a home folder for ``potstill-server up --home``. With PostgreSQL it contains a
    ``pg_dump`` and the artifacts. It contains all data but no keys or secrets; only its owner may read it.

    Raises:
        BackupFailed: The backup could not be completed.
        server.home_lock.CannotStart: A stack is running in ``folder``.
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
    copied, _ = _copy(source, target, folder, _referenced_files(url))
    missing: set[str] = set()
    for _ in range(MAX_SNAPSHOTS):
        with snapshot(url) as (referenced, write):
            _require_present(missing & referenced.keys())
            num_copied, missing = _copy(source, target, folder, referenced)
            copied += num_copied
            if missing:
                log.info("backup.snapshot_repeated", num_missing=len(missing), first_missing=min(missing))
                continue
            write(folder)
        num_bytes = _delete_unreferenced(target, folder, referenced)
        return Backup(len(referenced), copied, num_bytes)
    raise BackupFailed(
        f"Running jobs replaced files in each of {MAX_SNAPSHOTS} attempts before they were copied. Try again when "
        "fewer jobs run."
    )


def _require_present(lost: AbstractSet[str]) -> None:
    """Raise if files were missing before this snapshot, which still references them."""
    if lost:
        raise BackupFailed(
            f"The store has lost {len(lost)} files that the database references, first {min(lost)}. Restore them from "
            "an earlier backup, or delete the job or dataset they belong to."
        )


def _require_database(url: str) -> None:
    """Raise if the SQLite file is missing, because SQLite would create an empty one."""
    file = sqlite_path(url)
    if is_sqlite(url) and (file is None or not file.is_file()):
        raise BackupFailed(f"There is no database at {file}; give the service's folder with --home.")


def _referenced_files(url: str) -> ReferencedFiles:
    engine = make_engine(url)
    try:
        with Session(engine) as session:
            return referenced_files(session)
    finally:
        engine.dispose()


def _copy(
    source: ArtifactStore, target: ArtifactStore, folder: Path, referenced: ReferencedFiles
) -> tuple[int, set[str]]:
    """Copy files that the target does not have. Returns the number of copied files and the missing keys."""
    copied, missing = 0, set[str]()
    for key, file in sorted(referenced.items()):
        size_bytes = target.size(key)
        if size_bytes is not None and (file is None or size_bytes == file.size_bytes):
            continue  # complete; the content of a key never changes
        try:
            source.fetch(key, folder / ARTIFACTS / check_key(key), sha256=None if file is None else file.sha256)
        except StorageFailed as error:
            if source.size(key) is not None:
                raise BackupFailed(f"{error.detail} The previous backup is unchanged.") from error
            missing.add(key)
        else:
            copied += 1
    return copied, missing


def _delete_unreferenced(target: ArtifactStore, folder: Path, referenced: ReferencedFiles) -> int:
    """Delete files of earlier and incomplete backups. Returns the number of remaining bytes."""
    for listed in list(target.list_prefix()):
        if listed.key not in referenced:
            target.delete(listed.key)
    for partial in (folder / ARTIFACTS).rglob(".*.*"):
        partial.unlink(missing_ok=True)
    return sum(listed.size_bytes for listed in target.list_prefix())


# --- database snapshots -----------------------------------------------------------------------------

Snapshot = tuple[ReferencedFiles, Callable[[Path], None]]  # referenced files; writes the database into a folder


@contextmanager
def _sqlite_snapshot(url: str) -> Iterator[Snapshot]:
    engine = make_engine(url)
    try:
        # In WAL mode a read transaction keeps its snapshot and does not block writers.
        with engine.connect().execution_options(rw=False) as connection, Session(connection) as session:
            referenced = referenced_files(session)
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            yield referenced, lambda folder: _write_sqlite(driver, folder)
    finally:
        engine.dispose()


def _write_sqlite(connection: sqlite3.Connection, folder: Path) -> None:
    final = folder / SQLITE_FILE
    with atomic_path(final, durable=False, unique=False) as partial:
        try:
            with closing(sqlite3.connect(partial)) as copy:
                connection.backup(copy)
                (result,) = copy.execute("PRAGMA integrity_check").fetchone()
            if result != "ok":
                raise BackupFailed(f"The copy of the database is damaged: {result[:200]}")
            os.sync()  # artifacts and database are durable before the rename
            for suffix in ("-wal", "-shm"):  # SQLite would apply those of the previous database to the new one
                final.with_name(final.name + suffix).unlink(missing_ok=True)
        finally:
            for suffix in ("-wal", "-shm", "-journal"):
                partial.with_name(partial.name + suffix).unlink(missing_ok=True)


@contextmanager
def _postgresql_snapshot(url: str) -> Iterator[Snapshot]:
    program = shutil.which("pg_dump")
    if program is None:
        raise BackupFailed("A PostgreSQL backup needs `pg_dump` of the server's version or newer on the PATH.")
    engine = make_engine(url)
    try:
        # The dump uses the snapshot of this transaction, so both see the same file references.
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            snapshot_id = connection.execute(select(func.pg_export_snapshot())).scalar_one()
            with Session(connection) as session:
                referenced = referenced_files(session)
                yield referenced, lambda folder: _write_postgresql(program, url, snapshot_id, folder)
    finally:
        engine.dispose()


def _write_postgresql(program: str, url: str, snapshot_id: str, folder: Path) -> None:
    with atomic_path(folder / POSTGRESQL_FILE, durable=False, unique=False) as partial:
        _dump(program, url, snapshot_id, partial)
        os.sync()  # artifacts and dump are durable before the rename


def _dump(program: str, url: str, snapshot_id: str, file: Path) -> None:
    parts = make_url(url)
    # Pass the password in the environment, because every user of the machine can read command lines.
    environment = os.environ | ({"PGPASSWORD": str(parts.password)} if parts.password else {})
    address = parts.set(drivername="postgresql")._replace(password=None).render_as_string(hide_password=False)
    command = [program, "--format=custom", "--no-owner", f"--snapshot={snapshot_id}", f"--file={file}", address]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if run.returncode != 0:
        raise BackupFailed(f"pg_dump failed: {run.stderr.strip()[-500:]}")
