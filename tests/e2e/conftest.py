"""One real stack for all tests of this folder, and a real browser."""

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

from tests.support.api import create_digits
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
SERVER = Path(sys.executable).with_name("potstill-server")
READY_SECONDS = 90
# A lost worker is noticed sooner than with the defaults.
SHORT_INTERVALS = {
    "POTSTILL_LEASE_SECONDS": "6",
    "POTSTILL_HEARTBEAT_SECONDS": "1.5",
    "POTSTILL_SCHEDULER_INTERVAL_SECONDS": "1",
}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def pytest_collection_modifyitems(items):
    """Mark every test of this folder as one that needs a running stack."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.stack)


@dataclass
class Stack:
    """`potstill-server up` with its own home folder, as a user starts it."""

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
        """The supervisor and all its descendants."""
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def memory_bytes(self) -> int:
        """Sum of the proportional set sizes of all processes; one that exits meanwhile counts as 0."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
                total += process.memory_full_info().pss
        return total


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
    try:
        wait_until_ready(stack)
    except BaseException:
        stop_stack(stack)
        raise
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
    pytest.fail(f"the stack did not become ready:\n{(stack.home / 'up.log').read_text()[-4000:]}")


def stop_stack(stack: Stack) -> None:
    if stack.process.poll() is None:
        stack.process.send_signal(signal.SIGTERM)
        stack.process.wait(45)


@pytest.fixture(scope="package")
def stack(tmp_path_factory):
    stack = start_stack(tmp_path_factory.mktemp("stack"), **SHORT_INTERVALS)
    yield stack
    stop_stack(stack)


@pytest.fixture
def start_second_stack():
    """Start a stack on a folder, with environment variables; it is stopped after the test."""
    stacks = []

    def start(home: Path, **environment: str) -> Stack:
        stacks.append(start_stack(home, **environment))
        return stacks[-1]

    yield start
    for stack in stacks:
        stop_stack(stack)


@pytest.fixture(scope="package")
def http(stack):
    with stack.client() as client:
        yield client


@pytest.fixture(scope="package")
def digits(http) -> str:
    """ID of the dataset of handwritten digits."""
    return create_digits(http)


@pytest.fixture
def browser_page():
    """A page of a real Chromium. Without one the test is skipped, or fails if CI=true."""
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
