"""Real worker processes: warm-up, inspector calls, crashes of pool processes, and shutdown."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from core.broker import InspectorTimeout
from core.errors import InvalidSpec, Unavailable
from core.settings import Settings
from core.spec import parse_job_spec
from core.store import datasets, jobs
from tests.support.specs import tiny_vit
from tests.support.waiting import until
from worker.app import make_app
from worker.claim_loop import run_next
from worker.ingest.parent import DATASETS

SECONDS = 90


@pytest.fixture
def start_role(service):
    """Return a function that starts a role of the server as a process."""
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


def call(broker, name, payload=None, timeout=30.0):
    async def call_once():
        try:
            return await broker.call_inspector(name, payload, timeout)
        finally:
            await broker.aclose()

    return asyncio.run(call_once())


def ping(broker):
    try:
        return call(broker, "ping")
    except Unavailable:
        return None


def test_the_inspector_responds_and_shuts_down_cleanly(service, start_role):
    parent, process = start_role("inspector")
    broker = service.context.broker
    until(lambda: broker.is_alive("inspect"), SECONDS)

    assert "torch" in call(broker, "ping")
    with pytest.raises(InvalidSpec):
        call(broker, "resolve", {"spec": {"dataset": "x"}, "dataset": {}, "models": {}, "threads": 1})

    pool = parent.children()[0]
    assert (parent.num_threads(), pool.num_threads()) == (1, 1)
    pool.send_signal(signal.SIGTERM)  # a SIGTERM to the process group must not kill a process that saves
    assert "torch" in call(broker, "ping")
    process.terminate()
    assert process.wait(20) == 0
    assert not pool.is_running()
    assert not broker.is_alive("inspect")


HANGING_INSPECTOR = """
import sys, time, types
import worker.app
from core.settings import load_settings

def warm_up():
    from worker import inspector
    inspector._CALLS["ping"] = ping

def ping(payload):
    return hang(payload["ignores_limit"]) if "ignores_limit" in payload else {"torch": "stub"}

def hang(ignores_limit):
    while True:
        try:
            time.sleep(60)
        except BaseException:
            if not ignores_limit:
                raise

sys.modules["hanging_inspector"] = types.SimpleNamespace(warm_up=warm_up)
worker.app.PRELOAD["inspect"] = "hanging_inspector"
worker.app.serve(load_settings(), "inspect")
"""


@pytest.mark.slow
def test_a_call_that_never_ends_fails_and_at_most_its_process_is_replaced(service, start_role):
    parent, _ = start_role("-c", HANGING_INSPECTOR, interpreter=())
    broker = service.context.broker
    until(lambda: broker.is_alive("inspect"), SECONDS)
    pool = parent.children()[0]
    # Here the process imports torch at its first call.
    assert call(broker, "ping", timeout=60.0) == {"torch": "stub"}

    with pytest.raises(InvalidSpec, match="too long"):
        call(broker, "ping", {"ignores_limit": False}, timeout=3.0)
    assert pool.is_running()
    with pytest.raises(InspectorTimeout):
        call(broker, "ping", {"ignores_limit": True}, timeout=3.0)
    until(lambda: not pool.is_running(), SECONDS)
    until(lambda: ping(broker), SECONDS)


def test_the_ingest_worker_reacts_to_messages_and_its_pool_dies_with_it(service, start_role):
    parent, process = start_role("worker", "--queues", "ingest")
    broker = service.context.broker
    until(lambda: broker.is_alive("ingest"), SECONDS)
    dataset = service.write(datasets.create, service.project, name="d", source={"type": "builtin", "name": "digits"})
    broker.wake_dataset_workers()
    until(lambda: service.read(datasets.get, service.project, dataset.id).status == "ready", SECONDS)

    assert "torch" not in " ".join(m.path for m in parent.children()[0].memory_maps())
    pool = parent.children()[0]
    process.kill()
    process.wait()
    until(lambda: not pool.is_running() or pool.status() == psutil.STATUS_ZOMBIE, 5)


@pytest.fixture
def long_job(service):
    """An unresolved job of many short epochs on real images."""
    return make_long_job(service)


def make_long_job(service, **resources):
    dataset = service.write(datasets.create, service.project, name="d", source={"type": "builtin", "name": "digits"})
    run_next(DATASETS)
    spec = {
        "dataset": dataset.id,
        "student": tiny_vit(patch_size=4, embed_dim=16, depth=1),
        "method": {"name": "scratch"},
        "training": {"epochs": 5000, "batch_size": 256, "augmentation": "none", "checkpoint_every_epochs": 1},
        "resources": {"threads": 1, **resources},
    }
    document = parse_job_spec(spec).model_dump(mode="json")
    return service.write(jobs.create, service.project, spec=document, resolved=False, dataset_id=dataset.id)


def test_a_job_resumes_after_its_process_was_killed_and_is_released_on_sigterm(service, start_role, long_job):
    parent, process = start_role("worker")
    broker = service.context.broker
    until(lambda: broker.is_alive("jobs.cpu"), SECONDS)
    pool = parent.children()[0]
    assert (parent.num_threads(), pool.num_threads()) == (1, 1)

    broker.wake_job_workers("cpu")
    until(lambda: service.reload(long_job).checkpoint_step > 0, SECONDS)
    checkpointed = service.reload(long_job)
    assert (checkpointed.resolved, checkpointed.spec["training"]["image_size"]) == (True, 8)
    pool.children()[0].kill()
    until(lambda: service.reload(long_job).attempt == 2 and service.reload(long_job).stage == "distill", SECONDS)
    assert service.reload(long_job).progress["step"] >= checkpointed.checkpoint_step
    assert pool.is_running()  # only the job's own process was lost

    until(lambda: service.reload(long_job).checkpoint_step > checkpointed.checkpoint_step, SECONDS)
    began = time.monotonic()
    process.terminate()
    assert process.wait(30) == 0
    released = service.reload(long_job)
    assert (released.status, released.worker_losses, released.worker_id) == ("queued", 0, None)
    assert released.progress["step"] == released.checkpoint_step  # all trained steps are saved
    assert time.monotonic() - began < 20
    assert not pool.is_running()


@pytest.mark.slow
def test_a_job_on_two_devices_resumes_after_one_of_its_processes_was_killed(service, start_role):
    job = make_long_job(service, devices=2)
    parent, _ = start_role("worker")
    broker = service.context.broker
    until(lambda: broker.is_alive("jobs.cpu"), SECONDS)
    pool = parent.children()[0]

    broker.wake_job_workers("cpu")
    until(lambda: service.reload(job).checkpoint_step > 0, SECONDS)
    first_step = service.reload(job).checkpoint_step
    rank_0, (rank_1,) = pool.children()[0], pool.children()[0].children()
    rank_1.kill()
    until(lambda: service.reload(job).attempt == 2, SECONDS)
    until(lambda: service.reload(job).checkpoint_step > first_step, SECONDS)
    assert (service.reload(job).worker_losses, service.reload(job).worker_id is not None) == (
        0,
        True,
    )  # no loss counts after progress
    assert not rank_0.is_running()

    (new_rank_1,) = pool.children()[0].children()
    service.write(jobs.stop, service.project, job.id)
    until(lambda: service.reload(job).status == "succeeded", SECONDS)
    assert not new_rank_1.is_running()


def test_messages_are_json_and_a_job_survives_a_broker_restart():
    settings = make_app(Settings()).conf

    assert list(settings.accept_content) == ["json"]
    assert settings.worker_cancel_long_running_tasks_on_connection_loss is False
    assert settings.broker_transport_options["visibility_timeout"] > 7 * 24 * 3600
