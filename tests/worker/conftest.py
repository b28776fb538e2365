"""Fixtures of worker tests: a service with SQLite, a local artifact store and a real Valkey."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.ingest.dataset import ingest_folder
from core.settings import Settings
from core.store import datasets, ingest_leases, jobs, projects
from core.store.artifact_store import StoredFile
from core.store.db import migrate, open_database
from core.store.storage_url import open_store
from tests.support.images import write_gray_images
from worker import context as worker_context
from worker.stored_files import publish_folder


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "potstill.db"
    migrate(f"sqlite:///{path}")
    return path


@dataclass
class Service:
    """A worker's context, with a project and a ready dataset."""

    context: worker_context.Context
    project: str
    dataset: str

    @property
    def settings(self):
        return self.context.settings

    def write(self, function, *args, **options):
        with self.context.database.write() as session:
            return function(session, *args, **options)

    def read(self, function, *args, **options):
        with self.context.database.read() as session:
            return function(session, *args, **options)

    def create_job(self, spec=None):
        document = spec or {"dataset": self.dataset}
        return self.write(
            jobs.create, self.project, spec=document, resolved=True, dataset_id=self.dataset, total_steps=100
        )

    def claim_job(self, lease_seconds=20.0):
        self.create_job()
        return self.write(jobs.claim, worker_id="wrk_test", accelerator="cpu", lease_seconds=lease_seconds)

    def reload(self, job):
        return self.read(jobs.get, self.project, job.id)


def new_service(settings: Settings, migrated_database: Path) -> Service:
    settings.home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(migrated_database, settings.home / "potstill.db")
    context = worker_context.init_context(settings, "jobs.cpu")
    with context.database.write() as session:
        project = projects.create(session, "test").id
        dataset = datasets.create(session, project, name="d", source={"type": "builtin", "name": "digits"}).id
    with context.database.write() as session:
        claimed = datasets.claim(session, worker_id="wrk_test", lease_seconds=60)
        datasets.mark_ready(
            session,
            ingest_leases.IngestLeaseToken.from_row(claimed),
            files=[StoredFile("datasets/x/index.json", 1, "0" * 64)],
            splits={"train": {"num_samples": 2}, "test": {"num_samples": 2}},
            num_classes=2,
            classes=["a", "b"],
            channels=1,
            image_size=8,
            fingerprint="0" * 64,
            size_bytes=1,
        )
    return Service(context, project, dataset)


@pytest.fixture
def service(tmp_path, migrated_database, valkey):
    settings = Settings(home=tmp_path / "home", broker_url=valkey, control_poll_seconds=0.05, heartbeat_seconds=0.1)
    service = new_service(settings, migrated_database)
    service.context.broker._redis.flushall()
    yield service
    service.context.database.dispose()
    service.context.broker.close()


@pytest.fixture
def store(service):
    return open_store(service.settings.resolved_storage_url())


@pytest.fixture
def database(service):
    """A second connection, as another process has it."""
    database = open_database(service.settings)
    yield database
    database.dispose()


@pytest.fixture
def make_dataset(service, store, tmp_path):
    """Return a function that creates a ready dataset of `count` stored images."""

    def make(name, count):
        folder = tmp_path / name
        write_gray_images(folder, range(0, 5 * count, 5))
        ingest_folder(folder, tmp_path / f"{name}-stored")
        dataset_id = service.write(datasets.create, service.project, name=name, source={}).id
        lease = ingest_leases.IngestLeaseToken.from_row(
            service.write(datasets.claim, worker_id="wrk_test", lease_seconds=60)
        )
        service.write(
            datasets.mark_ready,
            lease,
            files=publish_folder(store, tmp_path / f"{name}-stored", f"datasets/{name}"),
            splits={"train": {"num_samples": 2}, "test": {"num_samples": 2}},
            num_classes=None,
            classes=None,
            channels=1,
            image_size=8,
            fingerprint="0" * 64,
            size_bytes=1,
        )
        return dataset_id

    return make
