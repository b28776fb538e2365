"""What is seen of a process and of its machine: memory and disk."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROC = Path("/proc")


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
