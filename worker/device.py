"""The accelerator of this machine's job workers, detected without initializing CUDA in this process."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from core.settings import Settings

_TIMEOUT_SECONDS = 120.0
_READ_DEVICES = """
import json, torch
if torch.cuda.is_available():
    first = torch.cuda.get_device_properties(0)
    print(json.dumps({"name": first.name, "count": torch.cuda.device_count(), "memory_bytes": first.total_memory}))
"""


@dataclass(frozen=True, slots=True)
class CudaDevices:
    """Name and memory of the first CUDA device, and the number of devices."""

    name: str
    count: int
    memory_bytes: int


def detect_accelerator(settings: Settings) -> Literal["cpu", "cuda"]:
    """Return the accelerator that jobs are claimed for: the setting; with ``auto``, CUDA if available."""
    if settings.accelerator != "auto":
        return settings.accelerator
    return "cuda" if cuda_name() else "cpu"


def device_name(accelerator: str) -> str:
    """Return the display name of the device."""
    if accelerator == "cuda":
        return cuda_name() or "CUDA device"
    return cpu_name()


def cuda_name() -> str | None:
    """Return the name of the first CUDA device, or None."""
    devices = cuda_devices()
    return None if devices is None else devices.name


@cache
def cuda_devices() -> CudaDevices | None:
    """Return the CUDA devices of this machine, or None.

    Another process reads them, and only if the driver is installed: a process that has initialized CUDA cannot fork
    jobs that use it.
    """
    if not _has_cuda_driver():
        return None
    result = subprocess.run(  # noqa: S603 - a constant command
        [sys.executable, "-P", "-c", _READ_DEVICES],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_SECONDS,
        check=False,
    )
    return CudaDevices(**json.loads(result.stdout)) if result.stdout.strip() else None


def cpu_name() -> str:
    """Return the processor's name as the kernel reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _has_cuda_driver() -> bool:
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg"))
