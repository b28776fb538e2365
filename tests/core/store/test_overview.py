"""Counts for operators."""

from core.store import datasets, jobs, overview


def test_jobs_are_counted_by_status(world):
    world.attempt()
    world.do(jobs.cancel, world.project, world.job())
    world.job()

    assert world.ask(overview.jobs_by_status) == {
        "queued": 1,
        "running": 1,
        "paused": 0,
        "succeeded": 0,
        "failed": 0,
        "cancelled": 1,
    }


def test_uploads_that_wait_are_counted(world):
    world.do(datasets.create, world.project, name="d", source={})

    assert world.ask(overview.waiting_uploads) == {"datasets": 1, "models": 0}
