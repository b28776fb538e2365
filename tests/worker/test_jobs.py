"""Claiming a job and answering for its end, whatever the process that runs it does."""

import os
import signal
import time

import pytest

from core.reporting import Control
from core.store import jobs
from worker import jobs as worker_jobs
from worker.flags import DRAIN


@pytest.fixture
def working(monkeypatch):
    """Let the job's process do this instead of running the engine."""

    def install(work):
        monkeypatch.setattr(worker_jobs, "_work", work)

    return install


def until(control, wanted, seconds=10.0):
    ends = time.monotonic() + seconds
    while control() is not wanted and time.monotonic() < ends:
        time.sleep(0.005)
    return control() is wanted


def test_nothing_happens_where_no_job_waits(service):
    worker_jobs.run_next()

    assert service.context.hints.queue_lengths()["jobs.cpu"] == 0


def test_a_job_whose_process_dies_is_queued_again_at_once_and_counts_a_loss(service, working):
    job = service.job()
    working(lambda _context, _job, _control: os.kill(os.getpid(), signal.SIGKILL))
    worker_jobs.run_next()

    seen = service.see(job)
    assert (seen.status, seen.losses, seen.attempt) == ("queued", 1, 1)
    assert service.context.hints.queue_lengths()["jobs.cpu"] == 1


def test_a_job_that_kills_every_worker_fails_in_the_end(service, working):
    job = service.job()
    working(lambda _context, _job, _control: 1)
    for _ in range(3):
        worker_jobs.run_next()

    seen = service.see(job)
    assert (seen.status, seen.error["code"]) == ("failed", "worker_lost")


def test_the_lease_is_renewed_while_the_job_runs(service, working):
    job = service.job()
    leases = []

    def work(context, job, _control):
        for _ in range(5):
            with context.database.read() as session:
                leases.append(jobs.get(session, job.project_id, job.id).lease_expires_at)
            time.sleep(0.15)
        with context.database.write() as session:
            jobs.hand_back(session, jobs.Attempt.of(job))
        return 0 if len(set(leases)) >= 3 else 1

    working(work)
    worker_jobs.run_next()

    assert service.see(job).losses == 0


def test_a_deaf_job_is_killed_and_cancelled(service, working, monkeypatch):
    job = service.job()
    monkeypatch.setattr(worker_jobs, "_rhythm", lambda _: worker_jobs.Rhythm(beat=0.05, outage=20, force_cancel=0.2))

    def work(context, job, _control):
        with context.database.write() as session:
            jobs.cancel(session, job.project_id, job.id)
        time.sleep(60)

    working(work)
    worker_jobs.run_next()

    assert service.see(job).status == "cancelled"


def test_a_drained_worker_hands_its_job_back_without_a_loss(service, working):
    job = service.job()

    def work(context, job, control):
        DRAIN.set(1)
        assert until(control, Control.DRAIN)
        with context.database.write() as session:
            jobs.hand_back(session, jobs.Attempt.of(job))
        return 0

    working(work)
    try:
        worker_jobs.run_next()
    finally:
        DRAIN.set(0)

    seen = service.see(job)
    assert (seen.status, seen.losses) == ("queued", 0)


def test_a_worker_that_is_asked_to_end_claims_nothing_more(service, working):
    job = service.job()
    DRAIN.set(1)
    try:
        worker_jobs.run_next()
    finally:
        DRAIN.set(0)

    assert (service.see(job).status, service.see(job).attempt) == ("queued", 0)


def test_pause_and_stop_reach_the_job(service, working):
    job = service.job()

    def work(context, job, control):
        with context.database.write() as session:
            jobs.stop(session, job.project_id, job.id)
        assert until(control, Control.STOP)
        with context.database.write() as session:
            jobs.pause(session, job.project_id, job.id)
        assert until(control, Control.PAUSE)
        with context.database.write() as session:
            jobs.paused(session, jobs.Attempt.of(job))
        return 0

    working(work)
    worker_jobs.run_next()

    assert service.see(job).status == "paused"


def test_a_job_that_was_given_to_somebody_else_is_left_alone(service, working):
    job = service.job()

    def work(context, _job, _control):
        with context.database.write() as session:
            jobs.expire_leases(session, 3, worker_id=context.worker_id)
            jobs.claim(session, worker_id="wrk_other", accelerator="cpu", lease_seconds=20)
        time.sleep(60)

    working(work)
    worker_jobs.run_next()

    seen = service.see(job)
    assert (seen.status, seen.attempt, seen.worker_id) == ("running", 2, "wrk_other")


def test_the_end_of_one_process_takes_nothing_from_others(service, working):
    """Its own job is given up at once; another one's lease may only have had no chance to be renewed."""
    other = service.claimed(lease_seconds=-1)
    job = service.job()
    working(lambda _context, _job, _control: 1)
    worker_jobs.run_next()

    assert (service.see(job).status, service.see(job).losses) == ("queued", 1)
    assert service.see(other).status == "running"
