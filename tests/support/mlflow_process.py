"""A real MLflow server, in an environment of its own: its packages are not the service's."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.ports import free_port

VERSION = "3.17.2"
ENVIRONMENT = Path(__file__).parents[2] / "build" / f"mlflow-{VERSION}"


@contextmanager
def run_mlflow(folder):
    """Run `mlflow server` with SQLite; yield its URL. Without a package index the test is skipped."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", f"mlflow=={VERSION}"]
        if subprocess.run(install).returncode:
            pytest.skip(f"mlflow {VERSION} cannot be installed")
        (ENVIRONMENT / "installed").touch()
    port = free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    options += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    environment = {**os.environ, "PYTHONPATH": "", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(python), "-m", "mlflow", "server", *options], stdout=log, stderr=log, env=environment, cwd=folder
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 180
        while not is_up(url):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def is_up(url):
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def call_mlflow(url, path, request=None):
    data = None if request is None else json.dumps(request).encode()
    message = urllib.request.Request(f"{url}/api/2.0/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(message, timeout=30) as response:
        return json.loads(response.read())
