"""The monitor renews the lease, forwards requests and kills processes that do not react."""

import os
import signal
import time
from dataclasses import replace

import psutil
import pytest

from core.reporting import Control
from core.store.db import DatabaseUnavailable
from core.store.job_leases import LeaseLost
from worker.process.monitor import ExitReason, MonitorIntervals, ProcessMonitor
from worker.process.shared_flags import DRAIN

FAST = MonitorIntervals(control_poll_seconds=0.05, outage_seconds=0.4, cancel_grace_seconds=0.3, drain_seconds=0.3)


def until_requested(control, expected=None, seconds=10.0):
    """Read the control until a cancel, pause or drain, or until `expected`; return the exit status."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if control() not in {Control.GO, Control.STOP} or control() is expected:
            return 0
        time.sleep(0.005)
    return 1


def ignore_control(_control):
    time.sleep(60)
    return 0


@pytest.fixture
def drained():
    DRAIN.set(1)
    yield
    DRAIN.set(0)


def test_a_process_with_status_zero_is_done():
    assert ProcessMonitor(lambda: Control.GO, FAST).run(lambda _control: 0) is ExitReason.DONE


def test_a_process_that_fails_or_is_killed_has_crashed():
    def die(_control):
        os.kill(os.getpid(), signal.SIGKILL)

    assert ProcessMonitor(lambda: Control.GO, FAST).run(lambda _control: 3) is ExitReason.CRASHED
    assert ProcessMonitor(lambda: Control.GO, FAST).run(lambda _control: 1 // 0) is ExitReason.CRASHED
    assert ProcessMonitor(lambda: Control.GO, FAST).run(die) is ExitReason.CRASHED


@pytest.mark.parametrize("requested", [Control.CANCEL, Control.PAUSE, Control.STOP])
def test_a_request_reaches_the_process(requested):
    monitor = ProcessMonitor(lambda: requested, FAST)

    assert monitor.run(lambda control: until_requested(control, requested)) is ExitReason.DONE
    assert monitor.requested is requested


def test_the_lease_is_renewed_while_the_process_is_busy():
    renewals = []
    ProcessMonitor(lambda: renewals.append(1) or Control.GO, FAST).run(lambda _control: time.sleep(0.5) or 0)

    assert len(renewals) >= 3


def test_a_process_that_ignores_a_cancel_is_killed():
    began = time.monotonic()
    monitor = ProcessMonitor(lambda: Control.CANCEL, FAST)

    assert monitor.run(ignore_control) is ExitReason.FORCED
    assert monitor.requested is Control.CANCEL
    assert time.monotonic() - began < 20  # `ignore_control` would run for longer


def test_a_drain_reaches_the_process_or_kills_it(drained):
    assert ProcessMonitor(lambda: Control.GO, FAST).run(until_requested) is ExitReason.DONE
    monitor = ProcessMonitor(lambda: Control.GO, FAST)
    assert monitor.run(ignore_control) is ExitReason.FORCED
    assert monitor.requested is Control.DRAIN


def test_an_ignored_pause_does_not_delay_a_drain(drained):
    monitor = ProcessMonitor(lambda: Control.PAUSE, FAST)

    assert monitor.run(ignore_control) is ExitReason.FORCED
    assert monitor.requested is Control.PAUSE


def test_a_pause_alone_has_no_timeout():
    monitor = ProcessMonitor(lambda: Control.PAUSE, FAST)

    assert monitor.run(lambda _control: time.sleep(3 * FAST.drain_seconds) or 0) is ExitReason.DONE


def test_a_cancel_overrides_a_drain(drained):
    monitor = ProcessMonitor(lambda: Control.CANCEL, FAST)
    monitor.run(lambda control: until_requested(lambda: control() if control() is Control.CANCEL else Control.GO))

    assert monitor.requested is Control.CANCEL


def test_a_process_whose_lease_is_lost_is_killed_at_once():
    def lose_lease():
        raise LeaseLost

    began = time.monotonic()

    assert ProcessMonitor(lose_lease, replace(FAST, leave_seconds=0.3)).run(ignore_control) is ExitReason.LEASE_LOST
    assert time.monotonic() - began < 20  # `ignore_control` would run for longer


def test_a_process_that_has_released_its_lease_gets_time_to_delete_its_files():
    def find_released():
        raise LeaseLost

    def delete_files(_control):
        time.sleep(1.2)
        return 0

    assert ProcessMonitor(find_released, FAST).run(delete_files) is ExitReason.DONE


def test_a_short_database_outage_has_no_effect():
    errors = iter([DatabaseUnavailable("unavailable"), DatabaseUnavailable("unavailable")])

    def renew_lease():
        error = next(errors, None)
        if error is not None:
            raise error
        return Control.PAUSE

    assert ProcessMonitor(renew_lease, FAST).run(until_requested) is ExitReason.DONE


def test_a_database_outage_beyond_the_limit_ends_the_process():
    def raise_unavailable():
        raise DatabaseUnavailable("unavailable")

    intervals = replace(FAST, leave_seconds=0.3)
    assert ProcessMonitor(raise_unavailable, intervals).run(ignore_control) is ExitReason.LEASE_LOST


def test_the_process_dies_with_its_monitor(tmp_path):
    def write_pid_and_wait(_control):
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(60)

    monitor_pid = os.fork()
    if monitor_pid == 0:
        ProcessMonitor(lambda: Control.GO, FAST).run(write_pid_and_wait)
        os._exit(0)
    ends = time.monotonic() + 10
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < ends
        time.sleep(0.01)
    work = psutil.Process(int((tmp_path / "pid").read_text()))
    os.kill(monitor_pid, signal.SIGKILL)
    os.waitpid(monitor_pid, 0)

    while work.is_running() and work.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < ends
        time.sleep(0.01)
