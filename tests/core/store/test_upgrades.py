"""Upgrades from each earlier schema: no row is lost, and processes of both versions can run at once.

`releases/NNNN.sql` contains the rows of a service, written with schema NNNN (`releases/make.py`).
"""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import inspect

from api.datasets.service import dataset_out
from api.jobs.service import artifact_out, checkpoint_out, event_out, to_job_out
from api.models.service import model_out
from core.store import checkpoints, datasets, events, idempotency, jobs, keys, metrics, models, workers
from core.store.db import Database, make_engine, migrate
from core.store.garbage import referenced_files
from core.store.jobs import LeaseToken
from core.store.schema import MIGRATIONS, is_current

RELEASES = sorted(path.stem for path in (Path(__file__).parent / "releases").glob("*.sql"))
REVISIONS = sorted(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
ROOT = Path(__file__).resolve().parents[3]
SECRET = "0" * 64
JOBS_BY_STATUS = ["cancelled", "failed", "paused", "queued", "running", "succeeded"]

# Steps that break processes of the version before, with the reason. A migration may make them only if no release that
# knows the old form can still be running.
RENAMED = "0004 renames before the first release, so no released version knows the old name"
CONTRACT_STEPS: dict[str, str] = {
    f"0004: {step}": RENAMED
    for step in (
        "table metric_spans is missing",
        *(
            f"{column} is missing"
            for column in (
                "checkpoints.kept",
                "datasets.losses",
                "idempotency.patience_ends_at",
                "jobs.losses",
                "models.facts",
                "models.losses",
                "projects.served_at",
                "teachers.recipe",
            )
        ),
        *(
            f"{column} is new and required; make it nullable, or give it a server default"
            for column in (
                "checkpoints.retained",
                "datasets.worker_losses",
                "idempotency.in_flight_expires_at",
                "jobs.worker_losses",
                "models.worker_losses",
                "teachers.fingerprint",
            )
        ),
    )
}


def rows_of(release, *, generation=0):
    """Read the SQL of a release. Another ``generation`` gives the same rows other ids, as of another project."""
    sql = (Path(__file__).parent / "releases" / f"{release}.sql").read_text()
    return sql.replace("_00000000000000000000", f"_{generation}0000000000000000000")


def insert(engine, sql):
    """Run the statements, each of which lists the columns of its version."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL TIME ZONE 'UTC'")
        for statement in sql.splitlines():
            connection.exec_driver_sql(statement)


def id_of(kind, number, *, generation=0):
    return f"{kind}_{generation}{number:025d}"


class Upgraded:
    """Database with the project whose rows an earlier version wrote."""

    def __init__(self, database, generation=0):
        self.database = database
        self.project = id_of("prj", 1, generation=generation)
        self.token = f"ps_{id_of('key', 1, generation=generation).removeprefix('key_')}_{SECRET}"

    def do(self, function, *args, **options):
        with self.database.write() as session:
            return function(session, *args, **options)

    def jobs(self):
        return self.do(jobs.list_jobs, self.project, limit=100).items

    def job(self, status):
        return next(job for job in self.jobs() if job.status == status)


@pytest.fixture
def open_at(empty_url):
    """Factory of databases at a revision, with rows."""
    databases = []

    def make(revision, *sql):
        migrate(empty_url, revision=revision)
        databases.append(Database(make_engine(empty_url)))
        for statements in sql:
            insert(databases[-1].engine, statements)
        return databases[-1]

    yield make
    for database in databases:
        database.dispose()


@pytest.fixture(params=RELEASES)
def upgraded(request, open_at, empty_url):
    """Service of an earlier version, after `potstill-server migrate`."""
    database = open_at(request.param, rows_of(request.param))
    migrate(empty_url)
    assert is_current(database.engine)
    return Upgraded(database)


@pytest.fixture
def mixed_versions(open_at):
    """Database of this version, to which a process with the newest dumped schema also writes."""
    database = open_at("head", rows_of(RELEASES[-1]), rows_of(RELEASES[-1], generation=1))
    return Upgraded(database, generation=1)


def assert_readable(service):
    """Check that this version reads every object of the project."""
    job_outs = [to_job_out(job) for job in service.jobs()]
    succeeded = service.job("succeeded")
    log = service.do(events.list_events, service.project, succeeded.id).items
    (series,) = service.do(metrics.read_series, service.project, succeeded.id, max_points=8)
    (saved,) = service.do(checkpoints.list_checkpoints, service.project, succeeded.id).items
    artifacts = [artifact_out(each) for each in service.do(jobs.list_artifacts, service.project, succeeded.id)]
    found_datasets = {dataset.name: dataset for dataset in service.do(datasets.list_datasets, service.project).items}
    found_models = {model.name: model for model in service.do(models.list_models, service.project).items}

    assert sorted(job.status for job in job_outs) == JOBS_BY_STATUS
    assert all(job.metadata == {"team": "x"} and job.progress.step == 7 for job in job_outs)
    assert [event_out(event).seq for event in log] == list(range(1, succeeded.last_seq + 1))
    assert (series.name, len(series.points), series.points[-1]) == ("train/loss", 8, (16, None))
    assert checkpoint_out(saved).step == 5
    assert [artifact.name for artifact in artifacts] == ["config.json", "model.safetensors"]
    assert dataset_out(found_datasets["waits"]).status == "processing"
    assert dataset_out(found_datasets["digits"]).num_classes == 2
    assert model_out(found_models["m"]).status == "processing"
    assert model_out(found_models["student"]).job == succeeded.id
    assert service.do(keys.authenticate, service.token).project_id == service.project
    replay = service.do(idempotency.begin, service.project, "a-key", "f" * 64)
    assert (replay.status, replay.body["id"]) == (201, "job_x")


def assert_works(service):
    """Check that queued jobs run, jobs of lost workers resume, and failed jobs can be retried."""
    service.do(jobs.expire_leases, 3)
    for status in ("failed", "cancelled"):
        service.do(jobs.retry, service.project, service.job(status).id)
    service.do(jobs.resume, service.project, service.job("paused").id)
    done = set()
    while (job := service.do(jobs.claim, worker_id="w", accelerator="cpu", lease_seconds=60)) is not None:
        lease = LeaseToken.from_job(job)
        assert service.do(checkpoints.list_resumable, lease)[0].step == 5
        service.do(metrics.insert, lease, [("train/loss", step, 0.5) for step in range(6, 10)])
        service.do(jobs.succeed, lease, result={}, artifacts=[])
        done.add(job.id)

    assert {job.id for job in service.jobs() if job.attempt == 2} <= done
    assert [job.status for job in service.jobs()] == ["succeeded"] * 6
    assert service.do(jobs.delete, service.project, service.jobs()[0].id)


def test_rows_of_every_revision_are_dumped_up_to_the_newest_dump():
    """Migrations after the newest dump are still in development."""
    assert REVISIONS[: len(RELEASES)] == RELEASES


@pytest.fixture(scope="module")
def dump_of_this_version():
    """The SQL that `releases/make.py` writes."""
    script = Path(__file__).parent / "releases" / "make.py"
    return subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_dump_of_this_version_can_be_loaded(open_at, dump_of_this_version):
    loaded = Upgraded(open_at("head", dump_of_this_version))

    assert_readable(loaded)
    assert_works(loaded)


def test_everything_is_readable_and_jobs_finish_after_the_upgrade(upgraded):
    assert_readable(upgraded)
    referenced = upgraded.do(referenced_files)
    assert len(referenced) == 1 + 1 + 2 + 1 + 5 * 2, "a dataset, an upload, a student, its weights, five checkpoints"
    assert [worker.role for worker in upgraded.do(workers.list_workers, alive_seconds=1e9)] == ["worker"]

    assert_works(upgraded)


def test_rows_of_an_older_process_in_the_new_schema_are_readable_and_its_jobs_finish(mixed_versions):
    assert_readable(mixed_versions)
    assert_works(mixed_versions)


# --- expand, then contract --------------------------------------------------------------------------


def shape(engine):
    """Return the columns and the constraints of each table."""
    inspector = inspect(engine)
    tables = {}
    for table in inspector.get_table_names():
        columns = {column["name"]: column for column in inspector.get_columns(table)}
        constraints = {str(sorted(unique["column_names"])) for unique in inspector.get_unique_constraints(table)}
        constraints |= {check["name"] for check in inspector.get_check_constraints(table)}
        constraints |= {foreign_key["name"] for foreign_key in inspector.get_foreign_keys(table)}
        constraints |= {index["name"] for index in inspector.get_indexes(table) if index["unique"]}
        tables[table] = (columns, constraints)
    return tables


def breaking_changes(before, after):
    """Yield the schema changes that can break a process of the version before."""
    for table, (old_columns, old_constraints) in before.items():
        if table not in after:
            yield f"table {table} is missing"
            continue
        columns, constraints = after[table]
        for name, column in old_columns.items():
            if name not in columns:
                yield f"{table}.{name} is missing"
            elif str(columns[name]["type"]) != str(column["type"]):
                yield f"{table}.{name} is {columns[name]['type']}, was {column['type']}"
            elif column["nullable"] and not columns[name]["nullable"]:
                yield f"{table}.{name} is no longer nullable"
        for name in columns.keys() - old_columns.keys():
            if not columns[name]["nullable"] and columns[name]["default"] is None:
                yield f"{table}.{name} is new and required; make it nullable, or give it a server default"
        for name in constraints - old_constraints:
            yield f"{table} has a new constraint {name}"


def test_no_migration_makes_a_breaking_change(empty_url):
    """Processes of the version before keep working while those of the new version start."""
    shapes = {}
    for revision in REVISIONS:
        migrate(empty_url, revision=revision)
        engine = make_engine(empty_url)
        shapes[revision] = shape(engine)
        engine.dispose()

    steps = [
        f"{after}: {step}"
        for before, after in itertools.pairwise(REVISIONS)
        for step in breaking_changes(shapes[before], shapes[after])
    ]
    assert [step for step in steps if step not in CONTRACT_STEPS] == []


def test_breaking_changes_are_detected(open_at):
    database = open_at("head")
    old_shape = shape(database.engine)
    statements = (
        "DROP TABLE teachers",
        "ALTER TABLE workers DROP COLUMN host",
        "ALTER TABLE workers ADD COLUMN place VARCHAR NOT NULL DEFAULT 'here'",
        "CREATE UNIQUE INDEX one_name ON projects (name)",
    )
    with database.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)

    assert sorted(breaking_changes(old_shape, shape(database.engine))) == [
        "projects has a new constraint one_name",
        "table teachers is missing",
        "workers.host is missing",
    ]
