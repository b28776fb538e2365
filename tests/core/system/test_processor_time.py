"""Limit of processor time."""

import contextlib
import signal
import threading

import pytest

from core.system.processor_time import ProcessorTimeExceeded, limit_processor_time


def compute(seconds_are_unlimited=True):
    while seconds_are_unlimited:
        pass


def test_a_computation_ends_at_its_limit():
    with pytest.raises(ProcessorTimeExceeded, match=r"0\.1 s of processor time"), limit_processor_time(0.1):
        compute()


def test_a_swallowed_exception_is_raised_again():
    def swallow():
        with contextlib.suppress(ProcessorTimeExceeded):
            compute()
        compute()

    with pytest.raises(ProcessorTimeExceeded), limit_processor_time(0.1):
        swallow()


def test_waits_do_not_count():
    with limit_processor_time(0.2):
        threading.Event().wait(0.6)


def test_the_timer_and_the_handler_are_removed():
    before = signal.getsignal(signal.SIGPROF)
    with limit_processor_time(1.0):
        assert signal.getitimer(signal.ITIMER_PROF)[0] > 0

    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGPROF) is before


def test_there_is_no_limit_outside_the_main_thread():
    found = []

    def run():
        with limit_processor_time(0.01):
            found.append(signal.getitimer(signal.ITIMER_PROF))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    assert found == [(0.0, 0.0)]
