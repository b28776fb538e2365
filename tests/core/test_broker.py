"""The broker sends messages and calls; without a server nothing blocks for long and no message raises."""

import asyncio
import time

import pytest

from core import broker as broker_module
from core.broker import Broker, InspectorTimeout, InspectorUnavailable
from core.errors import FieldError, InvalidSpec, PotstillError, error_document, restore_error
from tests.support.valkey import ValkeyServer


@pytest.fixture
def server():
    server = ValkeyServer()
    yield server
    server.kill()


@pytest.fixture
def broker(server):
    broker = Broker(server.url)
    yield broker
    broker.close()


@pytest.fixture
def no_backoff(monkeypatch):
    monkeypatch.setattr(broker_module, "BACKOFF_SECONDS", 0.0)


def call_ping(broker, timeout=1.0):
    async def call():
        try:
            return await broker.call_inspector("ping", {}, timeout)
        finally:
            await broker.aclose()

    return asyncio.run(call())


def test_each_message_goes_to_its_queue(broker):
    broker.wake_job_workers("cpu")
    broker.wake_job_workers("cuda")
    broker.wake_dataset_workers()
    broker.wake_model_workers()

    assert broker.queue_lengths() == {"jobs.cpu": 1, "jobs.cuda": 1, "ingest": 2, "inspect": 0}


def test_a_job_for_any_accelerator_goes_to_a_living_worker(broker):
    broker.wake_job_workers("auto")
    assert broker.queue_lengths()["jobs.cpu"] == 1  # no worker is alive: every machine can serve this queue
    broker.mark_alive("jobs.cuda")
    broker.wake_job_workers("auto")

    assert (broker.queue_lengths()["jobs.cpu"], broker.queue_lengths()["jobs.cuda"]) == (1, 1)


def test_the_number_of_messages_is_limited(broker):
    for _ in range(broker_module.MAX_WAKE_MESSAGES + 10):
        broker.wake_job_workers("cpu")

    assert broker.queue_lengths()["jobs.cpu"] == broker_module.MAX_WAKE_MESSAGES


def test_without_a_broker_messages_are_dropped_at_once(broker, server, no_backoff):
    server.kill()
    began = time.monotonic()
    broker.wake_job_workers()
    broker.wake_dataset_workers()
    broker.publish_job_change("job_x")

    assert time.monotonic() - began < 1
    assert (broker.queue_lengths(), broker.is_reachable(), broker.is_alive("inspect")) == (None, False, False)


def test_a_hung_broker_delays_only_one_message(broker, server):
    server.freeze()
    began = time.monotonic()
    for _ in range(20):
        broker.wake_job_workers("cpu")
    server.thaw()

    assert time.monotonic() - began < 3


def test_messages_are_sent_again_after_an_outage(broker, server, no_backoff):
    broker.wake_job_workers("cpu")
    server.kill()
    broker.wake_job_workers("cpu")
    server.start()
    broker.wake_job_workers("cpu")

    assert broker.queue_lengths()["jobs.cpu"] == 1


def test_no_call_is_sent_without_an_inspector(broker):
    with pytest.raises(InspectorUnavailable):
        call_ping(broker)
    assert broker.queue_lengths()["inspect"] == 0


def test_an_inspector_that_does_not_respond_times_out(broker):
    broker.mark_alive("inspect")

    with pytest.raises(InspectorTimeout):
        call_ping(broker, timeout=0.3)


def test_a_dead_inspector_is_noticed_before_the_timeout(broker, monkeypatch):
    monkeypatch.setattr(broker_module, "ALIVE_SECONDS", 0.5)
    broker.mark_alive("inspect")
    began = time.monotonic()

    with pytest.raises(InspectorUnavailable):
        call_ping(broker, timeout=30.0)
    assert time.monotonic() - began < 5


def test_a_call_without_a_broker_fails_at_once(broker, server):
    server.kill()
    began = time.monotonic()

    with pytest.raises(InspectorUnavailable):
        call_ping(broker, timeout=30.0)
    assert time.monotonic() - began < 2


def test_an_error_survives_serialization():
    error = InvalidSpec("Invalid.", errors=[FieldError("/student", "no")], extra={"more": [1]})
    back = restore_error(error_document(error))

    assert type(back) is InvalidSpec
    assert (back.detail, back.errors, back.extra) == (error.detail, error.errors, error.extra)


def test_an_unknown_error_code_is_still_an_error():
    document = error_document(InvalidSpec("Invalid.")) | {"code": "not_known_here"}

    assert type(restore_error(document)) is PotstillError
