"""Which job runs next, and what becomes of jobs that lose their worker."""

import subprocess
import sys
import threading

import pytest

from core.job_failure import FailureCause
from core.reporting import Control, Interrupted
from core.store import events, jobs, projects
from core.store.jobs import LeaseToken


def claimed_in_order(world, count, accelerator="cpu"):
    return [job and job.id for job in (world.claim(accelerator=accelerator) for _ in range(count))]


def test_nothing_to_claim(world):
    assert world.claim() is None


def test_a_claim_starts_an_attempt(world):
    job_id = world.job()
    job = world.claim("wrk_1")

    assert (job.id, job.status, job.attempt, job.worker_id) == (job_id, "running", 1, "wrk_1")
    assert job.started_at is not None
    assert job.lease_expires_at > job.started_at
    assert world.claim() is None


def test_higher_priority_first_then_the_oldest(world):
    low, first, second, high = (world.job(priority=p) for p in (-1, 0, 0, 5))

    assert claimed_in_order(world, 5) == [high, first, second, low, None]


def test_projects_take_turns(world):
    other = world.write(projects.create, "other").id
    dataset = world.ready_dataset(other)
    mine = [world.job() for _ in range(3)]
    theirs = [world.job(project=other, dataset=dataset) for _ in range(2)]

    assert claimed_in_order(world, 5) == [mine[0], theirs[0], mine[1], theirs[1], mine[2]]


def ended(world, project, job_id):
    """Somebody ends a running job; the worker writes it down."""
    world.write(jobs.cancel, project, job_id)
    world.write(jobs.release_cancelled, LeaseToken(job_id, 1))


def test_a_single_worker_serves_the_project_that_waited_longest(world):
    other, third = (world.write(projects.create, name).id for name in ("other", "third"))
    mine = [world.job() for _ in range(4)]
    theirs = [world.job(project=other, dataset=world.ready_dataset(other)) for _ in range(2)]
    last = world.job(project=third, dataset=world.ready_dataset(third))
    owner = {**dict.fromkeys(mine, world.project), **dict.fromkeys(theirs, other), last: third}

    order = []
    for _ in owner:
        order.append(world.claim().id)
        ended(world, owner[order[-1]], order[-1])
    assert order == [mine[0], theirs[0], last, mine[1], theirs[1], mine[2], mine[3]]


def test_no_priority_takes_another_projects_turn(world):
    other = world.write(projects.create, "other").id
    loud = [world.job(priority=100) for _ in range(3)]
    quiet = world.job(project=other, dataset=world.ready_dataset(other), priority=-100)

    first, second = world.claim().id, world.claim().id
    assert (first, second) == (loud[0], quiet)


def test_priorities_order_a_projects_own_jobs_at_its_turn(world):
    other = world.write(projects.create, "other").id
    low, high = world.job(priority=1), world.job(priority=2)
    theirs = world.job(project=other, dataset=world.ready_dataset(other))

    assert claimed_in_order(world, 3) == [high, theirs, low]


def test_of_projects_that_were_never_served_the_oldest_is_first(world):
    others = [world.write(projects.create, name).id for name in ("b", "c")]
    datasets = {project: world.ready_dataset(project) for project in others}
    last, first, second = [
        world.job(project=project, dataset=datasets.get(project), accelerator=accelerator)
        for project, accelerator in [(others[1], "cpu"), (world.project, "auto"), (others[0], "cpu")]
    ]

    assert claimed_in_order(world, 4) == [first, second, last, None]


def test_within_a_project_the_oldest_goes_first_whatever_it_asks_for(world):
    made = [world.job(accelerator=accelerator) for accelerator in ("cpu", "auto", "cpu", "auto")]

    assert claimed_in_order(world, 4) == made


def test_what_cannot_run_here_holds_nothing_up(world):
    world.job(accelerator="cuda", priority=9)
    low = world.job(accelerator="cpu", priority=-9)

    assert claimed_in_order(world, 2, "cpu") == [low, None]


def test_what_waits_is_known_without_counting(world):
    assert world.read(jobs.queued_accelerators) == frozenset()
    world.job(accelerator="cuda")
    world.job()

    assert world.read(jobs.queued_accelerators) == {"auto", "cuda"}


def test_an_accelerator_claims_what_it_can_run_and_pins_it(world):
    cuda, either = world.job(accelerator="cuda"), world.job(accelerator="auto")
    assert world.read(jobs.count_queued) == {"auto": 1, "cpu": 0, "cuda": 1}

    assert claimed_in_order(world, 2, "cpu") == [either, None]
    assert world.get(either).accelerator == "cpu"
    world.expire_leases()
    assert claimed_in_order(world, 2, "cuda") == [cuda, None]
    assert world.read(jobs.count_queued) == {"auto": 0, "cpu": 1, "cuda": 0}


def test_a_resumed_job_keeps_its_place(world):
    first, _second = world.job(), world.job()
    world.write(jobs.pause, world.project, first)
    world.write(jobs.resume, world.project, first)

    assert world.claim().id == first


def test_threads_never_claim_the_same_job(world):
    wanted = {world.job() for _ in range(12)}
    found, start = [], threading.Barrier(4)

    def work(name):
        start.wait()
        while (job := world.claim(name)) is not None:
            found.append(job.id)

    threads = [threading.Thread(target=work, args=(f"w{k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(found) == sorted(wanted)


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
    wanted = {world.job() for _ in range(12)}
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
    found = [line for worker in workers for line in worker.communicate(timeout=60)[0].split()]

    assert sorted(found) == sorted(wanted)


# --- leases -------------------------------------------------------------------------------------


def test_a_lease_that_holds_is_left_alone(world):
    world.start_job()

    assert world.write(jobs.expire_leases, 3) == []


def test_a_lease_that_ran_out_sends_the_job_back(world):
    world.job()
    lease = LeaseToken.from_job(world.claim(lease_seconds=-1))

    (lost,) = world.write(jobs.expire_leases, 3)

    assert (lost.id, lost.status, lost.worker_losses, lost.worker_id) == (lease.job_id, "queued", 1, None)
    last = world.read(events.list_events, world.project, lease.job_id).items[-1]
    assert (last.type, last.level, last.data["worker"]) == ("worker.lost", "warning", "w")


def test_a_beat_renews_the_lease(world):
    world.job()
    lease = LeaseToken.from_job(world.claim(lease_seconds=-1))
    world.write(jobs.renew_lease, lease, 60)

    assert world.write(jobs.expire_leases, 3) == []


def test_the_jobs_of_a_worker_that_is_known_to_be_dead_come_back_at_once(world):
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


def test_a_job_that_lost_its_workers_says_whose_fault_it_is_and_what_to_do(world):
    world.start_job()
    (failed,) = world.expire_leases(max_worker_losses=1)

    error = failed.error
    assert (error["fault"], error["fix"], error["log"], error["machine"]) == ("infrastructure", None, [], None)
    assert "retry" in error["advice"]


def test_a_loss_of_which_the_cause_is_known_ends_the_job_with_that_cause(world):
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
    assert (ended.type, set(ended.data["error"])) == ("job.failed", {"code", "message", "fault", "advice", "fix"})


def test_losses_between_which_it_got_on_do_not_count(world):
    lease = world.start_job()
    for step in range(10, 60, 10):
        world.checkpoint(lease, step)
        assert world.expire_leases()[0].worker_losses == 1
        lease = LeaseToken.from_job(world.claim())

    assert world.get(lease.job_id).status == "running"


def test_saving_the_same_step_again_is_not_getting_on(world):
    lease = world.start_job()
    world.checkpoint(lease, 10)
    for _ in range(2):
        world.expire_leases()
        lease = LeaseToken.from_job(world.claim())
        world.checkpoint(lease, 10)

    assert world.expire_leases()[0].status == "failed"


def test_a_teachers_checkpoint_is_getting_on_too(world):
    lease = world.start_job()
    world.expire_leases()
    lease = LeaseToken.from_job(world.claim())
    world.checkpoint(lease, 5, track="teacher-0")

    assert world.get(lease.job_id).worker_losses == 0


def test_drains_pauses_and_resumes_are_no_losses(world):
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


@pytest.mark.parametrize(("move", "status"), [(jobs.cancel, "cancelled"), (jobs.pause, "paused")])
@pytest.mark.parametrize("leave", ["lose", "hand_back"])
def test_what_was_asked_lands_at_once_when_the_worker_is_gone(world, move, status, leave):
    lease = world.start_job()
    world.write(move, world.project, lease.job_id)

    left = world.expire_leases()[0] if leave == "lose" else world.write(jobs.release, lease)

    assert (left.status, left.pending_action) == (status, None)
    assert world.read(events.list_events, world.project, lease.job_id).items[-1].type == f"job.{status}"


def test_a_failure_after_a_cancel_is_a_cancel(world):
    lease = world.start_job()
    world.write(jobs.cancel, world.project, lease.job_id)

    job = world.write(jobs.fail, lease, {"code": "out_of_memory", "message": "too big"})

    assert (job.status, job.error) == ("cancelled", None)


def test_a_success_after_a_cancel_does_not_happen(world):
    lease = world.start_job()
    world.write(jobs.cancel, world.project, lease.job_id)

    with pytest.raises(Interrupted) as caught:
        world.write(jobs.succeed, lease, result={}, artifacts=[])

    assert caught.value.control is Control.CANCEL
    assert world.write(jobs.release_cancelled, lease).status == "cancelled"
    assert world.read(jobs.list_artifacts, world.project, lease.job_id) == []


def test_two_schedulers_take_a_job_back_once(world):
    for _ in range(6):
        world.job()
        world.claim(lease_seconds=-1)
    taken = []

    def round_of_a_scheduler():
        taken.extend(job.id for job in world.write(jobs.expire_leases, 3))

    threads = [threading.Thread(target=round_of_a_scheduler) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(taken) == len(set(taken)) == 6
