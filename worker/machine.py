"""What is seen of a process and of its machine: memory, disk, and whether the kernel ended something for want of it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Usage:
    """A process's memory in bytes: resident now and at its most, and what a limit on data would count."""

    resident: int
    peak: int
    data: int

    @classmethod
    def of(cls, pid: int, proc: Path = _PROC) -> Usage | None:
        """Of a process that lives; None else, and where the system does not tell."""
        try:
            lines = (proc / str(pid) / "status").read_text(encoding="ascii", errors="replace")
        except OSError:
            return None
        found = {name: int(size) * 1024 for name, size in re.findall(r"^(Vm\w+):\s+(\d+) kB", lines, re.MULTILINE)}
        if "VmRSS" not in found:  # it has ended
            return None
        return cls(found["VmRSS"], found["VmHWM"], found["VmData"])


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


def free_memory(proc: Path = _PROC) -> int | None:
    """The bytes that new work could get on this machine; None where the system does not tell."""
    try:
        lines = (proc / "meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB", lines, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def seen(home: Path, usage: Usage | None, *, limit: int, device: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a job's error says of its machine. ``limit``: the most memory that its process may ask for; 0: any."""
    return {
        "memory_bytes": None if usage is None else usage.resident,
        "memory_peak_bytes": None if usage is None else usage.peak,
        "memory_limit_bytes": limit or None,
        "memory_free_bytes": free_memory(),
        "disk_free_bytes": _free_disk(home),
        "device": None if device is None else dict(device),
    }


def _free_disk(home: Path) -> int | None:
    try:
        return shutil.disk_usage(home).free
    except OSError:
        return None


def own_usage() -> Usage | None:
    """This process's."""
    return Usage.of(os.getpid())
