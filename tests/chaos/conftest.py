"""A service around the workbench: the real API, the real store, a worker that lives as long as it is told."""

import hashlib
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

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
from tests.chaos.specs import small_job
from tests.chaos.workbench import Workbench

WORKER_LOST_AFTER = 3


@dataclass
class Lab:
    """What a test sees: HTTP as a client, the store through its interface, and the worker's lives."""

    settings: Settings
    database: Database
    store: ArtifactStore
    http: httpx.Client
    project: str
    workbench: Workbench
    dataset: str = ""
    faults: int = 0

    def submit(self, *, teacher_is_new=True, **changes) -> str:
        """A job; its teacher is trained by it, unless told otherwise."""
        if teacher_is_new:
            with self.database.write() as session:
                session.execute(delete(Teacher))
        spec = small_job(self.dataset, **{"epochs": 4, "teacher_epochs": 1, **changes})
        answer = self.http.post("/v1/jobs", json=spec)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def live(self, point: str | None = None, action: str = "kill", nth: int = 1) -> int:
        """One life of the worker; whether what was asked for happened is known by :meth:`happened`."""
        if point is None:
            return self.workbench.live()
        self.faults += 1
        self.fault_file.unlink(missing_ok=True)
        return self.workbench.live(f"{point}#{nth}={action}@{self.fault_file}")

    @property
    def fault_file(self) -> Path:
        return self.settings.home / f"fault-{self.faults}"

    def happened(self) -> bool:
        return self.fault_file.exists()

    def bury(self) -> None:
        """Do what the scheduler does once a lease has run out: the worker of the bench is dead between its lives."""
        with self.database.write() as session:
            for job in jobs.list_jobs(session, self.project, status="running").items:
                jobs.record_loss(session, jobs.LeaseToken.of(job), WORKER_SILENT, WORKER_LOST_AFTER)

    def finish(self, job_id: str) -> dict:
        """Undisturbed lives until the job is terminal."""
        for _ in range(WORKER_LOST_AFTER + 1):
            self.bury()
            if self.see(job_id)["terminal"]:
                break
            self.live()
        return self.see(job_id)

    def see(self, job_id: str) -> dict:
        return self.http.get(f"/v1/jobs/{job_id}").json()

    def events(self, job_id: str) -> list[dict]:
        found, page = [], {"has_more": True}
        while page["has_more"]:
            after = {"after": found[-1]["id"]} if found else {}
            page = self.http.get(f"/v1/jobs/{job_id}/events", params={"limit": 100, **after}).json()
            found += page["data"]
        return found

    def checkpoint_steps(self, job_id: str) -> list[int]:
        with self.database.read() as session:
            return [one.step for one in checkpoints.list_checkpoints(session, self.project, job_id).items]

    def student(self, job_id: str) -> str:
        """The sha256 of the weights that are handed out."""
        return self.artifacts(job_id)["model.safetensors"]["sha256"]

    def artifacts(self, job_id: str) -> dict[str, dict]:
        """What the API lists, each file downloaded and compared with what the list says of it."""
        listed = {one["name"]: one for one in self.http.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]}
        for name, one in listed.items():
            content = self.http.get(f"/v1/jobs/{job_id}/artifacts/{name}").content
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (one["sha256"], one["size_bytes"]), name
        return listed

    def assert_nothing_half(self, job_id: str) -> None:
        """All artefacts or none, every listed checkpoint whole."""
        job, listed = self.see(job_id), set(self.artifacts(job_id))
        assert listed == (
            {"README.md", "config.json", "model.safetensors", "report.json"} if job["status"] == "succeeded" else set()
        )
        for one in self.http.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]:
            content = self.http.get(f"/v1/jobs/{job_id}/checkpoints/{one['id']}/model.safetensors").content
            assert hashlib.sha256(content).hexdigest() == one["sha256"]
        with self.database.read() as session:
            for one in checkpoints.list_checkpoints(session, self.project, job_id).items:
                for file in one.files:
                    assert self.store.measure(file["key"]).sha256 == file["sha256"]


class _Api:
    """The app behind uvicorn, in a thread."""

    def __init__(self, app) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],), daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)


@pytest.fixture(scope="module")
def lab(tmp_path_factory, valkey):
    home = tmp_path_factory.mktemp("lab")
    settings = Settings(home=home, broker_url=valkey, control_poll_seconds=0.05)
    migrate(settings.resolved_database_url())
    database, hints = open_database(settings), Broker(valkey)
    store = open_store(settings.resolved_storage_url())
    with database.write() as session:
        project = projects.create(session, "chaos").id
        token = keys.create(session, project, name="chaos", scopes=keys.SCOPES).token
    api = _Api(create_app(settings, database, store, hints))
    workbench = Workbench(home, valkey)
    client = httpx.Client(base_url=api.url, headers={"Authorization": f"Bearer {token}"}, timeout=30, trust_env=False)
    lab = Lab(settings, database, store, client, project, workbench)
    asked = client.post("/v1/datasets", json={"name": "digits", "source": {"type": "builtin", "name": "digits"}})
    lab.live()
    dataset = client.get(f"/v1/datasets/{asked.json()['id']}").json()
    assert dataset["status"] == "ready", dataset
    lab.dataset = dataset["id"]
    yield lab
    workbench.close()
    client.close()
    api.stop()
    hints.close()
    database.dispose()


@pytest.fixture(scope="module")
def calm(lab) -> str:
    """The weights that an undisturbed run gives."""
    job = lab.submit()
    lab.live()
    seen = lab.see(job)
    assert (seen["status"], seen["attempt"]) == ("succeeded", 1), seen
    return lab.student(job)
