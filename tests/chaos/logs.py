"""What a job's log says of its attempts."""

import itertools


def assert_no_gap(events):
    """The log counts 1, 2, 3, …"""
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


def assert_each_attempt_has_its_turn(events):
    """Attempts follow each other, each begins once, and nothing is written for one that is over."""
    attempts = [event["attempt"] for event in events]
    started = [event["data"]["attempt"] for event in events if event["type"] == "job.started"]

    assert attempts == sorted(attempts)
    assert started == list(range(1, max(attempts) + 1))


def assert_it_went_on_from_its_checkpoint(events):
    """Every attempt resumes from the newest checkpoint that earlier ones left, of each training."""
    newest, by_attempt = {}, itertools.groupby(events, key=lambda event: event["attempt"])
    for attempt, told in by_attempt:
        left_by_earlier = dict(newest)
        for event in told:
            track, step = event["data"].get("track"), event["data"].get("step")
            if event["type"] == "training.resumed":
                assert step >= left_by_earlier[track], f"attempt {attempt}"
            if event["type"] == "training.started" and "distill" in left_by_earlier:
                assert step > left_by_earlier["distill"], f"attempt {attempt} began from zero"
            if event["type"] == "checkpoint.saved":
                newest[track] = step
