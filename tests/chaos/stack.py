"""A service under its supervisor, started as a user starts it, whose processes a test can find by role."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.waiting import until

READY_SECONDS = 300.0  # on a busy machine
STOP_SECONDS = 45.0
PROCESS_SECONDS = 20.0  # until a process with a given role exists
LEASE_SECONDS = 4.0
GC_MIN_AGE_SECONDS = 8.0

SHORT_INTERVALS = {
    "POTSTILL_LEASE_SECONDS": str(LEASE_SECONDS),
    "POTSTILL_HEARTBEAT_SECONDS": "1",
    "POTSTILL_CONTROL_POLL_SECONDS": "0.3",
    "POTSTILL_SCHEDULER_INTERVAL_SECONDS": "0.5",
    "POTSTILL_GC_INTERVAL_SECONDS": "2",
    "POTSTILL_GC_MIN_AGE_SECONDS": str(GC_MIN_AGE_SECONDS),
}


class Stack:
    """``potstill-server up`` on a folder and a port, which restarts keep."""

    def __init__(self, home: Path, postgres: PostgresServer | None = None, *, workers: int = 1, **environment) -> None:
        self.home = home
        self._workers = workers
        self.postgres = postgres  # None: SQLite
        self.database_url = postgres.url if postgres is not None else ""
        self._environment = {**os.environ, **SHORT_INTERVALS, **environment}
        if postgres is not None:
            self._environment["POTSTILL_DATABASE_URL"] = postgres.url
        self._port = free_port()
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=10, trust_env=False)
        self._process: subprocess.Popen[bytes] | None = None

    # --- start and stop -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the service, and its database if a power cut killed it; wait until it is ready."""
        if self.postgres is not None and not self.postgres.is_running():
            self.postgres.start()
        self.home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-P", "-m", "server", "up", "--home", str(self.home), "--port", str(self._port)]
        command += ["--workers", str(self._workers)]
        with (self.home / "up.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=self._environment
            )
        until(self.is_ready, READY_SECONDS, "the stack did not become ready")
        self._client.headers["Authorization"] = f"Bearer {(self.home / 'api-key').read_text().strip()}"

    def cut_power(self) -> None:
        """Kill every process at once."""
        processes = self.processes()
        if self.postgres is not None:
            self.postgres.kill()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        _, alive = psutil.wait_procs(processes, 5)
        assert not alive, f"processes survived SIGKILL: {alive}"

    def stop(self) -> list[str]:
        """Stop the service as a user does; return the command lines of processes that are still alive."""
        self._client.close()
        if self._process is None:
            return []
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.cut_power()
                return ["the supervisor, which did not react to SIGTERM"]
        return [" ".join(process.cmdline()) for process in self._own_processes() if process.status() != "zombie"]

    def _own_processes(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getsid(process.pid) == self._process.pid or str(self.home) in process.cmdline():
                    yield process

    # --- processes ----------------------------------------------------------------------------------

    def processes(self) -> list[psutil.Process]:
        """The supervisor and all its descendants."""
        supervisor = psutil.Process(self._process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def wait_for_process(self, role: str) -> psutil.Process:
        """Return the process of a role: ``api``, ``scheduler``, ``inspector``, ``valkey``, or one of the job worker's.

        The job worker has three: ``worker`` reads from the broker, ``pool`` claims and monitors a job, ``job`` trains.
        """
        return until(lambda: self._find_process(role), PROCESS_SECONDS, f"no process has the role {role}")

    def _find_process(self, role: str) -> psutil.Process | None:
        return next(self.find_processes(role), None)

    def find_processes(self, role: str) -> Iterator[psutil.Process]:
        """Yield all processes that have a role now."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if role == _role(process):
                    yield process

    # --- requests -----------------------------------------------------------------------------------

    def is_ready(self) -> bool:
        return self._responds("GET", "/readyz", 200)

    def is_fully_ready(self) -> bool:
        """Whether the service is ready and can use its broker and inspector."""
        readiness = self.try_get("/readyz")
        return readiness is not None and readiness["degraded"] == []

    def is_alive(self) -> bool:
        return self._responds("GET", "/healthz", 200)

    def can_estimate(self, spec: dict[str, Any]) -> bool:
        """Whether the inspector estimates a spec."""
        return self._responds("POST", "/v1/estimates", 200, json=spec)

    def _responds(self, method: str, path: str, status: int, **options: Any) -> bool:
        assert self._process.poll() is None, (self.home / "up.log").read_text(errors="replace")[-3000:]
        with contextlib.suppress(httpx.TransportError):
            return self._client.request(method, path, **options).status_code == status
        return False

    def call(self, method: str, path: str, seconds: float = 30.0, **options: Any) -> httpx.Response:
        """Send a request; repeat it after connection errors, 502 and 503. Raises ``TimeoutError``."""

        def try_call() -> httpx.Response | None:
            with contextlib.suppress(httpx.TransportError):
                response = self._client.request(method, path, **options)
                return None if response.status_code in {502, 503} else response
            return None

        return until(try_call, seconds, f"{method} {path} got no response")

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Send a GET request as :meth:`call` does; its status must be 200."""
        response = self.call("GET", path, **options)
        assert response.status_code == 200, response.text
        return response

    def try_get(self, path: str) -> Any:
        """Return the document at ``path``, or None if one request does not succeed."""
        with contextlib.suppress(httpx.TransportError):
            response = self._client.get(path)
            return response.json() if response.status_code == 200 else None
        return None


def _role(process: psutil.Process) -> str:
    words = process.cmdline()
    if any("valkey" in word for word in words):
        return "valkey"
    role = words[words.index("server") + 1] if "server" in words else ""
    if role != "worker":
        return role if _is_group_leader(process) else ""
    if "--queues" in words:
        return "ingest"
    if _is_group_leader(process):
        return "worker"
    # Neither the pool process nor the job process, which it forks, is a group leader.
    children = [child for child in process.children() if "worker" in child.cmdline()]
    if children:
        return "pool"
    parent = process.parent()
    return "job" if parent is not None and "worker" in parent.cmdline() and not _is_group_leader(parent) else ""


def _is_group_leader(process: psutil.Process) -> bool:
    """Whether the supervisor started the process: each of those leads a process group."""
    return os.getpgid(process.pid) == process.pid
