"""Migrations: upgrade, downgrade, drift, concurrency."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import inspect

from core.store import schema
from core.store.db import Database, DatabaseUnavailable, make_engine, migrate
from core.store.tables import Base

ROOT = Path(__file__).resolve().parents[3]


def tables(url):
    engine = make_engine(url)
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_upgrade_downgrade_upgrade(empty_url):
    expected = {*Base.metadata.tables, "alembic_version"}

    migrate(empty_url)
    assert tables(empty_url) == expected
    schema.downgrade(empty_url, revision="base")
    assert tables(empty_url) == {"alembic_version"}
    migrate(empty_url)
    assert tables(empty_url) == expected


def test_models_match_migrations(empty_url):
    migrate(empty_url)

    run = subprocess.run(
        [str(Path(sys.executable).with_name("alembic")), "check"],
        cwd=ROOT,
        env={**os.environ, "POTSTILL_DATABASE_URL": empty_url},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_schema_is_current_after_migrate(empty_url):
    Path(empty_url.removeprefix("sqlite:///")).parent.mkdir(exist_ok=True) if "sqlite" in empty_url else None
    database = Database(make_engine(empty_url))

    assert database.schema_is_current() is False
    migrate(empty_url)
    assert database.schema_is_current() is True
    database.dispose()


def test_newer_schema_is_accepted_and_unchanged(empty_url):
    """As in a rolling upgrade, and after a return to the older version."""
    migrate(empty_url)
    database = Database(make_engine(empty_url))
    with database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")

    assert database.schema_is_current() is True
    migrate(empty_url)
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == "9999"
    database.dispose()


def test_concurrent_migrations_are_serialized(empty_url):
    failures = []

    def run_migrate():
        try:
            migrate(empty_url)
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=run_migrate) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert "jobs" in tables(empty_url)


def test_migrate_works_from_any_folder(tmp_path):
    code = "import sys; from core.store.db import migrate; migrate(sys.argv[1])"
    url = f"sqlite:///{tmp_path}/deep/er/store.db"
    subprocess.run([sys.executable, "-c", code, url], cwd=tmp_path, check=True, env={"PYTHONPATH": str(ROOT)})

    assert "jobs" in tables(url)


def test_migration_that_breaks_a_foreign_key_is_rolled_back(sqlite_template, tmp_path):
    path = tmp_path / "store.db"
    path.write_bytes(sqlite_template.read_bytes())
    url = f"sqlite:///{path}"

    with pytest.raises(RuntimeError, match="foreign keys"), schema.migration_connection(url) as connection:
        connection.exec_driver_sql(
            "INSERT INTO api_keys (id, project_id, name, prefix, secret_hash, scopes, created_at)"
            " VALUES ('key_1', 'prj_gone', 'n', 'p', 's', '[]', '2026-01-01 00:00:00.000000')"
        )
    engine = make_engine(url)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM api_keys").scalar() == 0
    engine.dispose()


def test_every_owned_table_has_a_project_id():
    owned = set(Base.metadata.tables) - {"counters", "projects", "integrations", "workers"}  # of the service

    assert {name for name in owned if "project_id" not in Base.metadata.tables[name].c} == set()
    assert {name for name in owned if Base.metadata.tables[name].c.project_id.nullable} == set()


def test_unreachable_server_raises():
    database = Database(make_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing"))

    with pytest.raises(DatabaseUnavailable):
        database.schema_is_current()
    database.dispose()


OLD_ROWS = """
INSERT INTO projects (id, name, created_at) VALUES ('prj_1', 'p', '2026-01-01 00:00:00');
INSERT INTO projects (id, name, created_at) VALUES ('prj_2', 'empty', '2026-01-01 00:00:00');
INSERT INTO datasets (id, project_id, name, source, rejected, created_at, status, attempt, losses, files, size_bytes)
    VALUES ('ds_1', 'prj_1', 'd', '{}', '[]', '2026-01-01 00:00:00', 'ready', 1, 0, '[]', 5);
INSERT INTO jobs (id, project_id, status, stages, progress, spec, resolved, dataset_id, priority, accelerator, attempt,
    losses, checkpoint_step, last_seq, cancel_requested, pause_requested, stop_requested, metadata, created_at)
    VALUES ('job_1', 'prj_1', 'succeeded', '[]', '{}', '{}', true, 'ds_1', 0, 'cpu', 1, 0, 0, 0, false, false, false,
    '{}', '2026-01-01 00:00:00');
INSERT INTO artifacts (job_id, name, project_id, media_type, size_bytes, sha256, key, attempt, created_at)
    VALUES ('job_1', 'model.safetensors', 'prj_1', 'm', 70, 's', 'k', 1, '2026-01-01 00:00:00');
INSERT INTO models (id, project_id, name, job_id, architecture, arguments, created_at, status, attempt, losses, files,
    size_bytes)
    VALUES ('mdl_1', 'prj_1', 'student', 'job_1', 'a', '{}', '2026-01-01 00:00:00', 'ready', 1, 0, '[]', 900);
INSERT INTO models (id, project_id, name, job_id, architecture, arguments, created_at, status, attempt, losses, files,
    size_bytes)
    VALUES ('mdl_2', 'prj_1', 'orphan', 'job_0', 'a', '{}', '2026-01-01 00:00:00', 'ready', 1, 0, '[]', 1000);
INSERT INTO models (id, project_id, name, architecture, arguments, created_at, status, attempt, losses, files,
    size_bytes) VALUES ('mdl_3', 'prj_1', 'upload', 'a', '{}', '2026-01-01 00:00:00', 'ready', 1, 0, '[]', 20000);
"""


def test_quota_migration_counts_existing_files(empty_url):
    migrate(empty_url, revision="0002")
    engine = make_engine(empty_url)
    with engine.begin() as connection:
        for statement in filter(str.strip, OLD_ROWS.split(";")):
            connection.exec_driver_sql(statement)
    migrate(empty_url)

    with engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT project_id, stored_bytes FROM project_usage ORDER BY project_id"
        ).all()
    engine.dispose()
    assert [tuple(row) for row in rows] == [("prj_1", 21_075), ("prj_2", 0)]
