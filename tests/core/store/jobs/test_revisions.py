"""Retry of a job with a changed spec."""

import pytest

from core.errors import InvalidState
from core.spec import parse_job_spec
from core.store import checkpoints, events, jobs
from core.store.jobs import LeaseToken, Revision


@pytest.fixture
def failed(world):
    """Failed job with checkpoints of its student and of a teacher."""
    document = parse_job_spec(
        {
            "dataset": world.dataset,
            "student": {"architecture": "vit_tiny_patch16_224"},
            "method": {"name": "scratch"},
            "resources": {"accelerator": "auto"},
        }
    ).model_dump(mode="json")
    lease = world.start_job(spec=document, total_steps=100)
    world.checkpoint(lease, 20, track="teacher-0")
    world.checkpoint(lease, 10)
    world.checkpoint(lease, 30, retain=True)
    world.write(jobs.fail, lease, {"code": "out_of_memory", "message": "too big"})
    return lease.job_id


def revision(world, job_id, *, tracks=(), **changes):
    job = world.get(job_id)
    values = {
        "base_seq": job.last_seq,
        "spec": {**job.spec, "name": "changed", "priority": 7, "metadata": {"k": "v"}},
        "resolved": True,
        "total_steps": 200,
        "warnings": [],
        "changes": ["training.batch_size 128 → 64"],
        "tracks": tracks,
    }
    return Revision(**(values | changes))


def retried(world, job_id, **more):
    return world.write(jobs.retry_revised, world.project, job_id, revision(world, job_id, **more))


def test_job_resumes_if_its_checkpoints_fit(world, failed):
    job, garbage = retried(world, failed)

    assert (job.status, job.error, job.checkpoint_step, job.progress["step"]) == ("queued", None, 30, 30)
    assert garbage == []
    assert (job.name, job.priority, job.metadata_, job.spec["name"]) == ("changed", 7, {"k": "v"}, "changed")
    last = world.read(events.list_events, world.project, failed).items[-1]
    assert (last.type, last.data["restarts"]) == ("job.retried", [])
    assert last.message == "Requeued with training.batch_size 128 → 64; it resumes from its last checkpoint."


def test_restarted_student_has_no_checkpoint_and_no_progress(world, failed):
    job, garbage = retried(world, failed, tracks=("distill",))

    assert (job.checkpoint_step, job.progress["step"], job.progress["total_steps"]) == (0, 0, 200)
    assert len(garbage) == 4  # two files of each of the two checkpoints
    remaining = world.read(checkpoints.list_resumable, LeaseToken.from_job(world.claim()))
    assert [checkpoint.track for checkpoint in remaining] == ["teacher-0"]
    last = [event for event in world.read(events.list_events, world.project, failed).items if "retried" in event.type]
    assert "training of the student restarts" in last[-1].message


def test_pinned_accelerator_stays_unless_the_spec_changes_it(world, failed):
    assert retried(world, failed)[0].accelerator == "cpu"
    world.write(jobs.cancel, world.project, failed)
    spec = world.get(failed).spec
    moved, _ = retried(world, failed, spec={**spec, "resources": {**spec["resources"], "accelerator": "cuda"}})

    assert moved.accelerator == "cuda"


def test_stale_revision_does_not_overwrite_a_cancelled_retry(world, failed):
    stale = revision(world, failed)
    retried(world, failed, spec={**world.get(failed).spec, "name": "another"})
    world.write(jobs.cancel, world.project, failed)

    with pytest.raises(InvalidState, match="meanwhile"):
        world.write(jobs.retry_revised, world.project, failed, stale)
    assert world.get(failed).spec["name"] == "another"


def test_stale_revision_after_another_retry_is_refused(world, failed):
    stale = revision(world, failed)
    world.write(jobs.retry, world.project, failed)
    world.write(jobs.cancel, world.project, failed)
    world.write(jobs.retry, world.project, failed)
    with pytest.raises(InvalidState):  # it is queued
        world.write(jobs.retry_revised, world.project, failed, stale)
    world.claim()
    world.expire_leases(max_worker_losses=1)
    before = world.rows()

    with pytest.raises(InvalidState, match="meanwhile"):
        world.write(jobs.retry_revised, world.project, failed, stale)
    assert world.rows() == before
