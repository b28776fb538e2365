"""Every test of the store runs on SQLite and on a real PostgreSQL, one server for the session."""

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
    """The URL of a database without any tables."""
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
    yield from _opened(f"sqlite:///{path}")


@pytest.fixture(scope="session")
def pg_database(pg_migrated):
    yield from _opened(pg_migrated)


def _opened(url):
    database = Database(make_engine(url))  # one for the session: an engine keeps the statements that it compiled
    yield database
    database.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request):
    """A migrated database without rows."""
    database = request.getfixturevalue("sqlite_database" if request.param == "sqlite" else "pg_database")
    with database.engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())
    return database


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request, tmp_path):
    """A database without any tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'folder' / 'empty.db'}"
    return request.getfixturevalue("pg_empty")


@dataclass
class World:
    """A project with a ready dataset, and short words for units of work."""

    db: Database
    url: str
    project: str = ""
    dataset: str = ""
    serial: int = field(default=0)

    def do(self, function, *args, **options):
        with self.db.write() as session:
            return function(session, *args, **options)

    def ask(self, function, *args, **options):
        with self.db.read() as session:
            return function(session, *args, **options)

    def file(self, key="datasets/x/index.json"):
        return StoredFile(key, 10, DIGEST)

    def ready_dataset(self, project=None):
        project = project or self.project
        made = self.do(datasets.create, project, name="digits", source={"type": "builtin", "name": "digits"})
        holding = ingest_leases.IngestLeaseToken.of(self.do(datasets.claim, worker_id="w", lease_seconds=60))
        self.do(
            datasets.ready,
            holding,
            files=[self.file(f"datasets/{made.id}/a1/index.json")],
            splits={"train": {"num_samples": 80}, "test": {"num_samples": 20}},
            num_classes=2,
            classes=["a", "b"],
            channels=1,
            image_size=8,
            fingerprint=DIGEST,
            size_bytes=10,
        )
        return made.id

    def job(self, *, project=None, dataset=None, spec=None, **options):
        dataset = dataset or self.dataset
        return self.do(
            jobs.create,
            project or self.project,
            spec={**SPEC, **(spec or {}), "dataset": dataset},
            resolved=True,
            dataset_id=dataset,
            **options,
        ).id

    def get(self, job_id):
        return self.ask(jobs.get, self.project, job_id)

    def claim(self, worker="w", accelerator="cpu", lease_seconds=60):
        return self.do(jobs.claim, worker_id=worker, accelerator=accelerator, lease_seconds=lease_seconds)

    def attempt(self, **options):
        """A new job that runs."""
        self.job(**options)
        return jobs.LeaseToken.of(self.claim())

    def lose(self, worker="w", max_losses=3):
        return self.do(jobs.expire_leases, max_losses, worker_id=worker)

    def checkpoint(self, attempt, step, track="distill", **options):
        from core.store import checkpoints

        self.serial += 1
        folder = f"jobs/{attempt.job_id}/a{attempt.attempt}/checkpoints/c{self.serial}"
        files = [self.file(f"{folder}/model.safetensors"), self.file(f"{folder}/state.pt")]
        return self.do(checkpoints.save, attempt, track=track, step=step, epoch=step // 10, files=files, **options)

    def rows(self):
        """Everything that the database holds, to say that nothing changed."""
        with self.db.read() as session:
            return {
                table.name: sorted(map(repr, session.execute(table.select()).all()))
                for table in Base.metadata.sorted_tables
            }


@pytest.fixture
def world(db):
    made = World(db, db.engine.url.render_as_string(hide_password=False))
    made.project = made.do(projects.create, "mine").id
    made.dataset = made.ready_dataset()
    return made


@pytest.fixture
def stranger(world):
    """Somebody else's project."""
    return world.do(projects.create, "theirs").id


@pytest.fixture
def source(tmp_path):
    """A file to store."""
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path
