"""Real jobs that end badly: what they say of it, and whether a retry mends it."""

import os
import subprocess
import sys
from pathlib import Path

from core.errors import KilledForMemory
from core.settings import Settings
from core.spec import parse_job_spec
from core.spec.patch import merge_patch
from core.spec.revision import restart_scope
from core.store import checkpoints, datasets, jobs
from core.store.jobs import Revision
from worker import context as worker_context
from worker.claim_loop import run_next
from worker.ingest.parent import DATASETS
from worker.jobs import child  # the runner as the pool's process has it: imported before any job comes
from worker.jobs.parent import JOBS
from worker.process.usage import Usage

ROOT = Path(__file__).resolve().parents[3]
FRESH = "POTSTILL_TEST_IN_A_FRESH_PROCESS"
LIMIT = 530 * 1024**2  # between what the two batches need
SIZE = {"img_size": 16, "patch_size": 2, "embed_dim": 32, "depth": 4, "num_heads": 2}


def with_settings(service, **changes):
    """The same service with other settings, in this process and in those that it forks."""
    settings = Settings(**(service.settings.model_dump() | changes))
    service.context = worker_context.Context(settings, service.context.queue, service.context.worker_id)
    worker_context._Current.context = service.context


def new_job(service, *, training=None, resources=None, arguments=SIZE):
    dataset = service.do(datasets.create, service.project, name="d", source={"type": "builtin", "name": "digits"})
    run_next(DATASETS)
    spec = {
        "dataset": dataset.id,
        "student": {"architecture": "vit_tiny_patch16_224", "arguments": arguments},
        "method": {"name": "scratch"},
        "training": {"epochs": 1, "batch_size": 64, "augmentation": "none", **(training or {})},
        "resources": {"threads": 1, **(resources or {})},
        "export": ["safetensors"],
    }
    document = parse_job_spec(spec).model_dump(mode="json")
    return service.do(jobs.create, service.project, spec=document, resolved=False, dataset_id=dataset.id)


def retried(service, job, patch):
    """What the API does with a fix: see `api.jobs.retry`."""
    old = service.see(job)
    new = parse_job_spec(merge_patch(old.spec, patch)).model_dump(mode="json")
    tracks = restart_scope(old.spec, new).tracks
    revision = Revision(
        base_seq=old.last_seq, spec=new, resolved=True, total_steps=None, changes=["the fix"], tracks=tracks
    )
    return service.do(jobs.retry_revised, service.project, job.id, revision)


def baseline():
    """The data that a job's process has before it begins: what is imported."""
    return Usage.read(os.getpid()).data_bytes


def in_a_fresh_process(request):
    """Run a test in a process that has done nothing else; whether this is that process.

    What earlier tests freed stays with a process: its jobs could take that, and no limit would be felt.
    """
    if os.environ.get(FRESH) == "1":
        return True
    command = [sys.executable, "-m", "pytest", "-n0", "-q", f"{__file__}::{request.node.name}"]
    run = subprocess.run(command, env={**os.environ, FRESH: "1"}, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    return False


def test_a_job_beyond_its_memory_limit_says_so_and_its_fix_fits(request):
    if not in_a_fresh_process(request):
        return
    service = request.getfixturevalue("service")
    with_settings(service, job_memory_bytes=baseline() + LIMIT)
    job = new_job(service, training={"batch_size": 1400})
    run_next(JOBS)

    failed = service.see(job)
    assert failed.status == "failed"
    error = failed.error
    assert (error["code"], error["fault"]) == ("out_of_memory", "capacity"), error
    assert error["fix"] == {"training": {"batch_size": 700}}
    assert error["machine"]["memory_limit_bytes"] == service.settings.job_memory_bytes
    assert error["machine"]["disk_free_bytes"] > 0

    retried(service, job, error["fix"])
    run_next(JOBS)

    assert service.see(job).status == "succeeded", service.see(job).error


def test_a_job_of_several_processes_that_lost_one_to_the_kernel_says_so_and_has_a_fix(service, monkeypatch):
    def lose(*_):
        raise KilledForMemory("the kernel ended process 1 of the 2 that train together")

    with_settings(service, max_losses=1)
    job = new_job(service)
    monkeypatch.setattr(child.pipeline, "run", lose)
    run_next(JOBS)

    error = service.see(job).error
    assert (error["code"], error["fault"], error["fix"]) == (
        "out_of_memory",
        "capacity",
        {"training": {"batch_size": 32}},
    )
    assert any("the kernel ended process 1 of the 2" in line for line in error["log"])


def test_a_job_beyond_its_time_keeps_its_checkpoint_and_goes_on_with_more(service):
    job = new_job(service, training={"epochs": 4000}, resources={"max_seconds": 3})
    run_next(JOBS)

    failed = service.see(job)
    error = failed.error
    assert (failed.status, error["code"], error["fault"]) == ("failed", "time_limit", "capacity"), error
    assert failed.checkpoint_step > 0
    assert failed.progress["step"] == failed.checkpoint_step  # saved when it left, not lost
    assert error["fix"]["resources"]["max_seconds"] > 6
    assert service.ask(jobs.running_seconds, job.id) >= 3

    run_next(JOBS)  # nothing waits
    service.do(jobs.retry, service.project, job.id)
    run_next(JOBS)
    assert service.see(job).error["code"] == "time_limit"  # as it was, so it has no time left

    before = service.see(job).checkpoint_step
    again, _ = retried(service, job, {"resources": {"max_seconds": 10**6}})
    assert again.checkpoint_step == before
    service.do(jobs.claim, worker_id="wrk_other", accelerator="cpu", lease_seconds=60)
    attempt = jobs.LeaseToken.from_job(service.see(job))
    assert service.ask(checkpoints.list_resumable, attempt)[0].step == before
