"""The lock of a training: a second job waits for the first, unless it is to end."""

import multiprocessing
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from core.reporting import Control, Interrupted
from core.system.disk_cache import exclusive_lock
from core.train.context import RunContext
from core.train.training_lock import training_lock


@pytest.fixture
def context(tmp_path, make_reporter):
    reporter = make_reporter()
    return RunContext(SimpleNamespace(), None, 1, reporter, tmp_path / "root", tmp_path / "cache")


@pytest.fixture
def held(context):
    """Another job holds the lock; returns a function that releases it."""
    path = context.cache / "training_locks" / "recipe.lock"
    path.parent.mkdir(parents=True)
    with ExitStack() as stack:
        stack.enter_context(exclusive_lock(path, lambda: None))
        yield stack.close


def test_a_job_waits_for_another_one_and_reports_it_once(context, held):
    polls = iter(range(3))

    def control():
        if next(polls, None) is None:
            held()
        return Control.GO

    context.reporter.control = control
    with training_lock(context, "recipe", "teacher resnet18"):
        assert context.reporter.event_types == ["training.waiting"]


def test_the_lock_is_exclusive_and_released(context):
    path = context.cache / "training_locks" / "recipe.lock"

    def is_held():
        with multiprocessing.get_context("fork").Pool(1) as pool:
            return pool.apply(_is_held, (path,))

    with training_lock(context, "recipe", "m"):
        assert is_held()
    assert not is_held()
    assert context.reporter.event_types == []


def _is_held(path):
    class Held(Exception):
        pass

    def fail():
        raise Held

    try:
        with exclusive_lock(path, fail):
            return False
    except Held:
        return True


def test_a_request_to_stop_ends_the_wait_and_one_to_cancel_the_job(context, held):
    context.reporter.control_override = Control.STOP
    with training_lock(context, "recipe", "m"):
        pass

    context.reporter.control_override = Control.CANCEL
    with pytest.raises(Interrupted), training_lock(context, "recipe", "m"):
        pytest.fail("the lock is held")
