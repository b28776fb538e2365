"""A real worker process: warm, one thread, answers, survives its pool and its broker, and ends cleanly."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from core.errors import InvalidSpec
from core.queue import Hints
from core.settings import Settings
from core.store import datasets
from worker.app import make_app

SECONDS = 90


@pytest.fixture
def started(service):
    """Start a role of the server beside this process."""
    processes = []

    def start(*role):
        environment = {
            **os.environ,
            "POTSTILL_HOME": str(service.settings.home),
            "POTSTILL_BROKER_URL": service.settings.broker_url,
        }
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "server", *role], env=environment, stderr=subprocess.DEVNULL
        )
        processes.append(process)
        return psutil.Process(process.pid), process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def until(found, seconds=SECONDS):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if value := found():
            return value
        time.sleep(0.02)
    pytest.fail("it did not come to that in time")


def ask(hints, question, payload=None, patience=30.0):
    async def once():
        try:
            return await hints.ask_inspector(question, payload, patience)
        finally:
            await hints.aclose()

    return asyncio.run(once())


def test_the_inspector_answers_and_comes_back_after_its_pool_was_killed(service, started):
    parent, process = started("inspector")
    hints: Hints = service.context.hints
    until(lambda: hints.is_alive("inspect"))

    assert "torch" in ask(hints, "ping")
    with pytest.raises(InvalidSpec):
        ask(hints, "resolve", {"spec": {"dataset": "x"}, "dataset": {}, "models": {}, "threads": 1})

    pool = parent.children()[0]
    assert (parent.num_threads(), pool.num_threads()) == (1, 1)
    pool.send_signal(signal.SIGTERM)  # the group's signal must not kill a process that saves
    assert "torch" in ask(hints, "ping")
    process.terminate()
    assert process.wait(20) == 0
    assert not pool.is_running()
    assert not hints.is_alive("inspect")


def test_the_ingest_worker_takes_hints_and_its_pool_dies_with_it(service, started):
    parent, process = started("worker", "--queues", "ingest")
    hints = service.context.hints
    until(lambda: hints.is_alive("ingest"))
    dataset = service.do(datasets.create, service.project, name="d", source={"type": "builtin", "name": "digits"})
    hints.look_for_datasets()
    until(lambda: service.ask(datasets.get, service.project, dataset.id).status == "ready")

    assert "torch" not in " ".join(m.path for m in parent.children()[0].memory_maps())
    pool = parent.children()[0]
    process.kill()
    process.wait()
    until(lambda: not pool.is_running() or pool.status() == psutil.STATUS_ZOMBIE, 5)


def test_messages_are_json_and_a_job_outlives_its_broker():
    settings = make_app(Settings()).conf

    assert list(settings.accept_content) == ["json"]
    assert settings.worker_cancel_long_running_tasks_on_connection_loss is False
    assert settings.broker_transport_options["visibility_timeout"] > 7 * 24 * 3600
