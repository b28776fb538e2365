"""A retry with another spec."""

import pytest

from core.errors import InvalidState
from core.spec import parse_job_spec
from core.store import checkpoints, events, jobs
from core.store.jobs import LeaseToken, Revision


@pytest.fixture
def failed(world):
    """A job that failed behind checkpoints of its student and of a teacher."""
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
        "of_seq": job.last_seq,
        "spec": {**job.spec, "name": "again", "priority": 7, "metadata": {"k": "v"}},
        "resolved": True,
        "total_steps": 200,
        "changes": ["training.batch_size 128 → 64"],
        "tracks": tracks,
    }
    return Revision(**(values | changes))


def retried(world, job_id, **more):
    return world.write(jobs.retry_revised, world.project, job_id, revision(world, job_id, **more))


def test_a_job_goes_on_where_its_checkpoints_fit(world, failed):
    job, garbage = retried(world, failed)

    assert (job.status, job.error, job.checkpoint_step, job.progress["step"]) == ("queued", None, 30, 30)
    assert garbage == []
    assert (job.name, job.priority, job.metadata_, job.spec["name"]) == ("again", 7, {"k": "v"}, "again")
    last = world.read(events.list_events, world.project, failed).items[-1]
    assert (last.type, last.data["restarts"]) == ("job.retried", [])
    assert last.message == "Queued again with training.batch_size 128 → 64; it goes on from its last checkpoint."


def test_a_student_that_begins_anew_has_no_checkpoint_and_no_progress(world, failed):
    job, garbage = retried(world, failed, tracks=("distill",))

    assert (job.checkpoint_step, job.progress["step"], job.progress["total_steps"]) == (0, 0, 200)
    assert len(garbage) == 4  # two files of each of the two checkpoints
    left = world.read(checkpoints.list_resumable, LeaseToken.from_job(world.claim()))
    assert [one.track for one in left] == ["teacher-0"]  # what its teacher has learnt is of use
    last = [event for event in world.read(events.list_events, world.project, failed).items if "retried" in event.type]
    assert "the training of the student begins anew" in last[-1].message


def test_the_accelerator_that_a_claim_pinned_holds_unless_another_is_asked_for(world, failed):
    assert retried(world, failed)[0].accelerator == "cpu"
    world.write(jobs.cancel, world.project, failed)
    spec = world.get(failed).spec
    moved, _ = retried(world, failed, spec={**spec, "resources": {**spec["resources"], "accelerator": "cuda"}})

    assert moved.accelerator == "cuda"


def test_a_retry_that_was_cancelled_before_its_claim_is_not_overwritten_by_one_that_had_not_seen_it(world, failed):
    late = revision(world, failed)
    retried(world, failed, spec={**world.get(failed).spec, "name": "of somebody else"})
    world.write(jobs.cancel, world.project, failed)

    with pytest.raises(InvalidState, match="meanwhile"):
        world.write(jobs.retry_revised, world.project, failed, late)
    assert world.get(failed).spec["name"] == "of somebody else"


def test_a_job_that_was_retried_meanwhile_is_left_alone(world, failed):
    late = revision(world, failed)
    world.write(jobs.retry, world.project, failed)
    world.write(jobs.cancel, world.project, failed)
    world.write(jobs.retry, world.project, failed)
    with pytest.raises(InvalidState):  # it waits
        world.write(jobs.retry_revised, world.project, failed, late)
    world.claim()
    world.expire_leases(max_worker_losses=1)
    before = world.rows()

    with pytest.raises(InvalidState, match="meanwhile"):
        world.write(jobs.retry_revised, world.project, failed, late)
    assert world.rows() == before
