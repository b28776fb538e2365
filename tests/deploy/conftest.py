"""Run the services of `docker-compose.yml` as processes, with a real PostgreSQL and Valkey."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml

from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVER = str(Path(sys.executable).with_name("potstill-server"))
PROCESSES = ("api", "worker", "ingest", "inspector", "scheduler")


class ComposedStack:
    """The processes of `docker compose up`, with the commands of the compose file."""

    def __init__(self, folder: Path, database_url: str, broker_url: str) -> None:
        self.folder = folder
        self.port = free_port()
        settings = COMPOSE["services"]["api"]["environment"]
        assert set(settings) >= {"POTSTILL_DATABASE_URL", "POTSTILL_BROKER_URL", "POTSTILL_HOME"}
        self.environment = {
            **os.environ,
            **settings,
            "POTSTILL_HOME": str(folder),
            "POTSTILL_DATABASE_URL": database_url,
            "POTSTILL_BROKER_URL": broker_url,
            "POTSTILL_STORAGE_URL": f"file://{folder}/artifacts",
            "POTSTILL_SECRET_KEY": "0123456789abcdef" * 4,
        }
        self.running: dict[str, subprocess.Popen] = {}

    def run_command(self, *arguments: str) -> str:
        run = subprocess.run(
            [SERVER, *arguments], cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    def start(self, name: str) -> None:
        _, *arguments = COMPOSE["services"][name]["command"]
        replacements = {"0.0.0.0": "127.0.0.1", "8000": str(self.port)}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [SERVER, *(replacements.get(argument, argument) for argument in arguments)],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and all(p.poll() is None for p in self.running.values()):
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        pytest.fail(self.logs())

    def logs(self) -> str:
        return "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in self.folder.glob("*.log"))

    def stop(self) -> dict[str, int | None]:
        """Stop all processes like `docker compose stop`; return their exit statuses."""
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        return {name: process.wait(60) for name, process in self.running.items()}


@pytest.fixture
def composed(tmp_path, pg_new, valkey):
    stack = ComposedStack(tmp_path, pg_new("composed"), valkey)
    yield stack
    for process in stack.running.values():
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
