"""The processes of a service without a supervisor, so that a test controls the outage of each."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from tests.support.api import is_terminal
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.valkey import ValkeyServer
from tests.support.waiting import until, until_resource

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {
    "api": ("api", "--host", "127.0.0.1", "--port"),
    "inspector": ("inspector",),
    "worker": ("worker",),
    "ingest": ("worker", "--queues", "ingest"),
    "scheduler": ("scheduler",),
}
SHORT_INTERVALS = {
    "POTSTILL_LEASE_SECONDS": "4",
    "POTSTILL_HEARTBEAT_SECONDS": "1",
    "POTSTILL_CONTROL_POLL_SECONDS": "0.3",
    "POTSTILL_SCHEDULER_INTERVAL_SECONDS": "0.5",
    "POTSTILL_STATEMENT_TIMEOUT_SECONDS": "1",
}
START_SECONDS = 90.0
JOB_SECONDS = 150.0


class ServiceProcesses:
    """All roles of a service with their own PostgreSQL and Valkey. No process is restarted."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.database, self.broker, self._port = PostgresServer(), ValkeyServer(), free_port()
        self._environment = {
            **os.environ,
            **SHORT_INTERVALS,
            "POTSTILL_HOME": str(home),
            "POTSTILL_DATABASE_URL": self.database.url,
            "POTSTILL_BROKER_URL": self.broker.url,
        }
        subprocess.run(self._command("prepare"), env=self._environment, check=True, capture_output=True, cwd=ROOT)
        self._processes = {name: self._start(name) for name in COMMANDS}
        key = (home / "api-key").read_text().strip()
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self._port}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=20,
            trust_env=False,
        )
        until(self._is_ready, START_SECONDS, f"the service did not become ready (logs: {home}/*.log)")

    def close(self) -> None:
        """Kill all processes and both servers."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.http.close()
        self.broker.kill()
        self.database.close()

    def job(self, job_id: str) -> dict:
        return self.http.get(f"/v1/jobs/{job_id}").json()

    def finished_job(self, job_id: str) -> dict:
        """Wait until the job is terminal."""
        return until_resource(self.http, f"/v1/jobs/{job_id}", is_terminal, JOB_SECONDS)

    def _command(self, role: str, *arguments: str) -> list[str]:
        return [sys.executable, "-P", "-m", "server", role, "--home", str(self.home), *arguments]

    def _start(self, name: str) -> subprocess.Popen:
        arguments = (*COMMANDS[name], str(self._port)) if name == "api" else COMMANDS[name]
        with (self.home / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                self._command(*arguments),
                env=self._environment,
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _is_ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self.http.get("/readyz").status_code == 200
        return False
