"""Memory and disk as a job's error tells them, and who was ended for want of memory."""

import os
from pathlib import Path

import pytest

from worker.fresh import FreshProcess
from worker.machine import Usage, oom_counter, oom_kills, own_usage, seen


def test_what_a_process_uses_is_seen():
    used = own_usage()

    assert 10**6 < used.resident <= used.peak
    assert used.data > 10**6


def test_a_process_that_has_ended_uses_nothing():
    process = FreshProcess(lambda: 0)
    process.wait(10)

    assert Usage.of(process.pid) is None
    assert process.peak_bytes > 10**6


def test_an_error_tells_what_was_free(tmp_path):
    told = seen(tmp_path, Usage(resident=1, peak=2, data=3), limit=0)

    assert (told["memory_bytes"], told["memory_peak_bytes"], told["memory_limit_bytes"]) == (1, 2, None)
    assert told["memory_free_bytes"] > 10**6
    assert told["disk_free_bytes"] > 0
    assert seen(tmp_path / "gone", None, limit=9)["disk_free_bytes"] is None


@pytest.fixture
def system(tmp_path):
    """A machine's files: `/proc` with a process 7, and its control groups."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "7").mkdir(parents=True)
    (proc / "vmstat").write_text("nr_free_pages 1\noom_kill 40\n")

    def install(groups, files):
        (proc / "7" / "cgroup").write_text(groups)
        for name, content in files.items():
            (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
            (cgroups / name).write_text(content)
        return oom_counter(7, proc, cgroups)

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
def test_the_control_group_counts_whom_the_kernel_ended(system, groups, files):
    assert oom_kills(system(groups, files)) == 2


def test_without_one_the_machine_counts(system):
    assert oom_kills(system("0::/\n", {})) == 40


def test_this_machine_counts_somewhere():
    assert oom_kills(oom_counter(os.getpid())) >= 0
    assert oom_kills(Path("/nowhere")) is None
