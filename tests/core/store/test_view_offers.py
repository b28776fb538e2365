"""Offered views: which worker may take which, and when an offer ends."""

import pytest

from core.reporting import ViewOffer
from core.store import events, jobs, view_offers
from core.store.job_leases import LeaseLost, LeaseToken

KEY = "0" * 64


@pytest.fixture
def running(world):
    """A running job, which has offered its views 1 and 2."""
    world.job()
    job = world.claim()
    offer(world, job, 1)
    return job


def offer(world, job, next_view, key=KEY):
    views = ViewOffer(key, next_view, 3, view_seconds=9.0)
    world.write(view_offers.offer, LeaseToken.from_job(job), views, cache_id="cache")


def claim(world, accelerator="cpu", cache_id="cache"):
    return world.write(view_offers.claim, worker_id="wrk_idle", accelerator=accelerator, cache_id=cache_id)


def take(world, claimed):
    return world.write(view_offers.take_view, claimed)


def test_idle_workers_take_each_view_once(world, running):
    first, second = claim(world), claim(world)

    assert (first.job.id, first.views_key, first.remaining) == (running.id, KEY, 2)
    assert [take(world, first), take(world, second), take(world, first)] == [1, 2, None]
    assert claim(world) is None
    types = [event.type for event in world.read(events.list_events, world.project, running.id, limit=20).items]
    assert types.count("teacher_cache.worker_joined") == 2


def test_a_view_that_the_training_has_computed_is_not_taken(world, running):
    offer(world, running, 2)
    claimed = claim(world)
    offer(world, running, 2)  # of a view that is claimed already

    assert [take(world, claimed), take(world, claimed)] == [2, None]


def test_workers_of_another_accelerator_or_cache_folder_take_nothing(world, running):
    assert claim(world, accelerator="cuda") is None
    assert claim(world, cache_id="other") is None


def test_an_offer_ends_with_the_attempt(world, running):
    claimed = claim(world)
    assert world.read(view_offers.is_wanted, claimed)
    world.write(jobs.release, LeaseToken.from_job(running))

    assert take(world, claimed) is None
    assert claim(world) is None
    with pytest.raises(LeaseLost):
        world.read(view_offers.is_wanted, claimed)
    with pytest.raises(LeaseLost):
        offer(world, running, 1)
    assert (world.write(view_offers.prune), world.write(view_offers.prune)) == (1, 0)


def test_a_queued_job_is_more_important(world, running):
    claimed = claim(world)
    world.job()

    assert not world.read(view_offers.is_wanted, claimed)


def test_an_offer_that_ends_every_process_is_not_taken_for_ever(world, running):
    claimed = claim(world)
    for _ in range(view_offers.MAX_FAILURES):
        world.write(view_offers.record_failure, claimed)

    assert claim(world) is None
    offer(world, running, 1, key="1" * 64)
    assert claim(world) is not None
