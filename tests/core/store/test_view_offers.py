"""Offered views: which worker may take which, and when an offer ends."""

import pytest

from core.reporting import ViewOffer
from core.store import events, jobs, view_offers
from core.store.job_leases import LeaseLost, LeaseToken

KEY = "0" * 64


@pytest.fixture
def running(world):
    """A running job, which has offered two shards, from view 1 on."""
    world.job()
    job = world.claim()
    offer(world, job)
    return job


def offer(world, job, next_view=1, num_shards=2, key=KEY):
    views = ViewOffer(key, next_view, 3, num_shards, shard_seconds=9.0)
    world.write(view_offers.offer, LeaseToken.from_job(job), views, cache_id="cache")


def claim(world, accelerator="cpu", cache_id="cache"):
    return world.write(view_offers.claim, worker_id="wrk_idle", accelerator=accelerator, cache_id=cache_id)


def test_at_most_one_idle_worker_per_shard_takes_an_offer(world, running):
    first, second = claim(world), claim(world)

    assert (first.job.id, first.views_key, first.next_view, first.num_shards) == (running.id, KEY, 1, 1)
    assert second.num_shards == 0
    assert claim(world) is None
    types = [event.type for event in world.read(events.list_events, world.project, running.id, limit=20).items]
    assert types.count("teacher_cache.worker_joined") == 2


def test_each_offer_replaces_the_one_before(world, running):
    offer(world, running, next_view=2, num_shards=1)

    claimed = claim(world)

    assert (claimed.next_view, claimed.num_shards) == (2, 0)


def test_a_worker_that_finds_no_shard_closes_the_offer(world, running):
    claimed = claim(world)
    world.write(view_offers.close, claimed)

    assert claim(world) is None
    offer(world, running)
    assert claim(world) is not None


def test_workers_of_another_accelerator_or_cache_folder_take_nothing(world, running):
    assert claim(world, accelerator="cuda") is None
    assert claim(world, cache_id="other") is None


def test_an_offer_ends_with_the_attempt(world, running):
    claimed = claim(world)
    assert world.read(view_offers.is_wanted, claimed)
    world.write(jobs.release, LeaseToken.from_job(running))

    assert claim(world) is None
    with pytest.raises(LeaseLost):
        world.read(view_offers.is_wanted, claimed)
    with pytest.raises(LeaseLost):
        offer(world, running)
    assert (world.write(view_offers.prune), world.write(view_offers.prune)) == (1, 0)


def test_a_queued_job_is_more_important(world, running):
    claimed = claim(world)
    world.job()

    assert not world.read(view_offers.is_wanted, claimed)


def test_an_offer_that_ends_every_process_is_not_taken_for_ever(world, running):
    claimed = claim(world)
    for _ in range(view_offers.MAX_FAILURES):
        world.write(view_offers.record_failure, claimed)
    offer(world, running)

    assert claim(world) is None
    offer(world, running, key="1" * 64)
    assert claim(world) is not None
