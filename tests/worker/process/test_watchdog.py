"""The state that a monitor shares with its process: activity, time limit, log tail, OOM kills."""

import math
import os
import signal
import time
from pathlib import Path

import pytest

from core.reporting import Control
from core.system import oom_kills
from worker.process.forked import ForkedProcess
from worker.process.monitor import ExitReason, MonitorIntervals, ProcessMonitor
from worker.process.watchdog import SharedTimestamp, Watchdog, current_watchdog

FAST = MonitorIntervals(control_poll_seconds=0.05, outage_seconds=5.0, cancel_grace_seconds=0.3, drain_seconds=0.3)


def monitored(work, **limits):
    monitor = ProcessMonitor(lambda: Control.GO, FAST, Watchdog(**limits))
    return monitor, monitor.run(work)


def hang(control):
    control()
    with open(os.devnull) as _:  # noqa: PTH123 - a frame that the traceback names
        time.sleep(60)
    return 0


def test_a_timestamp_is_shared():
    timestamp = SharedTimestamp()
    time.sleep(0.05)
    assert timestamp.age() >= 0.05
    ForkedProcess(lambda: timestamp.touch() or 0).wait(10)

    assert timestamp.age() < 0.05 + 10


def test_a_timestamp_is_never_read_half_written():
    """Otherwise a running process is killed as stalled: it touches before every step, and a step can take 1 ms."""
    timestamp = SharedTimestamp()

    def touch_forever():
        while True:
            timestamp.touch()

    busy = ForkedProcess(touch_forever)
    try:
        oldest = max(timestamp.age() for _ in range(500_000))
    finally:
        busy.kill()

    assert oldest < 60  # a half-written timestamp has the age of the machine


def test_a_hung_process_is_killed_and_leaves_its_traceback():
    began = time.monotonic()
    monitor, exit_reason = monitored(hang, stall_seconds=0.2)

    assert exit_reason is ExitReason.STALLED
    assert monitor.status == -signal.SIGKILL
    assert time.monotonic() - began < 20  # it would run for longer
    assert any("in hang" in line for line in monitor.log_lines)


def test_a_stopped_process_that_blocks_all_signals_is_killed():
    def stop(control):
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.pthread_sigmask(signal.SIG_BLOCK, [number])
        os.kill(os.getpid(), signal.SIGSTOP)

    assert monitored(stop, stall_seconds=0.2)[1] is ExitReason.STALLED


def test_a_process_that_reads_its_control_is_not_stalled():
    def work(control):
        ends = time.monotonic() + 1.0
        while time.monotonic() < ends:
            control()
            time.sleep(0.01)
        return 0

    assert monitored(work, stall_seconds=0.5)[1] is ExitReason.DONE


def test_a_process_at_its_time_limit_is_drained_and_knows_the_reason():
    def work(control):
        while control() is Control.GO:
            time.sleep(0.005)
        return 0 if control() is Control.DRAIN and current_watchdog().is_time_over() else 1

    monitor, exit_reason = monitored(work, remaining_seconds=0.1)

    assert (exit_reason, monitor.requested) == (ExitReason.DONE, Control.DRAIN)


def test_a_process_that_ignores_its_time_limit_is_killed():
    monitor, exit_reason = monitored(hang, remaining_seconds=0.1)

    assert (exit_reason, monitor.watchdog.is_time_over()) == (ExitReason.FORCED, True)


def test_an_oom_kill_is_detected_by_the_counter(monkeypatch, tmp_path):
    counter = tmp_path / "memory.events"
    counter.write_text("oom_kill 3\n")
    monkeypatch.setattr(oom_kills, "find_oom_counter", lambda _pid: counter)

    def work(_control):
        while counter.read_text() == "oom_kill 3\n":
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGKILL)

    def renew_lease():
        if monitor.watchdog.usage is not None:  # it has polled once
            counter.write_text("oom_kill 4\n")
        return Control.GO

    monitor = ProcessMonitor(renew_lease, FAST, Watchdog())
    assert monitor.run(work) is ExitReason.CRASHED
    assert monitor.watchdog.saw_oom_kill()
    other = ProcessMonitor(lambda: Control.GO, FAST, Watchdog())
    other.run(lambda _control: os.kill(os.getpid(), signal.SIGKILL))
    assert not other.watchdog.saw_oom_kill()


@pytest.fixture
def small_group():
    """A control group with a limit of 64 MiB; skips the test if this user cannot create one."""
    for top, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = top / f"potstill-test-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text(str(64 * 1024**2))
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        yield group
        group.rmdir()
        return
    pytest.skip("control groups with a memory limit cannot be made here (not root, or a container without them)")


def test_a_real_oom_kill_is_detected(small_group):
    def work(_control):
        (small_group / "cgroup.procs").write_text(str(os.getpid()))
        time.sleep(0.3)  # until the monitor has polled in the control group
        return len(bytearray(os.urandom(1024) * 512 * 1024))  # 512 MiB, each page written

    monitor = ProcessMonitor(lambda: Control.GO, FAST, _LatePollingWatchdog(small_group))
    assert monitor.run(work) is ExitReason.CRASHED

    assert monitor.status == -signal.SIGKILL
    assert monitor.watchdog.saw_oom_kill()


class _LatePollingWatchdog(Watchdog):
    """Polls only once the process has joined its control group."""

    def __init__(self, group):
        super().__init__()
        self._group = group

    def poll(self, process):
        if str(process.pid) in (self._group / "cgroup.procs").read_text().split():
            super().poll(process)


def test_a_default_watchdog_has_no_limits():
    assert not Watchdog().is_time_over()
    assert not Watchdog(stall_seconds=math.inf).is_stalled()
