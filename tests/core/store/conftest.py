"""Fixtures of the store: each test runs on SQLite and on a PostgreSQL server that the session shares."""

import shutil
from dataclasses import dataclass, field

import pytest

from core.store import datasets, ingest_leases, jobs, projects
from core.store.artifact_store import StoredFile
from core.store.db import Database, make_engine, migrate
from core.store.tables import Base
from tests.core.store.content import CONTENT

SPEC = {"dataset": "ds_", "student": {"architecture": "vit", "weights": "random"}, "method": {"name": "scratch"}}
DIGEST = "0" * 64


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "template.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def pg_empty(pg_new):
    """URL of a PostgreSQL database without tables."""
    return pg_new("empty")


@pytest.fixture(scope="session")
def pg_migrated(pg_new):
    url = pg_new("migrated")
    migrate(url)
    return url


@pytest.fixture(scope="session")
def sqlite_database(sqlite_template, tmp_path_factory):
    path = tmp_path_factory.mktemp("sqlite") / "store.db"
    shutil.copyfile(sqlite_template, path)
    yield from _open_database(f"sqlite:///{path}")


@pytest.fixture(scope="session")
def pg_database(pg_migrated):
    yield from _open_database(pg_migrated)


def _open_database(url):
    database = Database(make_engine(url))  # one per session: an engine caches compiled statements
    yield database
    database.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request):
    """Migrated database without rows."""
    database = request.getfixturevalue("sqlite_database" if request.param == "sqlite" else "pg_database")
    with database.engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())
    return database


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request, tmp_path):
    """URL of a database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'folder' / 'empty.db'}"
    return request.getfixturevalue("pg_empty")


@dataclass
class World:
    """Project with a ready dataset, and helpers that run store functions in transactions."""

    db: Database
    url: str
    project: str = ""
    dataset: str = ""
    serial: int = field(default=0)

    def write(self, function, *args, **options):
        with self.db.write() as session:
            return function(session, *args, **options)

    def read(self, function, *args, **options):
        with self.db.read() as session:
            return function(session, *args, **options)

    def file(self, key="datasets/x/index.json"):
        return StoredFile(key, 10, DIGEST)

    def ready_dataset(self, project=None, name="digits"):
        project = project or self.project
        dataset = self.write(datasets.create, project, name=name, source={"type": "builtin", "name": "digits"})
        lease = ingest_leases.IngestLeaseToken.from_row(self.write(datasets.claim, worker_id="w", lease_seconds=60))
        self.write(
            datasets.mark_ready,
            lease,
            files=[self.file(f"datasets/{dataset.id}/a1/index.json")],
            splits={"train": {"num_samples": 80}, "test": {"num_samples": 20}},
            num_classes=2,
            classes=["a", "b"],
            channels=1,
            image_size=8,
            fingerprint=DIGEST,
            size_bytes=10,
        )
        return dataset.id

    def job(self, *, project=None, dataset=None, spec=None, **options):
        dataset = dataset or self.dataset
        return self.write(
            jobs.create,
            project or self.project,
            spec={**SPEC, **(spec or {}), "dataset": dataset},
            resolved=True,
            dataset_id=dataset,
            **options,
        ).id

    def get(self, job_id):
        return self.read(jobs.get, self.project, job_id)

    def claim(self, worker="w", accelerator="cpu", lease_seconds=60):
        return self.write(jobs.claim, worker_id=worker, accelerator=accelerator, lease_seconds=lease_seconds)

    def start_job(self, **options):
        """Create and claim a job; return its lease."""
        self.job(**options)
        return jobs.LeaseToken.from_job(self.claim())

    def expire_leases(self, worker="w", max_worker_losses=3):
        return self.write(jobs.expire_leases, max_worker_losses, worker_id=worker)

    def checkpoint(self, lease, step, track="distill", **options):
        from core.store import checkpoints

        self.serial += 1
        folder = f"jobs/{lease.job_id}/a{lease.attempt}/checkpoints/c{self.serial}"
        files = [self.file(f"{folder}/model.safetensors"), self.file(f"{folder}/state.pt")]
        return self.write(checkpoints.save, lease, track=track, step=step, epoch=step // 10, files=files, **options)

    def rows(self):
        """Return all rows of the database, to check that nothing has changed."""
        with self.db.read() as session:
            return {
                table.name: sorted(map(repr, session.execute(table.select()).all()))
                for table in Base.metadata.sorted_tables
            }


@pytest.fixture
def world(db):
    world = World(db, db.engine.url.render_as_string(hide_password=False))
    world.project = world.write(projects.create, "main").id
    world.dataset = world.ready_dataset()
    return world


@pytest.fixture
def other_project(world):
    """Id of a second project."""
    return world.write(projects.create, "other").id


@pytest.fixture
def source(tmp_path):
    """File to store."""
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path
