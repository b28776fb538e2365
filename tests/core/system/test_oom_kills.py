"""OOM kills, read from the kernel's counters."""

import os
from pathlib import Path

import pytest

from core.system import oom_kills
from core.system.oom_kills import OomKillMonitor, find_oom_counter, read_oom_kills


@pytest.fixture
def system(tmp_path):
    """Create the files of a machine: `/proc` with a process 7, and its control groups."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "7").mkdir(parents=True)
    (proc / "vmstat").write_text("nr_free_pages 1\noom_kill 40\n")

    def install(groups, files):
        (proc / "7" / "cgroup").write_text(groups)
        for name, content in files.items():
            (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
            (cgroups / name).write_text(content)
        return find_oom_counter(7, proc, cgroups)

    return install


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/jobs/a\n", {"jobs/a/memory.events": "low 0\noom 3\noom_kill 2\noom_group_kill 0\n"}),
        ("4:memory:/jobs/a\n0::/\n", {"memory/jobs/a/memory.oom_control": "under_oom 0\noom_kill 2\n"}),
        ("0::/on/the/host\n", {"memory.events": "oom_kill 2\n"}),
        ("4:memory:/on/the/host\n", {"memory/memory.oom_control": "oom_kill 2\n"}),
    ],
)
def test_kills_are_counted_by_the_control_group(system, groups, files):
    assert read_oom_kills(system(groups, files)) == 2


def test_without_a_control_group_the_machine_counts(system):
    assert read_oom_kills(system("0::/\n", {})) == 40


def test_this_machine_has_a_counter():
    assert read_oom_kills(find_oom_counter(os.getpid())) >= 0
    assert read_oom_kills(Path("/nowhere")) is None


@pytest.fixture
def counter(tmp_path, monkeypatch):
    """A counter with the value 3."""
    file = tmp_path / "memory.events"
    file.write_text("oom_kill 3\n")
    monkeypatch.setattr(oom_kills, "find_oom_counter", lambda _pid: file)
    return file


def test_a_kill_is_detected_by_the_counter(counter):
    monitor = OomKillMonitor()
    monitor.poll(7)
    assert not monitor.has_recent_kill()
    counter.write_text("oom_kill 4\n")

    assert monitor.has_recent_kill()


def test_an_old_kill_is_ignored(counter, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(oom_kills.time, "monotonic", lambda: clock[0])
    monitor = OomKillMonitor()
    monitor.poll(7)
    counter.write_text("oom_kill 4\n")
    for clock[0] in (101.0, 104.0, 107.0):
        monitor.poll(7)

    assert not monitor.has_recent_kill()


def test_without_a_poll_no_kill_is_reported():
    assert not OomKillMonitor().has_recent_kill()
