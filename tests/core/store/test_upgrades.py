"""A database of each release before becomes one of this version: nothing is lost, and both may run at once.

`releases/NNNN.sql` are the rows of a service as the release with that schema wrote them (`releases/make.py`).
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

# What a migration may only do once no release that knows the old form can still be running: the step, why it is
# needed, and the release with its expand step. Nothing so far.
CONTRACT_STEPS: dict[str, str] = {}


def rows_of(release, *, generation=0):
    """The SQL of a release; of another generation: the same rows with other ids, as of another project."""
    sql = (Path(__file__).parent / "releases" / f"{release}.sql").read_text()
    return sql.replace("_00000000000000000000", f"_{generation}0000000000000000000")


def insert(engine, sql):
    """As any client would: every row names the columns that its version knew."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL TIME ZONE 'UTC'")
        for statement in sql.splitlines():
            connection.exec_driver_sql(statement)


def id_of(kind, number, *, generation=0):
    return f"{kind}_{generation}{number:025d}"


class Upgraded:
    """A database, and the project whose rows an earlier release wrote."""

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
def opened(empty_url):
    """Makes the database at a revision, with rows, and opens it."""
    databases = []

    def make(revision, *sql):
        migrate(empty_url, revision=revision)
        databases.append(Database(make_engine(empty_url)))
        for each in sql:
            insert(databases[-1].engine, each)
        return databases[-1]

    yield make
    for database in databases:
        database.dispose()


@pytest.fixture(params=RELEASES)
def upgraded(request, opened, empty_url):
    """A service of an earlier release, after `potstill-server migrate`."""
    database = opened(request.param, rows_of(request.param))
    migrate(empty_url)
    assert is_current(database.engine)
    return Upgraded(database)


@pytest.fixture
def beside(opened):
    """A database of this version to which a process of the release before still writes."""
    database = opened("head", rows_of(RELEASES[-1]), rows_of(RELEASES[-1], generation=1))
    return Upgraded(database, generation=1)


def assert_readable(service):
    """All that the project has is shown as this version shows it."""
    found = [to_job_out(job) for job in service.jobs()]
    succeeded = service.job("succeeded")
    log = service.do(events.list_events, service.project, succeeded.id).items
    (series,) = service.do(metrics.series, service.project, succeeded.id, max_points=8)
    (saved,) = service.do(checkpoints.list_checkpoints, service.project, succeeded.id).items
    artifacts = [artifact_out(each) for each in service.do(jobs.list_artifacts, service.project, succeeded.id)]
    found_datasets = {one.name: one for one in service.do(datasets.list_datasets, service.project).items}
    found_models = {one.name: one for one in service.do(models.list_models, service.project).items}

    assert sorted(job.status for job in found) == JOBS_BY_STATUS
    assert all(job.metadata == {"team": "x"} and job.progress.step == 7 for job in found)
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
    """What waits is done, what lost its worker goes on, what failed can be tried again."""
    service.do(jobs.expire_leases, 3)
    for status in ("failed", "cancelled"):
        service.do(jobs.retry, service.project, service.job(status).id)
    service.do(jobs.resume, service.project, service.job("paused").id)
    done = set()
    while (job := service.do(jobs.claim, worker_id="w", accelerator="cpu", lease_seconds=60)) is not None:
        attempt = LeaseToken.of(job)
        assert service.do(checkpoints.newest, attempt)[0].step == 5
        service.do(metrics.insert, attempt, [("train/loss", step, 0.5) for step in range(6, 10)])
        service.do(jobs.succeed, attempt, result={}, artifacts=[])
        done.add(job.id)

    assert {job.id for job in service.jobs() if job.attempt == 2} <= done
    assert [job.status for job in service.jobs()] == ["succeeded"] * 6
    assert service.do(jobs.delete, service.project, service.jobs()[0].id)


def test_the_rows_of_every_release_are_kept():
    """Releases are those that `releases/` has; migrations after the last of them are being made."""
    assert REVISIONS[: len(RELEASES)] == RELEASES


def test_the_rows_of_this_version_can_be_written_for_later_ones(opened):
    script = Path(__file__).parent / "releases" / "make.py"
    made = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    again = Upgraded(opened("head", made))

    assert_readable(again)
    assert_works(again)


def test_everything_is_readable_after_the_upgrade(upgraded):
    assert_readable(upgraded)


def test_jobs_of_the_release_before_are_finished_after_the_upgrade(upgraded):
    assert_works(upgraded)


def test_an_upgrade_keeps_every_named_file_and_every_process(upgraded):
    named = upgraded.do(referenced_files)

    assert len(named) == 1 + 1 + 2 + 1 + 5 * 2, "a dataset, an upload, a student, its weights, five checkpoints"
    assert [worker.role for worker in upgraded.do(workers.list_workers, alive_seconds=1e9)] == ["worker"]


def test_what_an_older_process_writes_into_the_new_schema_is_readable(beside):
    assert_readable(beside)


def test_jobs_that_an_older_process_wrote_are_finished_by_this_version(beside):
    assert_works(beside)


# --- expand, then contract --------------------------------------------------------------------------


def shape(engine):
    """Tables with their columns, and the constraints that hold what may be written."""
    found = inspect(engine)
    tables = {}
    for table in found.get_table_names():
        columns = {column["name"]: column for column in found.get_columns(table)}
        limits = {str(sorted(one["column_names"])) for one in found.get_unique_constraints(table)}
        limits |= {one["name"] for one in found.get_check_constraints(table)}
        limits |= {one["name"] for one in found.get_foreign_keys(table)}
        limits |= {one["name"] for one in found.get_indexes(table) if one["unique"]}
        tables[table] = (columns, limits)
    return tables


def broken(before, after):
    """What a process of the version before could stumble over."""
    for table, (columns, limits) in before.items():
        if table not in after:
            yield f"table {table} is gone"
            continue
        now, limits_now = after[table]
        for name, column in columns.items():
            if name not in now:
                yield f"{table}.{name} is gone"
            elif str(now[name]["type"]) != str(column["type"]):
                yield f"{table}.{name} is {now[name]['type']}, was {column['type']}"
            elif column["nullable"] and not now[name]["nullable"]:
                yield f"{table}.{name} must be given now"
        for name in now.keys() - columns.keys():
            if not now[name]["nullable"] and now[name]["default"] is None:
                yield f"{table}.{name} is new and must be given; let it be null, or give it a server default"
        for name in limits_now - limits:
            yield f"{table} has a new constraint {name}"


@pytest.mark.parametrize(("before", "after"), list(itertools.pairwise(REVISIONS)))
def test_a_migration_only_adds(before, after, opened, empty_url):
    """So processes of the version before go on working while those of the new one start."""
    database = opened(before)
    was = shape(database.engine)
    migrate(empty_url, revision=after)

    steps = list(broken(was, shape(database.engine)))

    assert [step for step in steps if f"{after}: {step}" not in CONTRACT_STEPS] == []


def test_what_would_break_an_older_process_is_found(opened):
    """The rule above is not empty: each of these is told."""
    database = opened("head")
    was = shape(database.engine)
    statements = (
        "DROP TABLE teachers",
        "ALTER TABLE workers DROP COLUMN host",
        "ALTER TABLE workers ADD COLUMN place VARCHAR NOT NULL DEFAULT 'here'",
        "CREATE UNIQUE INDEX one_name ON projects (name)",
    )
    with database.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)

    assert sorted(broken(was, shape(database.engine))) == [
        "projects has a new constraint one_name",
        "table teachers is gone",
        "workers.host is gone",
    ]
