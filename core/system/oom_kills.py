"""Detection of OOM kills by the kernel's counters: the kernel sends no other notification."""

from __future__ import annotations

import re
import time
from pathlib import Path

POLL_SECONDS = 1.0
_RECENT_SECONDS = 5.0  # a kill within this time may be that of the process that has just ended
_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


class OomKillMonitor:
    """Counts OOM kills: poll it while a process runs, and read :meth:`has_recent_kill` after its exit."""

    def __init__(self) -> None:
        self._has_polled = False
        self._counter: Path | None = None
        self._counts: list[tuple[float, int]] = []  # (time, kills so far)

    def poll(self, pid: int) -> None:
        """Record the number of kills in the control group of this process."""
        if not self._has_polled:
            self._has_polled, self._counter = True, find_oom_counter(pid)
        if self._counter is None or (kills := read_oom_kills(self._counter)) is None:
            return
        now = time.monotonic()
        recent = [(time_, kills_) for time_, kills_ in self._counts if time_ > now - _RECENT_SECONDS]
        self._counts = [*(recent or self._counts[-1:]), (now, kills)]

    def has_recent_kill(self) -> bool:
        """Whether the kernel has killed a process within the last seconds."""
        if self._counter is None or not self._counts:
            return False
        kills = read_oom_kills(self._counter)
        return kills is not None and kills > self._counts[0][1]


def find_oom_counter(pid: int, proc: Path = _PROC, cgroups: Path = _CGROUPS) -> Path | None:
    """Return the file that counts the OOM kills around this process, or None.

    It is the file of its control group (version 1 or 2), otherwise that of the machine. The process must be running.
    """
    files = (file for file in _counters(pid, proc, cgroups) if read_oom_kills(file) is not None)
    return next(files, None)


def read_oom_kills(counter: Path) -> int | None:
    """Return the number of OOM kills; None if the file does not contain it."""
    try:
        match = re.search(r"^oom_kill (\d+)$", counter.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) if match else None


def _counters(pid: int, proc: Path, cgroups: Path) -> list[Path]:
    try:
        groups = (proc / str(pid) / "cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        groups = []
    files: list[Path] = []
    for line in groups:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            files.insert(0, cgroups / path.lstrip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            files.append(cgroups / "memory" / path.lstrip("/") / "memory.oom_control")
    # In a container the files may lie at the root, whatever the path on the host.
    return [*files, cgroups / "memory.events", cgroups / "memory" / "memory.oom_control", proc / "vmstat"]
