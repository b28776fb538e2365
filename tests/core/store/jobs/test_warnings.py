"""Warnings of a job: one list, and an event for each."""

import pytest

from core.job_warnings import JobWarning
from core.store import events, jobs
from core.store.job_leases import LeaseLost
from core.store.jobs import LeaseToken

FEW_STEPS = JobWarning(code="few_steps", field="/training/epochs", message="only 40 steps", fix="raise epochs")
AT_CHANCE = JobWarning(code="teacher_at_chance", field="/teachers/0", message="top-1 is 0.10")


def warning_events(world, job_id):
    rows = world.read(events.list_events, world.project, job_id).items
    return [(row.level, row.message, row.data["code"]) for row in rows if row.type == "job.warning"]


def test_a_new_job_has_the_warnings_of_its_estimate(world):
    job_id = world.job(warnings=[FEW_STEPS])

    assert world.get(job_id).warnings == [FEW_STEPS.model_dump()]
    assert warning_events(world, job_id) == [("warning", "Only 40 steps. Raise epochs.", "few_steps")]


def test_a_warning_is_listed_once_in_its_newest_form(world):
    lease = world.start_job(warnings=[FEW_STEPS])
    worse = AT_CHANCE.model_copy(update={"message": "top-1 is 0.05"})
    for warning in (AT_CHANCE, AT_CHANCE, worse):
        world.write(jobs.add_warnings, lease, [warning])

    assert world.get(lease.job_id).warnings == [FEW_STEPS.model_dump(), worse.model_dump()]
    assert [message for _, message, _ in warning_events(world, lease.job_id)] == [
        "Only 40 steps. Raise epochs.", "Top-1 is 0.10.", "Top-1 is 0.05.",
    ]  # fmt: skip


def test_a_worker_without_the_lease_adds_no_warning(world):
    lease = world.start_job()

    with pytest.raises(LeaseLost):
        world.write(jobs.add_warnings, LeaseToken(lease.job_id, lease.attempt - 1), [AT_CHANCE])
    assert world.get(lease.job_id).warnings == []
