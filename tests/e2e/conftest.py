"""One real stack for the whole session, and a real browser in front of it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.ports import free_port
from tests.support.waiting import until_resource

ROOT = Path(__file__).resolve().parents[2]
SERVER = Path(sys.executable).with_name("potstill-server")
READY_SECONDS = 90
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def pytest_collection_modifyitems(items):
    """Every test of this folder talks to a running stack."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.stack)


@dataclass
class Stack:
    """`potstill-server up` on a folder of its own, as a user starts it."""

    home: Path
    port: int
    process: subprocess.Popen

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        return (self.home / "api-key").read_text().strip()

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=70)

    def processes(self) -> list[psutil.Process]:
        return [self.process_of_supervisor(), *self.process_of_supervisor().children(recursive=True)]

    def memory_bytes(self) -> int:
        """Proportional memory of all processes; one that ends meanwhile counts nothing."""
        used = 0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
                used += process.memory_full_info().pss
        return used

    def process_of_supervisor(self) -> psutil.Process:
        return psutil.Process(self.process.pid)


def start_stack(home: Path, **environment: str) -> Stack:
    port = free_port()
    with (home / "up.log").open("ab") as log:
        process = subprocess.Popen(
            [str(SERVER), "up", "--home", str(home), "--host", "127.0.0.1", "--port", str(port)],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **environment},
        )
    stack = Stack(home, port, process)
    wait_until_ready(stack)
    return stack


def wait_until_ready(stack: Stack) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and stack.process.poll() is None:
        try:
            if httpx.get(f"{stack.url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail(f"the stack did not get ready:\n{(stack.home / 'up.log').read_text()[-4000:]}")


def stop_stack(stack: Stack) -> None:
    if stack.process.poll() is None:
        stack.process.send_signal(signal.SIGTERM)
        stack.process.wait(45)


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    running = start_stack(tmp_path_factory.mktemp("stack"))
    yield running
    stop_stack(running)


@pytest.fixture
def another_stack():
    """Starts a second stack on a folder, which ends with the test."""
    running = []

    def start(home: Path) -> Stack:
        running.append(start_stack(home))
        return running[-1]

    yield start
    for each in running:
        stop_stack(each)


@pytest.fixture(scope="session")
def http(stack):
    with stack.client() as client:
        yield client


@pytest.fixture(scope="session")
def digits(http) -> str:
    """The id of a ready dataset of handwritten digits."""
    dataset = http.post("/v1/datasets", json={"name": "digits", "source": {"type": "builtin", "name": "digits"}}).json()
    return until_resource(http, f"/v1/datasets/{dataset['id']}", lambda d: d["status"] != "processing")["id"]


@pytest.fixture(scope="session")
def wait_until(http):
    def wait(path, done, seconds=120):
        return until_resource(http, path, done, seconds)

    return wait


@pytest.fixture
def browser_page():
    """A page of a real Chromium. Without one: a loud skip on a laptop, a failure where CI=true."""
    if CHROMIUM is None:
        message = "no Chromium found: install it (apt-get install chromium) to run the browser tests"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        page = browser.new_page()
        yield page
        browser.close()
