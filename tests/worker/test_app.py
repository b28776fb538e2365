"""A real worker process: warm, one thread, answers, survives its pool and its broker, and ends cleanly."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from core.broker import Broker, InspectorTimeout
from core.errors import InvalidSpec, Unavailable
from core.settings import Settings
from core.spec import parse_job_spec
from core.store import datasets, jobs
from worker.app import make_app
from worker.claim_loop import run_next
from worker.ingest.parent import DATASETS

SECONDS = 90


@pytest.fixture
def started(service):
    """Start a role of the server beside this process."""
    processes = []

    def start(*role, interpreter=("-P", "-m", "server")):
        environment = {
            **os.environ,
            "POTSTILL_HOME": str(service.settings.home),
            "POTSTILL_BROKER_URL": service.settings.broker_url,
        }
        process = subprocess.Popen([sys.executable, *interpreter, *role], env=environment, stderr=subprocess.DEVNULL)
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
            return await hints.call_inspector(question, payload, patience)
        finally:
            await hints.aclose()

    return asyncio.run(once())


def answered(hints):
    try:
        return ask(hints, "ping")
    except Unavailable:
        return None


def test_the_inspector_answers_and_ends_cleanly(service, started):
    parent, process = started("inspector")
    hints: Broker = service.context.broker
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


MAD = """
import sys, time, types
import worker.app
from core.settings import load_settings

def warm_up():
    from worker import inspector
    inspector._CALLS["ping"] = lambda payload: hang(payload["deaf"]) if "deaf" in payload else {"torch": "stub"}

def hang(deaf):
    while True:
        try:
            time.sleep(60)
        except BaseException:
            if not deaf:
                raise

sys.modules["mad"] = types.SimpleNamespace(warm_up=warm_up)
worker.app.PRELOAD["inspect"] = "mad"
worker.app.serve(load_settings(), "inspect")
"""


@pytest.mark.slow
def test_a_question_that_never_ends_is_refused_and_at_the_worst_costs_its_process(service, started):
    parent, _ = started("-c", MAD, interpreter=())
    hints = service.context.broker
    until(lambda: hints.is_alive("inspect"))
    pool = parent.children()[0]
    # The process that answers imports torch at its first question here.
    assert ask(hints, "ping", patience=60.0) == {"torch": "stub"}

    with pytest.raises(InvalidSpec, match="too long"):
        ask(hints, "ping", {"deaf": False}, patience=3.0)
    assert pool.is_running()
    with pytest.raises(InspectorTimeout):
        ask(hints, "ping", {"deaf": True}, patience=3.0)
    until(lambda: not pool.is_running())
    until(lambda: answered(hints))


def test_the_ingest_worker_takes_hints_and_its_pool_dies_with_it(service, started):
    parent, process = started("worker", "--queues", "ingest")
    hints = service.context.broker
    until(lambda: hints.is_alive("ingest"))
    dataset = service.do(datasets.create, service.project, name="d", source={"type": "builtin", "name": "digits"})
    hints.wake_dataset_workers()
    until(lambda: service.ask(datasets.get, service.project, dataset.id).status == "ready")

    assert "torch" not in " ".join(m.path for m in parent.children()[0].memory_maps())
    pool = parent.children()[0]
    process.kill()
    process.wait()
    until(lambda: not pool.is_running() or pool.status() == psutil.STATUS_ZOMBIE, 5)


@pytest.fixture
def long_job(service):
    """A job that nobody has resolved, of many short epochs, on real pictures."""
    return make_long_job(service)


def make_long_job(service, **resources):
    dataset = service.do(datasets.create, service.project, name="d", source={"type": "builtin", "name": "digits"})
    run_next(DATASETS)
    size = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    spec = {
        "dataset": dataset.id,
        "student": {"architecture": "vit_tiny_patch16_224", "arguments": size},
        "method": {"name": "scratch"},
        "training": {"epochs": 5000, "batch_size": 256, "augmentation": "none", "checkpoint_every_epochs": 1},
        "resources": {"threads": 1, **resources},
    }
    document = parse_job_spec(spec).model_dump(mode="json")
    return service.do(jobs.create, service.project, spec=document, resolved=False, dataset_id=dataset.id)


def test_a_job_goes_on_after_its_process_was_killed_and_is_handed_back_on_sigterm(service, started, long_job):
    parent, process = started("worker")
    hints = service.context.broker
    until(lambda: hints.is_alive("jobs.cpu"))
    pool = parent.children()[0]
    assert (parent.num_threads(), pool.num_threads()) == (1, 1)

    hints.wake_job_workers("cpu")
    until(lambda: service.see(long_job).checkpoint_step > 0)
    reached = service.see(long_job)
    assert (reached.resolved, reached.spec["training"]["image_size"]) == (True, 8)
    pool.children()[0].kill()
    until(lambda: service.see(long_job).attempt == 2 and service.see(long_job).stage == "distill")
    assert service.see(long_job).progress["step"] >= reached.checkpoint_step
    assert pool.is_running()  # only the job's own process was lost

    until(lambda: service.see(long_job).checkpoint_step > reached.checkpoint_step)
    began = time.monotonic()
    process.terminate()
    assert process.wait(30) == 0
    left = service.see(long_job)
    assert (left.status, left.worker_losses, left.worker_id) == ("queued", 0, None)
    assert left.progress["step"] == left.checkpoint_step  # what was trained is saved, not lost
    assert time.monotonic() - began < 20
    assert not pool.is_running()


def test_a_job_on_two_devices_goes_on_after_one_of_its_processes_was_killed(service, started):
    job = make_long_job(service, devices=2)
    parent, _ = started("worker")
    hints = service.context.broker
    until(lambda: hints.is_alive("jobs.cpu"))
    pool = parent.children()[0]

    hints.wake_job_workers("cpu")
    until(lambda: service.see(job).checkpoint_step > 0)
    reached = service.see(job).checkpoint_step
    first, (second,) = pool.children()[0], pool.children()[0].children()
    second.kill()
    until(lambda: service.see(job).attempt == 2)
    until(lambda: service.see(job).checkpoint_step > reached)
    assert (service.see(job).worker_losses, service.see(job).worker_id is not None) == (
        0,
        True,
    )  # it got on, so none counts
    assert not first.is_running()

    (third,) = pool.children()[0].children()
    service.do(jobs.stop, service.project, job.id)
    until(lambda: service.see(job).status == "succeeded")
    assert not third.is_running()


def test_messages_are_json_and_a_job_outlives_its_broker():
    settings = make_app(Settings()).conf

    assert list(settings.accept_content) == ["json"]
    assert settings.worker_cancel_long_running_tasks_on_connection_loss is False
    assert settings.broker_transport_options["visibility_timeout"] > 7 * 24 * 3600
