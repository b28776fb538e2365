"""Run a supervisor in a separate process, because it adopts and kills all of its descendants."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.waiting import until

SCRIPT = """
import json, os, signal, sys
from pathlib import Path
from server import supervisor
from server.processes import Role

folder, roles = Path(sys.argv[1]), json.loads(sys.argv[2])
supervisor.STOP_SECONDS = float(sys.argv[3])

def on_event(role, text):
    with (folder / "events").open("a") as file:
        file.write(f"{role} {text}\\n")

with supervisor.Supervisor(folder, on_line=lambda role, line: None, on_event=on_event) as running:
    for name, code in roles.items():
        running.start(Role(name, [sys.argv[4], "-c", code, name, str(folder)], dict(os.environ)))
    try:
        running.run()
    finally:
        running.stop(last=["last"])
"""

WRITE_PID = "import pathlib, os, sys; pathlib.Path(sys.argv[2], sys.argv[1] + '.pid').write_text(str(os.getpid()));"


@pytest.fixture
def supervised(tmp_path):
    """Start a supervisor with roles given as Python code; each first writes its pid to `<name>.pid`."""
    started = []

    def start(stop_seconds: float = 5.0, python: str = sys.executable, **roles: str) -> "RunningSupervisor":
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path), json.dumps({k: WRITE_PID + v for k, v in roles.items()}),
             str(stop_seconds), python],
        )  # fmt: skip
        started.append(process)
        return RunningSupervisor(process, tmp_path)

    yield start
    for process in started:
        process.kill()
        process.wait()


class RunningSupervisor:
    def __init__(self, process: subprocess.Popen, folder: Path) -> None:
        self.process = process
        self.folder = folder

    def pid(self, name: str, other_than: int | None = None) -> int:
        return until(lambda: self._pid(name, other_than))

    def _pid(self, name: str, other_than: int | None) -> int | None:
        file = self.folder / f"{name}.pid"
        text = file.read_text() if file.exists() else ""
        return int(text) if text and int(text) != other_than else None

    def events(self) -> str:
        file = self.folder / "events"
        return file.read_text() if file.exists() else ""

    def has_exited(self, pid: int) -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
