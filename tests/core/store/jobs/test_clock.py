"""How long workers have had a job."""

from datetime import timedelta

import pytest

from core.store import events, jobs
from core.store.db import utc_now
from core.store.jobs import Attempt, clock


@pytest.fixture
def wait(world, monkeypatch):
    """Lets time pass for all who ask what time it is."""
    start, passed = world.ask(utc_now), [0.0]

    def now(_session):
        return start + timedelta(seconds=passed[0])

    for module in (events, clock):
        monkeypatch.setattr(module, "utc_now", now)

    def pass_by(seconds):
        passed[0] += seconds

    return pass_by


def ran(world, job_id):
    return world.ask(jobs.running_seconds, job_id)


def test_a_job_that_waits_has_not_run(world, wait):
    job_id = world.job()
    wait(5)

    assert ran(world, job_id) == 0


def test_attempts_add_up_without_waits_and_pauses(world, wait):
    attempt = world.attempt()
    wait(10)
    world.do(jobs.pause, world.project, attempt.job_id)
    world.do(jobs.paused, attempt)
    wait(1000)
    world.do(jobs.resume, world.project, attempt.job_id)
    wait(1000)
    attempt = Attempt.of(world.claim())
    wait(7)
    assert ran(world, attempt.job_id) == 17  # up to now, as it runs

    world.do(jobs.hand_back, attempt)
    wait(1000)
    world.claim()
    wait(2)
    world.lose()
    wait(1000)

    assert ran(world, attempt.job_id) == 19


def test_what_a_failed_job_ran_counts_after_a_retry(world, wait):
    attempt = world.attempt()
    wait(30)
    world.do(jobs.fail, attempt, {"code": "time_limit", "message": "over"})
    wait(1000)
    world.do(jobs.retry, world.project, attempt.job_id)
    wait(1000)
    world.claim()
    wait(3)

    assert ran(world, attempt.job_id) == 33
