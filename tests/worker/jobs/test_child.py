"""Real jobs that fail: their error, and whether its fix works."""

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
from worker.jobs import child  # imported before the fork, as in the pool's process
from worker.jobs.parent import JOBS
from worker.process.usage import Usage

ROOT = Path(__file__).resolve().parents[3]
FRESH_PROCESS = "POTSTILL_TEST_IN_A_FRESH_PROCESS"
EXTRA_MEMORY = 470 * 1024**2  # a batch of 1,400 needs at least 520 MiB, one of 700 about 320, more under load
SIZE = {"img_size": 16, "patch_size": 2, "embed_dim": 32, "depth": 4, "num_heads": 2}


def change_settings(service, **changes):
    """Change the settings of the service in this process and in the processes that it forks."""
    settings = Settings(**(service.settings.model_dump() | changes))
    service.context = worker_context.Context(settings, service.context.queue, service.context.worker_id)
    worker_context._Current.context = service.context


def create_job(service, *, training=None, resources=None, arguments=SIZE):
    dataset = service.write(datasets.create, service.project, name="d", source={"type": "builtin", "name": "digits"})
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
    return service.write(jobs.create, service.project, spec=document, resolved=False, dataset_id=dataset.id)


def retry_with(service, job, patch):
    """Retry a job with a fix, as `api.jobs.retry` does."""
    old = service.reload(job)
    new = parse_job_spec(merge_patch(old.spec, patch)).model_dump(mode="json")
    tracks = restart_scope(old.spec, new).tracks
    revision = Revision(
        base_seq=old.last_seq,
        spec=new,
        resolved=True,
        warnings=(),
        total_steps=None,
        changes=["the fix"],
        tracks=tracks,
    )
    return service.write(jobs.retry_revised, service.project, job.id, revision)


def imported_bytes():
    """Return the memory of a job's process before it starts: the imported modules."""
    return Usage.read(os.getpid()).data_bytes


def in_a_fresh_process(request):
    """Run the test in a new process; return whether this is that process.

    A process keeps the memory that earlier tests freed: a job could use it without reaching its limit.
    """
    if os.environ.get(FRESH_PROCESS) == "1":
        return True
    command = [sys.executable, "-m", "pytest", "-n0", "-q", f"{__file__}::{request.node.name}"]
    run = subprocess.run(command, env={**os.environ, FRESH_PROCESS: "1"}, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    return False


def test_a_job_beyond_its_memory_limit_fails_with_a_fix_that_works(request):
    if not in_a_fresh_process(request):
        return
    service = request.getfixturevalue("service")
    change_settings(service, job_memory_bytes=imported_bytes() + EXTRA_MEMORY)
    job = create_job(service, training={"batch_size": 1400})
    run_next(JOBS)

    failed = service.reload(job)
    assert failed.status == "failed"
    error = failed.error
    assert (error["code"], error["fault"]) == ("out_of_memory", "capacity"), error
    assert error["fix"] == {"training": {"batch_size": 700}}
    assert error["machine"]["memory_limit_bytes"] == service.settings.job_memory_bytes
    assert error["machine"]["disk_free_bytes"] > 0

    retry_with(service, job, error["fix"])
    run_next(JOBS)

    assert service.reload(job).status == "succeeded", service.reload(job).error


def test_a_job_that_lost_one_of_its_processes_to_the_oom_killer_has_a_fix(service, monkeypatch):
    def lose_process(*_):
        raise KilledForMemory("the kernel ended process 1 of the 2 that train together")

    change_settings(service, max_losses=1)
    job = create_job(service)
    monkeypatch.setattr(child.pipeline, "run", lose_process)
    run_next(JOBS)

    error = service.reload(job).error
    assert (error["code"], error["fault"], error["fix"]) == (
        "out_of_memory",
        "capacity",
        {"training": {"batch_size": 32}},
    )
    assert any("the kernel ended process 1 of the 2" in line for line in error["log"])


def test_a_job_beyond_its_time_limit_keeps_its_checkpoint_and_resumes_with_a_longer_one(service):
    job = create_job(service, training={"epochs": 4000}, resources={"max_seconds": 3})
    run_next(JOBS)

    failed = service.reload(job)
    error = failed.error
    assert (failed.status, error["code"], error["fault"]) == ("failed", "time_limit", "capacity"), error
    assert failed.checkpoint_step > 0
    assert failed.progress["step"] == failed.checkpoint_step  # saved at the time limit
    assert error["fix"]["resources"]["max_seconds"] > 6
    assert service.read(jobs.running_seconds, job.id) >= 3

    run_next(JOBS)  # nothing waits
    service.write(jobs.retry, service.project, job.id)
    run_next(JOBS)
    assert service.reload(job).error["code"] == "time_limit"  # without the fix it has no time left

    last_step = service.reload(job).checkpoint_step
    retried, _ = retry_with(service, job, {"resources": {"max_seconds": 10**6}})
    assert retried.checkpoint_step == last_step
    service.write(jobs.claim, worker_id="wrk_other", accelerator="cpu", lease_seconds=60)
    lease = jobs.LeaseToken.from_job(service.reload(job))
    assert service.read(checkpoints.list_resumable, lease)[0].step == last_step
