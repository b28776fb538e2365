"""The guardian: it beats, carries requests, and ends what does not end by itself."""

import os
import signal
import time

import psutil
import pytest

from core.reporting import Control
from core.store.db import DatabaseUnavailable
from core.store.job_leases import LeaseLost
from worker.process.monitor import ExitReason, MonitorIntervals, ProcessMonitor
from worker.process.shared_flags import DRAIN

FAST = MonitorIntervals(control_poll_seconds=0.05, outage_seconds=0.4, cancel_grace_seconds=0.3, drain_seconds=0.3)


def until_asked(control, wanted=None, seconds=10.0):
    """What a job does: go on until something is asked of it."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if control() not in {Control.GO, Control.STOP} or control() is wanted:
            return 0
        time.sleep(0.005)
    return 1


def deaf(_control):
    time.sleep(60)
    return 0


@pytest.fixture
def drained():
    DRAIN.set(1)
    yield
    DRAIN.set(0)


def test_work_that_ends_by_itself_is_done():
    assert ProcessMonitor(lambda: Control.GO, FAST).run(lambda _control: 0) is ExitReason.DONE


def test_work_that_fails_or_is_killed_has_crashed():
    def die(_control):
        os.kill(os.getpid(), signal.SIGKILL)

    assert ProcessMonitor(lambda: Control.GO, FAST).run(lambda _control: 3) is ExitReason.CRASHED
    assert ProcessMonitor(lambda: Control.GO, FAST).run(lambda _control: 1 // 0) is ExitReason.CRASHED
    assert ProcessMonitor(lambda: Control.GO, FAST).run(die) is ExitReason.CRASHED


@pytest.mark.parametrize("wanted", [Control.CANCEL, Control.PAUSE, Control.STOP])
def test_what_is_asked_reaches_the_work(wanted):
    guardian = ProcessMonitor(lambda: wanted, FAST)

    assert guardian.run(lambda control: until_asked(control, wanted)) is ExitReason.DONE
    assert guardian.requested is wanted


def test_the_lease_is_renewed_while_the_work_holds_its_process():
    beats = []
    ProcessMonitor(lambda: beats.append(1) or Control.GO, FAST).run(lambda _control: time.sleep(0.5) or 0)

    assert len(beats) >= 3


def test_work_that_does_not_react_to_a_cancel_is_killed():
    began = time.monotonic()
    guardian = ProcessMonitor(lambda: Control.CANCEL, FAST)

    assert guardian.run(deaf) is ExitReason.FORCED
    assert guardian.requested is Control.CANCEL
    assert time.monotonic() - began < 20  # `deaf` would go on for longer


def test_a_drain_reaches_the_work_and_is_forced_in_the_end(drained):
    assert ProcessMonitor(lambda: Control.GO, FAST).run(until_asked) is ExitReason.DONE
    guardian = ProcessMonitor(lambda: Control.GO, FAST)
    assert guardian.run(deaf) is ExitReason.FORCED
    assert guardian.requested is Control.DRAIN


def test_a_pause_that_the_work_does_not_see_to_holds_up_no_drain(drained):
    guardian = ProcessMonitor(lambda: Control.PAUSE, FAST)

    assert guardian.run(deaf) is ExitReason.FORCED
    assert guardian.requested is Control.PAUSE


def test_a_pause_alone_may_take_its_time():
    guardian = ProcessMonitor(lambda: Control.PAUSE, FAST)

    assert guardian.run(lambda _control: time.sleep(3 * FAST.drain_seconds) or 0) is ExitReason.DONE


def test_a_cancel_is_stronger_than_a_drain(drained):
    guardian = ProcessMonitor(lambda: Control.CANCEL, FAST)
    guardian.run(lambda control: until_asked(lambda: control() if control() is Control.CANCEL else Control.GO))

    assert guardian.requested is Control.CANCEL


def test_work_whose_lease_is_lost_is_killed_at_once():
    def lost():
        raise LeaseLost

    began = time.monotonic()

    assert ProcessMonitor(lost, FAST).run(deaf) is ExitReason.LEASE_LOST
    assert time.monotonic() - began < 20  # `deaf` would go on for longer


def test_a_database_that_is_away_for_a_moment_costs_nothing():
    answers = iter([DatabaseUnavailable("away"), DatabaseUnavailable("away")])

    def beat():
        error = next(answers, None)
        if error is not None:
            raise error
        return Control.PAUSE

    assert ProcessMonitor(beat, FAST).run(until_asked) is ExitReason.DONE


def test_a_database_that_is_away_for_longer_than_the_work_may_go_on_ends_it():
    def away():
        raise DatabaseUnavailable("away")

    assert ProcessMonitor(away, FAST).run(deaf) is ExitReason.LEASE_LOST


def test_the_work_dies_with_its_guardian(tmp_path):
    def tell_and_wait(_control):
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(60)

    guardian = os.fork()
    if guardian == 0:
        ProcessMonitor(lambda: Control.GO, FAST).run(tell_and_wait)
        os._exit(0)
    ends = time.monotonic() + 10
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < ends
        time.sleep(0.01)
    work = psutil.Process(int((tmp_path / "pid").read_text()))
    os.kill(guardian, signal.SIGKILL)
    os.waitpid(guardian, 0)

    while work.is_running() and work.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < ends
        time.sleep(0.01)
