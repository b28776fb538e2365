"""Memory of this machine, or of the control group that limits this process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


def total_memory(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int | None:
    """Return the bytes of memory that this process may use with all others; None if the system does not report it."""
    found = [size for size in (_machine_bytes(proc), *_group_limits(proc, cgroups)) if size is not None]
    return min(found, default=None)


def _machine_bytes(proc: Path) -> int | None:
    match = re.search(r"^MemTotal:\s+(\d+) kB", _read(proc / "meminfo"), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _group_limits(proc: Path, cgroups: Path) -> Iterator[int | None]:
    """Limits of the process's control group and of those above it, of version 2 and 1."""
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _limits_above(cgroups, path, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _limits_above(cgroups / "memory", path, "memory.limit_in_bytes")


def _limits_above(root: Path, path: str, name: str) -> Iterator[int | None]:
    # In a container the path may be that on the host, which does not exist here; the root's file does.
    folder = root / path.lstrip("/")
    for each in (folder, *folder.parents):
        if each == root or root in each.parents:
            text = _read(each / name).strip()
            yield int(text) if text.isdigit() else None  # "max": no limit


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
