"""Claims, retries, and the end of deliveries. Time is a parameter, so no test waits."""

import itertools
import json
from datetime import timedelta

import pytest

from core.errors import NotFound
from core.store import webhooks
from core.store.webhooks.deliveries import LOST_ATTEMPT, MAX_IN_FLIGHT, MAX_LOGGED_ATTEMPTS, RETRY_SECONDS

KEY = "k" * 32
ACCEPTED = webhooks.AttemptResult(status=204, error=None, seconds=0.1)
REFUSED = webhooks.AttemptResult(status=500, error="example.com answered 500 instead of 2xx", seconds=0.1)


@pytest.fixture
def webhook(world):
    options = {"url": "https://example.com/hook", "events": ["job.created"], "secret_key": KEY}
    return world.write(webhooks.create, world.project, **options).webhook


@pytest.fixture
def delivery(world, webhook):
    """A delivery that is due."""
    world.job()
    return newest(world, webhook)


def newest(world, webhook):
    return world.read(webhooks.list_deliveries, world.project, webhook.id).items[0]


def reload(world, delivery):
    return world.read(webhooks.get_delivery, delivery.project_id, delivery.webhook_id, delivery.id)


def claim(world, now, lease_seconds=60):
    return world.write(webhooks.claim, now, lease_seconds=lease_seconds)


def fail_until_the_end(world, delivery):
    """Let all attempts of a delivery fail; return the times of the attempts."""
    times = []
    while (pending := reload(world, delivery)).status == "pending":
        times.append(pending.next_attempt_at)
        world.write(webhooks.record_attempt, claim(world, times[-1]), REFUSED, times[-1])
    return times


def test_a_delivery_is_claimed_by_one_sender(world, delivery):
    now = delivery.created_at
    claimed = claim(world, now)

    assert (claimed.id, claimed.attempt) == (delivery.id, 1)
    assert json.loads(claimed.body) == delivery.payload
    assert claim(world, now + timedelta(seconds=59)) is None


def test_a_delivery_whose_sender_died_is_sent_again_with_the_same_id(world, delivery):
    now = delivery.created_at
    first = claim(world, now)
    second = claim(world, now + timedelta(seconds=61))

    assert (second.id, second.attempt, second.body) == (first.id, 2, first.body)
    # The first sender was only slow: its late result changes nothing.
    assert world.write(webhooks.record_attempt, first, REFUSED, now) is None
    world.write(webhooks.record_attempt, second, ACCEPTED, now)
    ended = reload(world, delivery)
    assert (ended.status, ended.next_attempt_at) == ("succeeded", None)
    assert [(entry["attempt"], entry["status"], entry["error"]) for entry in ended.attempts] == [
        (1, None, LOST_ATTEMPT),
        (2, 204, None),
    ]
    assert claim(world, now + timedelta(days=9)) is None


def test_failed_attempts_are_repeated_for_three_days_with_growing_intervals(world, webhook, delivery):
    times = fail_until_the_end(world, delivery)
    intervals = [(b - a).total_seconds() for a, b in itertools.pairwise(times)]
    ended = reload(world, delivery)

    assert len(times) == len(RETRY_SECONDS) + 1
    assert all(low <= actual <= 1.1 * low for low, actual in zip(RETRY_SECONDS, intervals, strict=True))
    assert timedelta(days=2.5) < times[-1] - times[0] <= timedelta(days=3.1)
    assert (ended.status, ended.finished_at) == ("failed", times[-1])
    assert len(ended.attempts) == len(times) <= MAX_LOGGED_ATTEMPTS


def test_a_webhook_without_a_success_for_three_days_is_disabled(world, webhook, delivery):
    fail_until_the_end(world, delivery)
    disabled = world.read(webhooks.get, world.project, webhook.id)

    assert (disabled.status, disabled.disabled_reason) == ("disabled", "failing")
    assert disabled.failing_since == delivery.created_at


def test_one_success_in_between_keeps_a_webhook_enabled(world, webhook, delivery):
    for _ in range(8):
        now = reload(world, delivery).next_attempt_at
        world.write(webhooks.record_attempt, claim(world, now), REFUSED, now)
    now = world.write(webhooks.add_test, webhook, now).created_at
    world.write(webhooks.record_attempt, claim(world, now), ACCEPTED, now)
    fail_until_the_end(world, delivery)
    still = world.read(webhooks.get, world.project, webhook.id)

    assert (still.status, still.last_success_at) == ("enabled", now)
    assert reload(world, delivery).status == "failed"


def test_a_receiver_that_is_gone_disables_its_webhook_at_once(world, webhook, delivery):
    world.job()
    gone = webhooks.AttemptResult(status=410, error="gone", seconds=0.1)
    world.write(webhooks.record_attempt, claim(world, delivery.created_at), gone, delivery.created_at)
    disabled = world.read(webhooks.get, world.project, webhook.id)

    assert (disabled.status, disabled.disabled_reason) == ("disabled", "gone")
    assert {each.status for each in world.read(webhooks.list_deliveries, world.project, webhook.id).items} == {"failed"}


def test_retry_after_delays_the_next_attempt(world, delivery):
    busy = webhooks.AttemptResult(status=429, error="busy", seconds=0.1, retry_after_seconds=900.0)
    now = delivery.created_at
    world.write(webhooks.record_attempt, claim(world, now), busy, now)

    assert reload(world, delivery).next_attempt_at == now + timedelta(seconds=900)


def test_a_failed_delivery_is_sent_again_on_request(world, webhook, delivery):
    times = fail_until_the_end(world, delivery)
    world.write(webhooks.redeliver, world.project, webhook.id, delivery.id)
    claimed = claim(world, reload(world, delivery).next_attempt_at)
    world.write(webhooks.record_attempt, claimed, ACCEPTED, times[-1])

    assert (claimed.id, claimed.attempt) == (delivery.id, len(times) + 1)
    assert reload(world, delivery).status == "succeeded"
    # The webhook was disabled, and only its owner enables it.
    assert world.read(webhooks.get, world.project, webhook.id).status == "disabled"


def test_a_slow_receiver_occupies_only_its_share_of_the_senders(world, webhook, other_project):
    options = {"url": "https://other.example/hook", "events": ["*"], "secret_key": KEY}
    other = world.write(webhooks.create, other_project, **options).webhook
    for _ in range(MAX_IN_FLIGHT + 2):
        world.job()
    later = newest(world, webhook).created_at + timedelta(seconds=1)
    world.write(webhooks.add_test, other, later)
    claimed = [claim(world, later) for _ in range(MAX_IN_FLIGHT + 2)]

    assert [each.webhook.id for each in claimed[:-1]] == [webhook.id] * MAX_IN_FLIGHT + [other.id]
    assert claimed[-1] is None


def test_old_finished_deliveries_are_deleted(world, webhook, delivery):
    world.write(webhooks.record_attempt, claim(world, delivery.created_at), ACCEPTED, delivery.created_at)
    world.job()

    assert world.write(webhooks.expire, 1.0) == 0
    assert world.write(webhooks.expire, -1.0) == 1
    assert [each.status for each in world.read(webhooks.list_deliveries, world.project, webhook.id).items] == [
        "pending"
    ]


def test_the_backlog_counts_pending_deliveries(world, delivery):
    backlog = world.read(webhooks.get_backlog)

    assert backlog.num_pending == 1
    assert backlog.oldest_due_seconds >= 0


def test_deliveries_of_another_project_are_not_found(world, delivery, other_project):
    for function in (webhooks.get_delivery, webhooks.redeliver):
        with pytest.raises(NotFound):
            world.write(function, other_project, delivery.webhook_id, delivery.id)
