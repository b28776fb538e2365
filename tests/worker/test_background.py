"""Background tasks: one at a time, errors are raised, no thread remains."""

import threading

import pytest

from worker.background import BackgroundTask


@pytest.fixture
def task():
    return BackgroundTask()


def test_the_caller_is_not_blocked(task):
    proceed, done = threading.Event(), []

    task.start(lambda: (proceed.wait(30), done.append(1)))

    assert task.is_running
    assert done == []
    proceed.set()
    task.wait()
    assert done == [1]
    assert not task.is_running


def test_tasks_run_in_order(task):
    done = []
    for number in range(5):
        task.start(lambda number=number: done.append(number))
    task.wait()

    assert done == [0, 1, 2, 3, 4]


def test_an_error_is_raised_once(task):
    task.start(lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        task.wait()
    task.wait()


def test_no_thread_remains_after_a_task(task):
    before = threading.active_count()
    task.start(lambda: None)
    task.wait()

    assert threading.active_count() == before
