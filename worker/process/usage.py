"""Memory usage of a process, free memory and free disk space of its machine."""

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
    """Memory of a process: resident, peak resident, and data (counted by ``RLIMIT_DATA``)."""

    resident_bytes: int
    peak_bytes: int
    data_bytes: int

    @classmethod
    def read(cls, pid: int, proc: Path = _PROC) -> Usage | None:
        """Read the usage of a running process; None if it has ended or the system has no ``/proc``."""
        try:
            lines = (proc / str(pid) / "status").read_text(encoding="ascii", errors="replace")
        except OSError:
            return None
        sizes = {name: int(size) * 1024 for name, size in re.findall(r"^(Vm\w+):\s+(\d+) kB", lines, re.MULTILINE)}
        if "VmRSS" not in sizes:  # it has ended
            return None
        return cls(sizes["VmRSS"], sizes["VmHWM"], sizes["VmData"])


def free_memory(proc: Path = _PROC) -> int | None:
    """Return the available memory of this machine in bytes; None if the system does not report it."""
    try:
        lines = (proc / "meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    match = re.search(r"^MemAvailable:\s+(\d+) kB", lines, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def machine_info(
    home: Path, usage: Usage | None, *, limit: int, device: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the ``machine`` of a job's error. ``limit``: memory limit of its process in bytes; 0: none."""
    return {
        "memory_bytes": None if usage is None else usage.resident_bytes,
        "memory_peak_bytes": None if usage is None else usage.peak_bytes,
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
    """Return the usage of this process."""
    return Usage.read(os.getpid())
