"""Claim order, leases and worker losses."""

import subprocess
import sys
import threading

import pytest

from core.job_failure import FailureCause
from core.reporting import Control, Interrupted
from core.store import events, jobs, projects
from core.store.jobs import LeaseToken

EVENT_FIELDS = {"code", "message", "fault", "retryable", "advice", "fix"}


def claim_ids(world, count, accelerator="cpu"):
    return [job and job.id for job in (world.claim(accelerator=accelerator) for _ in range(count))]


def test_claim_without_queued_jobs_returns_none(world):
    assert world.claim() is None


def test_claim_starts_an_attempt(world):
    job_id = world.job()
    job = world.claim("wrk_1")

    assert (job.id, job.status, job.attempt, job.worker_id) == (job_id, "running", 1, "wrk_1")
    assert job.started_at is not None
    assert job.lease_expires_at > job.started_at
    assert world.claim() is None


def test_claims_go_by_priority_then_by_age(world):
    low, first, second, high = (world.job(priority=p) for p in (-1, 0, 0, 5))

    assert claim_ids(world, 5) == [high, first, second, low, None]


def test_claims_alternate_between_projects(world):
    other = world.write(projects.create, "other").id
    dataset = world.ready_dataset(other)
    own = [world.job() for _ in range(3)]
    foreign = [world.job(project=other, dataset=dataset) for _ in range(2)]

    assert claim_ids(world, 5) == [own[0], foreign[0], own[1], foreign[1], own[2]]


def cancel_running(world, project, job_id):
    """Cancel a running job, including the release by its worker."""
    world.write(jobs.cancel, project, job_id)
    world.write(jobs.release_cancelled, LeaseToken(job_id, 1))


def test_project_with_the_oldest_claim_comes_first(world):
    other, third = (world.write(projects.create, name).id for name in ("other", "third"))
    own = [world.job() for _ in range(4)]
    foreign = [world.job(project=other, dataset=world.ready_dataset(other)) for _ in range(2)]
    last = world.job(project=third, dataset=world.ready_dataset(third))
    owner = {**dict.fromkeys(own, world.project), **dict.fromkeys(foreign, other), last: third}

    order = []
    for _ in owner:
        order.append(world.claim().id)
        cancel_running(world, owner[order[-1]], order[-1])
    assert order == [own[0], foreign[0], last, own[1], foreign[1], own[2], own[3]]


def test_priority_does_not_affect_other_projects(world):
    other = world.write(projects.create, "other").id
    high = [world.job(priority=100) for _ in range(3)]
    low = world.job(project=other, dataset=world.ready_dataset(other), priority=-100)

    first, second = world.claim().id, world.claim().id
    assert (first, second) == (high[0], low)


def test_priority_orders_the_jobs_of_one_project(world):
    other = world.write(projects.create, "other").id
    low, high = world.job(priority=1), world.job(priority=2)
    foreign = world.job(project=other, dataset=world.ready_dataset(other))

    assert claim_ids(world, 3) == [high, foreign, low]


def test_of_projects_without_a_claim_the_oldest_comes_first(world):
    others = [world.write(projects.create, name).id for name in ("b", "c")]
    datasets = {project: world.ready_dataset(project) for project in others}
    last, first, second = [
        world.job(project=project, dataset=datasets.get(project), accelerator=accelerator)
        for project, accelerator in [(others[1], "cpu"), (world.project, "auto"), (others[0], "cpu")]
    ]

    assert claim_ids(world, 4) == [first, second, last, None]


def test_oldest_job_of_a_project_comes_first_for_any_accelerator(world):
    job_ids = [world.job(accelerator=accelerator) for accelerator in ("cpu", "auto", "cpu", "auto")]

    assert claim_ids(world, 4) == job_ids


def test_job_for_another_accelerator_does_not_block_others(world):
    world.job(accelerator="cuda", priority=9)
    low = world.job(accelerator="cpu", priority=-9)

    assert claim_ids(world, 2, "cpu") == [low, None]


def test_queued_accelerators(world):
    assert world.read(jobs.queued_accelerators) == frozenset()
    world.job(accelerator="cuda")
    world.job()

    assert world.read(jobs.queued_accelerators) == {"auto", "cuda"}


def test_claim_matches_and_pins_the_accelerator(world):
    cuda, either = world.job(accelerator="cuda"), world.job(accelerator="auto")
    assert world.read(jobs.count_queued) == {"auto": 1, "cpu": 0, "cuda": 1}

    assert claim_ids(world, 2, "cpu") == [either, None]
    assert world.get(either).accelerator == "cpu"
    world.expire_leases()
    assert claim_ids(world, 2, "cuda") == [cuda, None]
    assert world.read(jobs.count_queued) == {"auto": 0, "cpu": 1, "cuda": 0}


def test_unfinished_jobs_and_queue_ages_by_accelerator(world):
    assert world.read(jobs.queue_ages) == {"auto": 0, "cpu": 0, "cuda": 0}
    world.job(accelerator="cuda")
    world.job(accelerator="cpu")
    world.claim()

    ages, counts = world.read(jobs.queue_ages), world.read(jobs.count_unfinished)

    assert 0 <= ages.pop("cuda") < 60
    assert ages == {"auto": 0, "cpu": 0}
    assert {group for group, number in counts.items() if number} == {("queued", "cuda"), ("running", "cpu")}


def test_resumed_job_keeps_its_queue_position(world):
    first, _second = world.job(), world.job()
    world.write(jobs.pause, world.project, first)
    world.write(jobs.resume, world.project, first)

    assert world.claim().id == first


def test_threads_never_claim_the_same_job(world):
    queued = {world.job() for _ in range(12)}
    claimed, start = [], threading.Barrier(4)

    def work(name):
        start.wait()
        while (job := world.claim(name)) is not None:
            claimed.append(job.id)

    threads = [threading.Thread(target=work, args=(f"w{k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(claimed) == sorted(queued)


CLAIM_ALL = """
import sys
from core.store import jobs
from core.store.db import Database, make_engine
database = Database(make_engine(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
while True:
    with database.write() as session:
        job = jobs.claim(session, worker_id="w", accelerator="cpu", lease_seconds=60)
    if job is None:
        break
    print(job.id, flush=True)
"""


def test_processes_never_claim_the_same_job(world):
    queued = {world.job() for _ in range(12)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM_ALL, world.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    claimed = [line for worker in workers for line in worker.communicate(timeout=60)[0].split()]

    assert sorted(claimed) == sorted(queued)


# --- leases -------------------------------------------------------------------------------------


def test_valid_lease_is_not_expired(world):
    world.start_job()

    assert world.write(jobs.expire_leases, 3) == []


def test_expired_lease_requeues_the_job(world):
    world.job()
    lease = LeaseToken.from_job(world.claim(lease_seconds=-1))

    (lost,) = world.write(jobs.expire_leases, 3)

    assert (lost.id, lost.status, lost.worker_losses, lost.worker_id) == (lease.job_id, "queued", 1, None)
    last = world.read(events.list_events, world.project, lease.job_id).items[-1]
    assert (last.type, last.level, last.data["worker"]) == ("worker.lost", "warning", "w")


def test_renewed_lease_does_not_expire(world):
    world.job()
    lease = LeaseToken.from_job(world.claim(lease_seconds=-1))
    world.write(jobs.renew_lease, lease, 60)

    assert world.write(jobs.expire_leases, 3) == []


def test_jobs_of_a_dead_worker_are_requeued_immediately(world):
    first, second = world.job(), world.job()
    world.claim("dead")
    world.claim("alive")

    assert [job.id for job in world.expire_leases("dead")] == [first]
    assert world.get(second).status == "running"


def test_three_losses_in_a_row_fail_the_job(world):
    job_id = world.job()
    for losses in (1, 2):
        world.claim()
        assert world.expire_leases()[0].worker_losses == losses
    world.claim()

    (failed,) = world.expire_leases()

    assert (failed.status, failed.error["code"], failed.finished_at is not None) == ("failed", "worker_lost", True)
    assert world.get(job_id).attempt == 3
    assert world.read(events.list_events, world.project, job_id).items[-1].type == "job.failed"


def test_error_of_a_lost_job_names_fault_and_advice(world):
    world.start_job()
    (failed,) = world.expire_leases(max_worker_losses=1)

    error = failed.error
    assert (error["fault"], error["fix"], error["log"], error["machine"]) == ("infrastructure", None, [], None)
    assert "retry" in error["advice"]


def test_loss_with_a_known_cause_fails_with_that_cause(world):
    hung = FailureCause(
        "stalled", "Its process did nothing for 9 s and was ended", "service", log=["line"], machine={"x": 1}
    )
    lease = world.start_job()
    assert world.write(jobs.record_loss, lease, hung, 2).status == "queued"
    lost = world.read(events.list_events, world.project, lease.job_id).items[-1]
    assert (lost.type, lost.level, lost.data["code"]) == ("worker.lost", "warning", "stalled")

    failed = world.write(jobs.record_loss, LeaseToken.from_job(world.claim()), hung, 2)

    assert (failed.status, failed.worker_losses) == ("failed", 2)
    assert (failed.error["code"], failed.error["log"], failed.error["machine"]) == ("stalled", ["line"], {"x": 1})
    assert "2 losses in a row without a new checkpoint" in failed.error["message"]
    ended = world.read(events.list_events, world.project, lease.job_id).items[-1]
    assert (ended.type, set(ended.data["error"])) == ("job.failed", EVENT_FIELDS)


def test_new_checkpoint_resets_worker_losses(world):
    lease = world.start_job()
    for step in range(10, 60, 10):
        world.checkpoint(lease, step)
        assert world.expire_leases()[0].worker_losses == 1
        lease = LeaseToken.from_job(world.claim())

    assert world.get(lease.job_id).status == "running"


def test_checkpoint_of_the_same_step_does_not_reset_worker_losses(world):
    lease = world.start_job()
    world.checkpoint(lease, 10)
    for _ in range(2):
        world.expire_leases()
        lease = LeaseToken.from_job(world.claim())
        world.checkpoint(lease, 10)

    assert world.expire_leases()[0].status == "failed"


def test_teacher_checkpoint_resets_worker_losses(world):
    lease = world.start_job()
    world.expire_leases()
    lease = LeaseToken.from_job(world.claim())
    world.checkpoint(lease, 5, track="teacher-0")

    assert world.get(lease.job_id).worker_losses == 0


def test_releases_and_pauses_are_not_worker_losses(world):
    lease = world.start_job()
    for _ in range(3):
        world.write(jobs.release, lease)
        lease = LeaseToken.from_job(world.claim())
        world.write(jobs.pause, world.project, lease.job_id)
        world.write(jobs.release_paused, lease)
        world.write(jobs.resume, world.project, lease.job_id)
        lease = LeaseToken.from_job(world.claim())

    job = world.get(lease.job_id)
    assert (job.attempt, job.worker_losses, job.status) == (7, 0, "running")


@pytest.mark.parametrize(("action", "status"), [(jobs.cancel, "cancelled"), (jobs.pause, "paused")])
@pytest.mark.parametrize("leave", ["loss", "release"])
def test_requested_action_takes_effect_when_the_worker_leaves(world, action, status, leave):
    lease = world.start_job()
    world.write(action, world.project, lease.job_id)

    job = world.expire_leases()[0] if leave == "loss" else world.write(jobs.release, lease)

    assert (job.status, job.pending_action) == (status, None)
    assert world.read(events.list_events, world.project, lease.job_id).items[-1].type == f"job.{status}"


def test_failure_after_a_cancel_request_cancels_the_job(world):
    lease = world.start_job()
    world.write(jobs.cancel, world.project, lease.job_id)

    job = world.write(jobs.fail, lease, {"code": "out_of_memory", "message": "too big"})

    assert (job.status, job.error) == ("cancelled", None)


def test_success_after_a_cancel_request_is_interrupted(world):
    lease = world.start_job()
    world.write(jobs.cancel, world.project, lease.job_id)

    with pytest.raises(Interrupted) as caught:
        world.write(jobs.succeed, lease, result={}, artifacts=[])

    assert caught.value.control is Control.CANCEL
    assert world.write(jobs.release_cancelled, lease).status == "cancelled"
    assert world.read(jobs.list_artifacts, world.project, lease.job_id) == []


def test_concurrent_schedulers_requeue_a_job_once(world):
    for _ in range(6):
        world.job()
        world.claim(lease_seconds=-1)
    requeued = []

    def expire_leases():
        requeued.extend(job.id for job in world.write(jobs.expire_leases, 3))

    threads = [threading.Thread(target=expire_leases) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(requeued) == len(set(requeued)) == 6
