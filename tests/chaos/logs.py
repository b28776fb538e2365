"""Assertions about the events of a job."""

import itertools


def assert_gapless(events):
    """`seq` counts 1, 2, 3, …"""
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


def assert_attempts_are_sequential(events):
    """Attempts start one after another, each once, and an ended attempt records no event."""
    attempts = [event["attempt"] for event in events]
    started = [event["data"]["attempt"] for event in events if event["type"] == "job.started"]

    assert attempts == sorted(attempts)
    assert started == list(range(1, max(attempts) + 1))


def assert_resumed_from_checkpoints(events):
    """In each track, every attempt resumes from the newest checkpoint of earlier attempts."""
    newest_steps = {}  # by track
    for attempt, attempt_events in itertools.groupby(events, key=lambda event: event["attempt"]):
        steps_before = dict(newest_steps)
        for event in attempt_events:
            track, step = event["data"].get("track"), event["data"].get("step")
            if event["type"] == "training.resumed":
                assert step >= steps_before[track], f"attempt {attempt}"
            if event["type"] == "training.started" and "distill" in steps_before:
                assert step > steps_before["distill"], f"attempt {attempt} started at step 0"
            if event["type"] == "checkpoint.saved":
                newest_steps[track] = step
