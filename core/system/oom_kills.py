"""Whether the kernel has ended something here for want of memory: it tells nobody, but it counts."""

from __future__ import annotations

import re
import time
from pathlib import Path

LOOK_SECONDS = 1.0
_RECENT_SECONDS = 5.0  # a kill that was counted within so long may have been of what has just died
_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


class OomKillMonitor:
    """Looked at now and then while something lives, to be asked when it has died."""

    def __init__(self) -> None:
        self._looked = False
        self._counter: Path | None = None
        self._counts: list[tuple[float, int]] = []  # when how many processes had been ended

    def look(self, pid: int) -> None:
        """Note how many there were until now where this process is."""
        if not self._looked:
            self._looked, self._counter = True, oom_counter(pid)
        if self._counter is None or (kills := oom_kills(self._counter)) is None:
            return
        now = time.monotonic()
        recent = [one for one in self._counts if one[0] > now - _RECENT_SECONDS]
        self._counts = [*(recent or self._counts[-1:]), (now, kills)]

    def lately(self) -> bool:
        """Whether there was one within the last seconds."""
        if self._counter is None or not self._counts:
            return False
        kills = oom_kills(self._counter)
        return kills is not None and kills > self._counts[0][1]


def oom_counter(pid: int, proc: Path = _PROC, cgroups: Path = _CGROUPS) -> Path | None:
    """The file that counts what the kernel has ended for want of memory where this process is; None: nobody counts.

    That of its control group, of either version, else that of the whole machine. Ask while the process lives.
    """
    files = (file for file in _counters(pid, proc, cgroups) if oom_kills(file) is not None)
    return next(files, None)


def oom_kills(counter: Path) -> int | None:
    """How many processes were ended for want of memory; None where the file does not say."""
    try:
        found = re.search(r"^oom_kill (\d+)$", counter.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


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
    # In a container the files may lie at the top, whatever path the host knows.
    return [*files, cgroups / "memory.events", cgroups / "memory" / "memory.oom_control", proc / "vmstat"]
