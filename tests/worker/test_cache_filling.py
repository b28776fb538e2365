"""A worker without a job computes teacher outputs for the job of another worker."""

import os
import signal

import pytest

from core.reporting import Control, ViewOffer
from core.store import events, view_offers
from core.store.job_leases import LeaseToken
from tests.support.waiting import until
from worker.cache_filling.parent import CACHE_FILLING
from worker.claim_loop import run_next
from worker.process.monitor import EXIT_DONE
from worker.tasks import claim_job


def offer_shards(service, job):
    views = ViewOffer("0" * 64, 1, 3, num_shards=2, shard_seconds=60.0)
    service.write(view_offers.offer, LeaseToken.from_job(job), views, cache_id=service.context.cache_id)


@pytest.fixture
def running(service):
    """A job that another worker runs, and that has offered 2 shards."""
    job = service.claim_job()
    offer_shards(service, job)
    return job


@pytest.fixture
def replace_run(monkeypatch):
    """Return a function that replaces the work of the forked process."""
    return lambda work: monkeypatch.setattr(CACHE_FILLING, "run", work)


def claim(service):
    return service.write(view_offers.claim, worker_id="wrk_2", accelerator="cpu", cache_id=service.context.cache_id)


def test_a_wake_message_without_a_queued_job_takes_an_offer_and_wakes_the_next_worker(service, running, replace_run):
    replace_run(lambda _context, _row, _control: EXIT_DONE)

    claim_job()

    found = service.read(events.list_events, service.project, running.id).items
    assert [event.data["worker"] for event in found if event.type == "teacher_cache.worker_joined"] == [
        service.context.worker_id
    ]
    assert service.context.broker.queue_lengths()["jobs.cpu"] == 1
    assert service.reload(running).attempt == 1


def test_it_leaves_for_a_queued_job(service, running, replace_run):
    def work(_context, _row, control):
        service.create_job()
        until(lambda: control() is Control.DRAIN)
        return EXIT_DONE

    replace_run(work)

    assert run_next(CACHE_FILLING)
    assert claim(service) is not None  # no failure was counted


def test_a_process_that_dies_is_counted_and_the_job_goes_on(service, running, replace_run):
    replace_run(lambda _context, _row, _control: os.kill(os.getpid(), signal.SIGKILL))
    for _ in range(view_offers.MAX_FAILURES):
        offer_shards(service, running)
        assert run_next(CACHE_FILLING)
    offer_shards(service, running)

    assert not run_next(CACHE_FILLING)
    assert service.reload(running).status == "running"
