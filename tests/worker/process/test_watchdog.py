"""What a guardian shares with the work that it guards."""

import math
import os
import signal
import time
from pathlib import Path

import pytest

from core.reporting import Control
from worker.process.forked import ForkedProcess
from worker.process.monitor import ExitReason, MonitorIntervals, ProcessMonitor
from worker.process.watchdog import SharedTimestamp, Watchdog, current_watchdog

FAST = MonitorIntervals(control_poll_seconds=0.05, outage_seconds=5.0, cancel_grace_seconds=0.3, drain_seconds=0.3)


def guarded(work, **limits):
    guardian = ProcessMonitor(lambda: Control.GO, FAST, Watchdog(**limits))
    return guardian, guardian.run(work)


def hang(control):
    control()
    with open(os.devnull) as _:  # noqa: PTH123 - a frame that the traceback names
        time.sleep(60)
    return 0


def test_a_moment_is_shared():
    moment = SharedTimestamp()
    time.sleep(0.05)
    assert moment.age() >= 0.05
    ForkedProcess(lambda: moment.touch() or 0).wait(10)

    assert moment.age() < 0.05 + 10


def test_a_moment_is_never_read_half_written():
    """Or work that runs is ended as work that hangs: it touches before every step, and steps may take a millisecond."""
    moment = SharedTimestamp()

    def touch_for_ever():
        while True:
            moment.touch()

    busy = ForkedProcess(touch_for_ever)
    try:
        oldest = max(moment.age() for _ in range(500_000))
    finally:
        busy.kill()

    assert oldest < 60  # of a moment half written it is the age of the machine


def test_work_that_hangs_is_ended_and_says_where_it_stood():
    began = time.monotonic()
    guardian, ending = guarded(hang, stall_seconds=0.2)

    assert ending is ExitReason.STALLED
    assert guardian.status == -signal.SIGKILL
    assert time.monotonic() - began < 20  # it would go on for longer
    assert any("in hang" in line for line in guardian.log_lines)


def test_work_that_is_stopped_and_deaf_to_all_signals_is_ended_too():
    def stop(control):
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.pthread_sigmask(signal.SIG_BLOCK, [number])
        os.kill(os.getpid(), signal.SIGSTOP)

    assert guarded(stop, stall_seconds=0.2)[1] is ExitReason.STALLED


def test_work_that_looks_for_requests_is_alive_however_long_it_takes():
    def work(control):
        ends = time.monotonic() + 1.0
        while time.monotonic() < ends:
            control()
            time.sleep(0.01)
        return 0

    assert guarded(work, stall_seconds=0.5)[1] is ExitReason.DONE


def test_work_whose_time_is_over_is_asked_to_leave_and_knows_why():
    def work(control):
        while control() is Control.GO:
            time.sleep(0.005)
        return 0 if control() is Control.DRAIN and current_watchdog().is_time_over() else 1

    guardian, ending = guarded(work, remaining_seconds=0.1)

    assert (ending, guardian.requested) == (ExitReason.DONE, Control.DRAIN)


def test_work_that_does_not_leave_when_its_time_is_over_is_ended():
    guardian, ending = guarded(hang, remaining_seconds=0.1)

    assert (ending, guardian.watchdog.is_time_over()) == (ExitReason.FORCED, True)


def test_a_kill_for_want_of_memory_is_known_by_the_counter(monkeypatch, tmp_path):
    counter = tmp_path / "memory.events"
    counter.write_text("oom_kill 3\n")
    monkeypatch.setattr("core.system.oom_kills.find_oom_counter", lambda _pid: counter)

    def work(_control):
        while counter.read_text() == "oom_kill 3\n":
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGKILL)

    def beat():
        if guardian.watchdog.usage is not None:  # it has looked once
            counter.write_text("oom_kill 4\n")
        return Control.GO

    guardian = ProcessMonitor(beat, FAST, Watchdog())
    assert guardian.run(work) is ExitReason.CRASHED
    assert guardian.watchdog.saw_oom_kill()
    other = ProcessMonitor(lambda: Control.GO, FAST, Watchdog())
    other.run(lambda _control: os.kill(os.getpid(), signal.SIGKILL))
    assert not other.watchdog.saw_oom_kill()


@pytest.fixture
def small_group():
    """A control group of this machine that may hold 64 MiB; skipped where nobody may make one."""
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


def test_the_kernels_own_kill_is_known_for_one(small_group):
    def work(_control):
        (small_group / "cgroup.procs").write_text(str(os.getpid()))
        time.sleep(0.3)  # for the guardian to look: it does so when the work has begun
        return len(bytearray(os.urandom(1024) * 512 * 1024))  # 512 MiB, each page written

    guardian = ProcessMonitor(lambda: Control.GO, FAST, _Late(small_group))
    assert guardian.run(work) is ExitReason.CRASHED

    assert guardian.status == -signal.SIGKILL
    assert guardian.watchdog.saw_oom_kill()


class _Late(Watchdog):
    """Looks first when the work has joined its control group."""

    def __init__(self, group):
        super().__init__()
        self._group = group

    def look(self, process):
        if str(process.pid) in (self._group / "cgroup.procs").read_text().split():
            super().poll(process)


def test_whoever_is_guarded_by_nobody_has_no_limits():
    assert not Watchdog().is_time_over()
    assert not Watchdog(stall_seconds=math.inf).is_stalled()
