"""A real stack, started as a user starts it, whose processes are found by what they do."""

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

from tests.chaos.parts import Postgres
from tests.support.ports import free_port
from tests.support.waiting import until

READY_SECONDS = 90.0
STOP_SECONDS = 45.0
PART_SECONDS = 20.0  # for a process to be there again
LEASE_SECONDS = 4.0
ORPHAN_SECONDS = 8.0

# Everything that takes its time in production is quick here, so that a hit takes seconds.
HASTE = {
    "POTSTILL_LEASE_SECONDS": str(LEASE_SECONDS),
    "POTSTILL_HEARTBEAT_SECONDS": "1",
    "POTSTILL_CONTROL_POLL_SECONDS": "0.3",
    "POTSTILL_SCHEDULER_INTERVAL_SECONDS": "0.5",
    "POTSTILL_GC_INTERVAL_SECONDS": "2",
    "POTSTILL_GC_MIN_AGE_SECONDS": str(ORPHAN_SECONDS),
}


class Stack:
    """``potstill-server up`` on a folder, through deaths and restarts."""

    def __init__(self, home: Path, postgres: Postgres | None = None) -> None:
        self.home = home
        self.postgres = postgres  # SQLite without it
        self.database_url = postgres.url if postgres is not None else ""
        self._environment = {**os.environ, **HASTE}
        if postgres is not None:
            self._environment["POTSTILL_DATABASE_URL"] = postgres.url
        self._port = free_port()
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=10, trust_env=False)
        self._process: subprocess.Popen[bytes] | None = None

    # --- its life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it and wait until it is ready; its database too, after a power cut."""
        if self.postgres is not None and not self.postgres.runs():
            self.postgres.start()
        self.home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-P", "-m", "server", "up", "--home", str(self.home), "--port", str(self._port)]
        with (self.home / "up.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=self._environment
            )
        until(self.ready, READY_SECONDS, "the stack did not get ready")
        self._client.headers["Authorization"] = f"Bearer {(self.home / 'api-key').read_text().strip()}"

    def cut_power(self) -> None:
        """Kill every process at once."""
        everything = self.everything()
        if self.postgres is not None:
            self.postgres.kill()
        for process in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        _, alive = psutil.wait_procs(everything, 5)
        assert not alive, f"processes outlived a power cut: {alive}"

    def stop(self) -> list[str]:
        """Stop it as a user does; the command lines of what it left behind."""
        self._client.close()
        if self._process is None:
            return []
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.cut_power()
                return ["the supervisor, which had to be killed"]
        return [" ".join(process.cmdline()) for process in self._belonging() if process.status() != "zombie"]

    def _belonging(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getsid(process.pid) == self._process.pid or str(self.home) in process.cmdline():
                    yield process

    # --- its processes --------------------------------------------------------------------------------

    def everything(self) -> list[psutil.Process]:
        supervisor = psutil.Process(self._process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def find(self, part: str) -> psutil.Process:
        """``api``, ``scheduler``, ``inspector``, ``valkey``, and of the job worker ``worker``, ``pool`` and ``job``.

        ``worker`` talks to the broker, ``pool`` claims a job and watches over it, ``job`` trains.
        """
        return until(lambda: self.look_for(part), PART_SECONDS, f"no process is {part}")

    def look_for(self, part: str) -> psutil.Process | None:
        """As :meth:`find`, without patience."""
        for process in self.everything():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if part == self._part(process):
                    return process
        return None

    def _part(self, process: psutil.Process) -> str:
        words = process.cmdline()
        if any("valkey" in word for word in words):
            return "valkey"
        role = words[words.index("server") + 1] if "server" in words else ""
        if role != "worker":
            return role if _leads(process) else ""
        if "--queues" in words:
            return "ingest"
        if _leads(process):
            return "worker"
        # The pool's process leads no group; nor does the job's, which it forked.
        children = [child for child in process.children() if "worker" in child.cmdline()]
        if children:
            return "pool"
        parent = process.parent()
        return "job" if parent is not None and "worker" in parent.cmdline() and not _leads(parent) else ""

    # --- what it says ---------------------------------------------------------------------------------

    def ready(self) -> bool:
        return self._answers("GET", "/readyz", 200)

    def whole(self) -> bool:
        """Ready, and with a broker and an inspector that are there."""
        found = self.look("/readyz")
        return found is not None and found["degraded"] == []

    def alive(self) -> bool:
        return self._answers("GET", "/healthz", 200)

    def explains(self, spec: dict[str, Any]) -> bool:
        """Whether the inspector answers a question about a spec."""
        return self._answers("POST", "/v1/estimates", 200, json=spec)

    def _answers(self, method: str, path: str, status: int, **more: Any) -> bool:
        assert self._process.poll() is None, (self.home / "up.log").read_text(errors="replace")[-3000:]
        with contextlib.suppress(httpx.TransportError):
            return self._client.request(method, path, **more).status_code == status
        return False

    def call(self, method: str, path: str, seconds: float = 30.0, **more: Any) -> httpx.Response:
        """An answer that is no refusal for the moment. Raises ``TimeoutError``."""

        def answer() -> httpx.Response | None:
            with contextlib.suppress(httpx.TransportError):
                found = self._client.request(method, path, **more)
                return None if found.status_code in {502, 503} else found
            return None

        return until(answer, seconds, f"{method} {path} was not answered")

    def get(self, path: str, **more: Any) -> Any:
        answer = self.call("GET", path, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def look(self, path: str) -> Any:
        """As :meth:`get`, without patience: None where nobody answers now."""
        with contextlib.suppress(httpx.TransportError):
            answer = self._client.get(path)
            return answer.json() if answer.status_code == 200 else None
        return None

    def everything_of(self, path: str, limit: int = 100) -> list[dict[str, Any]]:
        """All pages of a list."""
        found: list[dict[str, Any]] = []
        while True:
            after = {"after": found[-1]["id"]} if found else {}
            page = self.get(path, params={"limit": limit, **after})
            found += page["data"]
            if not page["has_more"]:
                return found


def _leads(process: psutil.Process) -> bool:
    """Whether the supervisor started it: each of those leads a process group of its own."""
    return os.getpgid(process.pid) == process.pid
