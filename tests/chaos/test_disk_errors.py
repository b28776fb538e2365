"""A full, read-only or broken disk fails a job with `storage_failed`, and `retry` resumes it."""

import subprocess

import pytest

from core.store import checkpoints
from tests.chaos.logs import assert_gapless, assert_resumed_from_checkpoints

FIRST_CHECKPOINT = 46  # steps, of the student
# Fault points and visits before and after the student's first checkpoint (see test_kill_points.NTH).
BEFORE_FIRST_CHECKPOINT = [("checkpoint.weights", 4), ("store.copied", 5)]
AFTER_FIRST_CHECKPOINT = [
    ("checkpoint.written", 5),
    ("store.moved", 9),
    ("weights.written", 2),
    ("file.written", 4),
    ("store.copied", 9),
    ("artifacts.published", 1),
]
ERRNOS = ("ENOSPC", "EROFS", "EIO")
IN_EVERY_RUN = {"store.moved", "artifacts.published"}


def resumed_steps(events):
    """Steps at which the student's training resumed."""
    return [e["data"]["step"] for e in events if e["type"] == "training.resumed" and e["data"]["track"] == "distill"]


@pytest.mark.parametrize(
    ("point", "nth", "errno_name"),
    [
        pytest.param(point, nth, ERRNOS[k % 3], marks=() if point in IN_EVERY_RUN else pytest.mark.slow)
        for k, (point, nth) in enumerate(BEFORE_FIRST_CHECKPOINT + AFTER_FIRST_CHECKPOINT)
    ],
)
def test_a_disk_error_fails_the_job_with_its_code_and_retry_resumes(service, reference_digest, point, nth, errno_name):
    job_id = service.submit()
    service.run_worker(point, errno_name, nth)
    assert service.fault_happened(), f"{point} was not reached {nth} times"
    failed = service.job(job_id)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "storage_failed"), failed["error"]
    assert "retry" in failed["error"]["message"]
    service.assert_nothing_partial(job_id)
    checkpoint_steps = service.checkpoint_steps(job_id)
    assert bool(checkpoint_steps) is ((point, nth) in AFTER_FIRST_CHECKPOINT)
    retried = service.http.post(f"/v1/jobs/{job_id}/retry")
    assert retried.status_code == 200, retried.text
    job = service.finish(job_id)

    assert job["status"] == "succeeded", job["error"]
    assert service.weights_digest(job_id) == reference_digest
    events = service.events(job_id)
    assert resumed_steps(events) == checkpoint_steps[:1]
    assert_gapless(events)
    assert_resumed_from_checkpoints(events)


@pytest.mark.slow
def test_a_full_disk_during_a_checkpoint_download_loses_no_checkpoint(service, reference_digest):
    job_id = service.submit()
    service.run_worker("checkpoint.superseded", nth=2)
    service.record_losses()
    service.run_worker("store.fetched", "ENOSPC")
    assert service.fault_happened()
    failed = service.job(job_id)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "storage_failed"), failed["error"]
    assert service.checkpoint_steps(job_id) == [FIRST_CHECKPOINT]
    service.http.post(f"/v1/jobs/{job_id}/retry")
    job = service.finish(job_id)

    assert job["status"] == "succeeded", job["error"]
    assert resumed_steps(service.events(job_id)) == [FIRST_CHECKPOINT]
    assert service.weights_digest(job_id) == reference_digest


def test_a_damaged_checkpoint_is_skipped(service, reference_digest):
    """A checkpoint with a missing file is removed, and the job resumes from the previous one."""
    job_id = service.submit(epochs=4)
    service.run_worker("student.measured")
    assert service.checkpoint_steps(job_id) == [92, 46]
    with service.database.read() as session:
        newest = checkpoints.list_checkpoints(session, service.project, job_id).items[0]
    service.store.delete(newest.files[0]["key"])
    job = service.finish(job_id)

    assert job["status"] == "succeeded", job["error"]
    assert resumed_steps(service.events(job_id)) == [FIRST_CHECKPOINT]
    assert service.weights_digest(job_id) == reference_digest


def test_a_cache_that_cannot_be_written_costs_only_time(service, reference_digest):
    cache = service.settings.home / "cache"
    original = cache.rename(cache.with_name("cache-before"))
    cache.mkdir()
    for folder in original.iterdir():
        (cache / folder.name).write_text("a file in place of a folder, so that nothing can be written below it")
    job_id = service.submit()
    job = service.finish(job_id)
    subprocess.run(["rm", "-rf", str(cache)], check=True)
    original.rename(cache)

    assert (job["status"], job["attempt"]) == ("succeeded", 1), job["error"]
    assert service.weights_digest(job_id) == reference_digest


@pytest.fixture
def small_disk(make_disk):
    """A real file system of 16 MiB."""
    return make_disk("16m")


def test_a_really_full_disk_fails_the_job_and_freed_space_lets_retry_finish(service, reference_digest, small_disk):
    """The scratch folder is on a small disk that another file fills."""
    work = service.settings.home / "work"
    work.rename(work.with_name("work-before"))
    work.symlink_to(small_disk)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (16 * 1024**2 - 400 * 1024))
    job_id = service.submit()
    service.run_worker()
    failed = service.job(job_id)
    filler.unlink()
    service.http.post(f"/v1/jobs/{job_id}/retry")
    job = service.finish(job_id)
    work.unlink()
    work.with_name("work-before").rename(work)

    assert (failed["status"], failed["error"]["code"]) == ("failed", "storage_failed"), failed["error"]
    assert job["status"] == "succeeded", job["error"]
    assert service.weights_digest(job_id) == reference_digest
