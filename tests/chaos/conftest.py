"""A service in this process whose worker runs one job at a time and fails where a test arms a fault."""

import hashlib
import socket
import threading
from dataclasses import dataclass

import httpx
import pytest
import uvicorn
from sqlalchemy import delete

from api.app import create_app
from core.broker import Broker
from core.job_failure import WORKER_SILENT
from core.settings import Settings
from core.store import checkpoints, jobs, keys, projects
from core.store.artifact_store import ArtifactStore
from core.store.db import Database, migrate, open_database
from core.store.storage_url import open_store
from core.store.tables import Teacher
from tests.chaos.forked_worker import ForkedWorker
from tests.chaos.specs import small_job
from tests.support.api import artifacts_by_name, list_all, submit_job
from tests.support.specs import DIGITS
from tests.support.waiting import until

MAX_LOSSES = 3


@dataclass
class Service:
    """The API over HTTP, the store through its interface, and the worker's processes."""

    settings: Settings
    database: Database
    store: ArtifactStore
    http: httpx.Client
    project: str
    worker: ForkedWorker
    dataset: str = ""
    num_faults: int = 0

    def submit(self, *, reuse_teacher=False, **changes) -> str:
        """Create a job. It trains its teacher, unless it may reuse the teacher of an earlier job.

        It saves two checkpoints, on a slow machine too: more frequent ones are saved depending on the time.
        """
        if not reuse_teacher:
            with self.database.write() as session:
                session.execute(delete(Teacher))
        options = {"epochs": 4, "teacher_epochs": 1, **changes}
        return submit_job(self.http, small_job(self.dataset, checkpoint_every_epochs=options["epochs"] // 2, **options))

    def run_worker(self, point: str | None = None, action: str = "kill", nth: int = 1) -> int:
        """Run one worker process, optionally with a fault at a fault point; return its exit status."""
        if point is None:
            return self.worker.run()
        self.num_faults += 1
        return self.worker.run(f"{point}#{nth}={action}@{self._fault_marker}")

    def fault_happened(self) -> bool:
        """Whether the newest fault was triggered."""
        return self._fault_marker.exists()

    @property
    def _fault_marker(self):
        return self.settings.home / f"fault-{self.num_faults}"

    def record_losses(self) -> None:
        """Record the loss of running jobs, as the scheduler does after a lease expires: no worker process is alive."""
        with self.database.write() as session:
            for job in jobs.list_jobs(session, self.project, jobs.JobFilter(statuses=["running"])).items:
                jobs.record_loss(session, jobs.LeaseToken.from_job(job), WORKER_SILENT, MAX_LOSSES)

    def finish(self, job_id: str) -> dict:
        """Run worker processes without faults until the job is terminal; return it."""
        for _ in range(MAX_LOSSES + 1):
            self.record_losses()
            if self.job(job_id)["terminal"]:
                break
            self.run_worker()
        return self.job(job_id)

    def job(self, job_id: str) -> dict:
        return self.http.get(f"/v1/jobs/{job_id}").json()

    def events(self, job_id: str) -> list[dict]:
        return list_all(self.http, f"/v1/jobs/{job_id}/events")

    def checkpoint_steps(self, job_id: str) -> list[int]:
        with self.database.read() as session:
            return [c.step for c in checkpoints.list_checkpoints(session, self.project, job_id).items]

    def weights_digest(self, job_id: str) -> str:
        """SHA-256 of the published weights."""
        return self.verified_artifacts(job_id)["model.safetensors"]["sha256"]

    def verified_artifacts(self, job_id: str) -> dict[str, dict]:
        """Listed artifacts by name. Each is downloaded and compared with its listed digest and size."""
        artifacts = artifacts_by_name(self.http, job_id)
        for name, artifact in artifacts.items():
            content = self.http.get(f"/v1/jobs/{job_id}/artifacts/{name}").content
            digest_and_size = (hashlib.sha256(content).hexdigest(), len(content))
            assert digest_and_size == (artifact["sha256"], artifact["size_bytes"]), name
        return artifacts

    def assert_nothing_partial(self, job_id: str, *, compressed=()) -> None:
        """All artifacts are published or none, those of compression included; every listed checkpoint is complete."""
        job, names = self.job(job_id), set(self.verified_artifacts(job_id))
        complete = {"README.md", "config.json", "model.safetensors", "predictions.npz", "report.json", *compressed}
        assert names == (complete if job["status"] == "succeeded" else set())
        path = f"/v1/jobs/{job_id}/checkpoints"
        for checkpoint in self.http.get(path).json()["data"]:
            content = self.http.get(f"{path}/{checkpoint['id']}/model.safetensors").content
            assert hashlib.sha256(content).hexdigest() == checkpoint["sha256"]
        with self.database.read() as session:
            for checkpoint in checkpoints.list_checkpoints(session, self.project, job_id).items:
                for file in checkpoint.files:
                    assert self.store.measure(file["key"]).sha256 == file["sha256"]


class ThreadedServer:
    """The app behind uvicorn in a thread."""

    def __init__(self, app) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        # Connections stay open while a worker process runs: with uvicorn's 5 s a request may meet a closing one.
        config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1, timeout_keep_alive=60)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],), daemon=True)
        self._thread.start()
        until(lambda: self._server.started, 20, "the API did not start")

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)


@pytest.fixture(scope="package")
def service(tmp_path_factory, valkey):
    home = tmp_path_factory.mktemp("service")
    settings = Settings(home=home, broker_url=valkey, control_poll_seconds=0.05)
    migrate(settings.resolved_database_url())
    database, broker = open_database(settings), Broker(valkey)
    store = open_store(settings.resolved_storage_url())
    with database.write() as session:
        project = projects.create(session, "chaos").id
        token = keys.create(session, project, name="chaos", scopes=keys.SCOPES).token
    api = ThreadedServer(create_app(settings, database, store, broker))
    worker = ForkedWorker(home, valkey)
    client = httpx.Client(base_url=api.url, headers={"Authorization": f"Bearer {token}"}, timeout=30, trust_env=False)
    service = Service(settings, database, store, client, project, worker)
    created = client.post("/v1/datasets", json=DIGITS).json()
    service.run_worker()
    dataset = client.get(f"/v1/datasets/{created['id']}").json()
    assert dataset["status"] == "ready", dataset
    service.dataset = dataset["id"]
    yield service
    worker.close()
    client.close()
    api.stop()
    broker.close()
    database.dispose()


@pytest.fixture(scope="package")
def reference_job(service) -> str:
    """Id of an undisturbed job."""
    job_id = service.submit()
    service.run_worker()
    job = service.job(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 1), job
    return job_id


@pytest.fixture(scope="package")
def reference_digest(service, reference_job) -> str:
    """SHA-256 of the weights of an undisturbed job."""
    return service.weights_digest(reference_job)
