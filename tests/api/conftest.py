"""The app behind a real server with SQLite; tests of the broker use a real Valkey."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import structlog
import uvicorn
from fastapi.routing import iter_route_contexts

from api.app import create_app
from core.broker import Broker
from core.errors import restore_error
from core.reporting import Progress
from core.settings import Settings
from core.spec.info import ModelInfo
from core.store import checkpoints, datasets, jobs, keys, models, projects
from core.store.artifact_store import ArtifactStore
from core.store.db import Database, migrate, open_database
from core.store.ingest_leases import IngestLeaseToken
from core.store.job_leases import LeaseToken
from core.store.jobs import NewArtifact
from core.store.storage_url import open_store
from tests.support.archives import make_zip
from tests.support.valkey import ValkeyServer
from worker.context import init_context

VIT = {"img_size": 8, "patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2}


def small_spec(dataset_id, **changes):
    """A valid job spec for 8 × 8 images."""
    model = {"architecture": "vit_tiny_patch16_224", "arguments": VIT}
    return {
        "name": "small",
        "dataset": dataset_id,
        "student": model,
        "teachers": [{**model, "weights": "train"}],
        "method": {"name": "kd"},
        "training": {"epochs": 2, "batch_size": 16, "image_size": 8},
        **changes,
    }


class InProcessBroker(Broker):
    """A broker that runs the inspector's code in this process and records messages instead of sending them."""

    def __init__(self):
        super().__init__("redis://127.0.0.1:1/0")
        self.sent = []
        self.settings = None  # of the server, once it is made

    async def call_inspector(self, call, payload=None, timeout=10.0):  # noqa: ASYNC109 - as in Broker
        if call == "ping":
            return {}
        from worker.inspector import handle_call

        if self.settings is not None:
            init_context(self.settings, "inspect")
        found = await asyncio.to_thread(handle_call, call, payload or {})
        if "error" in found:
            raise restore_error(found["error"])
        return found["ok"]

    def was_sent(self, *messages):
        """Wait until all these messages were sent: they follow the response."""
        deadline = time.monotonic() + 5
        while not set(messages) <= set(self.sent) and time.monotonic() < deadline:
            time.sleep(0.005)
        return set(messages) <= set(self.sent)

    def wake_job_workers(self, accelerator="auto"):
        self.sent.append(f"jobs:{accelerator}")

    def wake_dataset_workers(self):
        self.sent.append("datasets")

    def wake_model_workers(self):
        self.sent.append("models")

    def publish_job_change(self, job_id):
        self.sent.append(f"changed:{job_id}")


@dataclass
class Server:
    """An app behind uvicorn in a thread."""

    settings: Settings
    database: Database
    store: ArtifactStore
    broker: Broker
    url: str = ""
    server: uvicorn.Server | None = None
    thread: threading.Thread | None = None
    app: object = None

    def start(self):
        self.app = create_app(self.settings, self.database, self.store, self.broker)
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(self.app, log_config=None, access_log=False, timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([listener],), daemon=True)
        self.thread.start()
        deadline = time.monotonic() + 10
        while not self.server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        assert self.server.started
        return self

    def stop(self):
        self.server.should_exit = True
        self.thread.join(10)
        self.broker.close()
        self.database.dispose()

    def tenant(self, *scopes):
        with self.database.write() as session:
            project = projects.create(session, "test")
            new_key = keys.create(session, project.id, name="test", scopes=scopes or keys.SCOPES)
        client = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {new_key.token}"}, timeout=30, trust_env=False
        )
        return Tenant(self, project.id, new_key.key.id, new_key.token, client)


@dataclass
class Tenant:
    """A project with its own key, so that tests can share a server."""

    server: Server
    project_id: str
    key_id: str
    token: str
    http: httpx.Client
    files: Path | None = None
    extra: dict = field(default_factory=dict)

    @property
    def database(self):
        return self.server.database

    def ready_dataset(self, **changes):
        """Create a dataset in the state after ingestion."""
        values = {
            "splits": {"train": {"num_samples": 80}, "test": {"num_samples": 20}},
            "num_classes": 3,
            "classes": ["a", "b", "c"],
            "channels": 3,
            "image_size": 8,
            "fingerprint": "0" * 64,
            "size_bytes": 1000,
            "files": [],
        }
        with self.database.write() as session:
            dataset = datasets.create(
                session, self.project_id, name="ready", source={"type": "builtin", "name": "digits"}
            )
            dataset.worker_id, dataset.attempt = "wrk_test", 1
            session.flush()
            return datasets.mark_ready(session, IngestLeaseToken(dataset.id, 1), **{**values, **changes}).id

    def queued_job(self, **changes):
        """Create a queued job."""
        spec = small_spec(self.ready_dataset())
        with self.database.write() as session:
            return jobs.create(
                session,
                self.project_id,
                spec=spec,
                resolved=True,
                dataset_id=spec["dataset"],
                name="small",
                total_steps=10,
                **changes,
            ).id

    def running_job(self):
        """Create a running job; return its lease."""
        return self.claim(self.queued_job(priority=100))

    def claim(self, job_id):
        """Claim a queued job of high priority as a worker does; return its lease."""
        with self.database.write() as session:
            job = jobs.claim(session, worker_id="wrk_test", accelerator="cpu", lease_seconds=600)
            while job.id != job_id:  # a job of another test
                job = jobs.claim(session, worker_id="wrk_test", accelerator="cpu", lease_seconds=600)
            return LeaseToken.from_job(job)

    def succeed(self, lease, tmp_path, names=("model.safetensors", "config.json")):
        """Finish a job as its worker does; return the artifacts' contents by name."""
        contents = {name: f"the content of {name} ".encode() * 1000 for name in names}
        artifacts = []
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
            key = f"jobs/{lease.job_id}/a{lease.attempt}/artifacts/{name}"
            artifacts.append(NewArtifact(name, "application/octet-stream", self.server.store.put(key, tmp_path / name)))
        model_metrics = {"top1": 0.9, "top5": 1.0, "parameters": 10, "flops": 1e6, "size_bytes": 40, "latency_ms": 1.0}
        result = {"student": model_metrics, "teachers": [model_metrics], "compressed": [], "agreement": 0.9}
        with self.database.write() as session:
            jobs.succeed(session, lease, result=result, artifacts=artifacts, model_id=None)
        return contents

    def checkpoint(self, lease, tmp_path, step):
        """Save a checkpoint as a worker does."""
        stored = []
        for name in ("model.safetensors", "state.pt"):
            (tmp_path / name).write_bytes(f"{name} at {step}".encode())
            key = f"jobs/{lease.job_id}/a{lease.attempt}/checkpoints/s{step}/{name}"
            stored.append(self.server.store.put(key, tmp_path / name))
        with self.database.write() as session:
            return checkpoints.save(
                session, lease, track="distill", step=step, epoch=1, files=stored, metrics={"loss": 1.0}
            ).checkpoint

    def progress(self, lease, step):
        with self.database.write() as session:
            jobs.record_progress(session, lease, Progress(fraction=step / 10, step=step, total_steps=10, epoch=0))

    def ready_model(self, **changes):
        """Create an uploaded model in the state after its check, by default a small ViT for the ready dataset."""
        values = {
            "architecture": "vit_tiny_patch16_224",
            "arguments": {**VIT, "num_classes": 3, "in_chans": 3},
            "num_classes": 3,
            "channels": 3,
            "image_size": 8,
            "parameters": 26_000,
            "size_bytes": 100_000,
            "normalization": {"mean": (0.5,), "std": (0.5,)},
        }
        info = ModelInfo.model_validate({**values, **changes})
        with self.database.write() as session:
            model = models.create(
                session, self.project_id, name="m", architecture=info.architecture, arguments={}, upload_key="x"
            )
            model.worker_id, model.attempt = "wrk_test", 1
            session.flush()
            return models.mark_ready(session, IngestLeaseToken(model.id, 1), files=[], info=info).id

    def processing_model(self):
        """Create an uploaded model that is not checked yet."""
        with self.database.write() as session:
            return models.create(
                session, self.project_id, name="m", architecture="resnet18", arguments={}, upload_key="uploads/x/file"
            ).id


@pytest.fixture(scope="session", autouse=True)
def plain_logs():
    """Log through the standard library, so that pytest shows logs with their test."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """A migrated database file to copy."""
    folder = tmp_path_factory.mktemp("empty")
    migrate(f"sqlite:///{folder}/potstill.db")
    return folder / "potstill.db"


@contextmanager
def running_servers(tmp_path_factory, empty_database):
    """Yield a function that starts a server with its own home, optionally with other settings or another broker."""
    servers = []

    def make(broker=None, **overrides):
        home = tmp_path_factory.mktemp("home")
        (home / "potstill.db").write_bytes(empty_database.read_bytes())
        settings = Settings(home=home, broker_url=overrides.pop("broker_url", "redis://127.0.0.1:1/0"), **overrides)
        store = open_store(settings.resolved_storage_url())
        broker = broker or InProcessBroker()
        broker.settings = settings
        server = Server(settings, open_database(settings), store, broker)
        servers.append(server.start())
        return server

    yield make
    for server in servers:
        server.server.should_exit = True  # all at once: each takes up to a second
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def make_server(tmp_path_factory, empty_database):
    """Start a server. It stops with the module: an idle server polls, which would slow down all later tests."""
    with running_servers(tmp_path_factory, empty_database) as make:
        yield make


@pytest.fixture(scope="session")
def server(tmp_path_factory, empty_database) -> Iterator[Server]:
    """One server for all tests; each test has its own tenants."""
    with running_servers(tmp_path_factory, empty_database) as make:
        yield make()


@pytest.fixture
def make_tenant(server):
    """Create projects with a key of the given scopes."""
    tenants = []

    def make(*scopes, on=server):
        tenants.append(on.tenant(*scopes))
        return tenants[-1]

    yield make
    for tenant in tenants:
        tenant.http.close()


@pytest.fixture
def tenant(make_tenant) -> Tenant:
    return make_tenant()


@pytest.fixture
def http(tenant) -> httpx.Client:
    return tenant.http


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    server = ValkeyServer()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def module_valkey() -> Iterator[ValkeyServer]:
    server = ValkeyServer()
    yield server
    server.kill()


@dataclass(frozen=True)
class AppRoute:
    """One method of one path of the app; ``declared`` if OpenAPI contains it."""

    method: str
    path: str
    endpoint: str
    declared: bool


@pytest.fixture(scope="session")
def app_routes(server):
    """All routes of the app, for tests that cover future routes too."""
    return [
        AppRoute(method, route.path, route.endpoint.__name__, route.include_in_schema)
        for route in iter_route_contexts(server.app.router.routes)
        for method in sorted(route.methods or ())  # none: the files of the documentation site
    ]


@pytest.fixture(scope="session")
def spec_of():
    """Build a small job spec for a dataset."""
    return small_spec


@pytest.fixture(scope="session")
def zip_of():
    """Build a zip with these files."""
    return make_zip
