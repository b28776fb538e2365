"""Work beside its caller: one piece at a time, its errors told, no thread left."""

import threading

import pytest

from worker.background import BackgroundTask


@pytest.fixture
def beside():
    return BackgroundTask()


def test_the_caller_goes_on_meanwhile(beside):
    go_on, done = threading.Event(), []

    beside.start(lambda: (go_on.wait(30), done.append(1)))

    assert beside.is_running
    assert done == []
    go_on.set()
    beside.wait()
    assert done == [1]
    assert not beside.is_running


def test_pieces_are_done_in_their_order(beside):
    done = []
    for number in range(5):
        beside.start(lambda number=number: done.append(number))
    beside.wait()

    assert done == [0, 1, 2, 3, 4]


def test_what_is_raised_is_told_once(beside):
    beside.start(lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        beside.wait()
    beside.wait()


def test_no_thread_is_left(beside):
    before = threading.active_count()
    beside.start(lambda: None)
    beside.wait()

    assert threading.active_count() == before
