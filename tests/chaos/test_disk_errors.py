"""A disk that is full, read-only or broken fails a job with the named error, and `retry` goes on from where it was."""

import subprocess

import pytest

from core.store import checkpoints
from tests.chaos.logs import assert_it_went_on_from_its_checkpoint, assert_no_gap

FIRST_CHECKPOINT = 46  # steps, of the student
# Where the student's first checkpoint is there already, and where it is not (see test_kill_points.NTH).
WHILE_SAVING_THE_FIRST = [("checkpoint.weights", 4), ("store.copied", 5)]
AFTERWARDS = [
    ("checkpoint.written", 5),
    ("store.moved", 7),
    ("weights.written", 2),
    ("file.written", 4),
    ("store.copied", 9),
    ("artifacts.published", 1),
]
ERRNOS = ("ENOSPC", "EROFS", "EIO")


def resumed_at(events):
    return [e["data"]["step"] for e in events if e["type"] == "training.resumed" and e["data"]["track"] == "distill"]


@pytest.mark.parametrize(
    ("point", "nth", "number"),
    [(point, nth, ERRNOS[k % 3]) for k, (point, nth) in enumerate(WHILE_SAVING_THE_FIRST + AFTERWARDS)],
)
def test_a_disk_that_refuses_fails_the_job_by_name_and_retry_goes_on(lab, calm, point, nth, number):
    job = lab.submit()
    lab.live(point, number, nth)
    assert lab.happened(), f"{point} was not passed {nth} times"
    failed = lab.see(job)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "storage_failed"), failed["error"]
    assert "retry" in failed["error"]["message"]
    lab.assert_nothing_half(job)
    kept = lab.checkpoint_steps(job)
    assert bool(kept) is ((point, nth) in AFTERWARDS)
    retried = lab.http.post(f"/v1/jobs/{job}/retry")
    assert retried.status_code == 200, retried.text
    done = lab.finish(job)

    assert done["status"] == "succeeded", done["error"]
    assert lab.student(job) == calm
    events = lab.events(job)
    assert resumed_at(events) == kept[:1]
    assert_no_gap(events)
    assert_it_went_on_from_its_checkpoint(events)


@pytest.mark.parametrize("number", ["ENOSPC"])
def test_a_disk_that_refuses_while_a_checkpoint_is_brought_back_costs_no_checkpoint(lab, calm, number):
    job = lab.submit()
    lab.live("checkpoint.superseded", nth=2)
    lab.bury()
    lab.live("store.fetched", number)
    assert lab.happened()
    failed = lab.see(job)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "storage_failed"), failed["error"]
    assert lab.checkpoint_steps(job) == [FIRST_CHECKPOINT]
    lab.http.post(f"/v1/jobs/{job}/retry")
    done = lab.finish(job)

    assert done["status"] == "succeeded", done["error"]
    assert resumed_at(lab.events(job)) == [FIRST_CHECKPOINT]
    assert lab.student(job) == calm


def test_a_checkpoint_that_is_damaged_is_not_gone_on_from(lab, calm):
    """A file that is not what was stored is taken off the list, and the one before serves."""
    job = lab.submit(epochs=4)
    lab.live("student.measured")
    assert lab.checkpoint_steps(job) == [92, 46]
    with lab.database.read() as session:
        newest = checkpoints.list_checkpoints(session, lab.project, job).items[0]
    lab.store.delete(newest.files[0]["key"])
    done = lab.finish(job)

    assert done["status"] == "succeeded", done["error"]
    assert resumed_at(lab.events(job)) == [FIRST_CHECKPOINT]
    assert lab.student(job) == calm


def test_a_cache_that_cannot_be_written_costs_time_alone(lab, calm):
    cache = lab.settings.home / "cache"
    beside = cache.rename(cache.with_name("cache-before"))
    cache.mkdir()
    for folder in beside.iterdir():
        (cache / folder.name).write_text("a file where a folder should be: nothing can be kept below it")
    job = lab.submit()
    done = lab.finish(job)
    subprocess.run(["rm", "-rf", str(cache)], check=True)
    beside.rename(cache)

    assert (done["status"], done["attempt"]) == ("succeeded", 1), done["error"]
    assert lab.student(job) == calm


@pytest.fixture
def small_disk(make_disk):
    """A real file system of 16 megabytes; only root may make one."""
    return make_disk("16m")


def test_a_disk_that_is_really_full_fails_the_job_and_making_room_lets_it_go_on(lab, calm, small_disk):
    """Its folder for work is a small disk that something else has filled."""
    work = lab.settings.home / "work"
    work.rename(work.with_name("work-before"))
    work.symlink_to(small_disk)
    room = small_disk / "something-else"
    room.write_bytes(b"x" * (16 * 1024**2 - 400 * 1024))
    job = lab.submit()
    lab.live()
    failed = lab.see(job)
    room.unlink()
    lab.http.post(f"/v1/jobs/{job}/retry")
    done = lab.finish(job)
    work.unlink()
    work.with_name("work-before").rename(work)

    assert (failed["status"], failed["error"]["code"]) == ("failed", "storage_failed"), failed["error"]
    assert done["status"] == "succeeded", done["error"]
    assert lab.student(job) == calm
