"""The accelerator of this machine's job workers, detected without initializing CUDA in this process."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import Literal

from core.settings import Settings

_TIMEOUT_SECONDS = 120.0


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
    """Return the name of the first CUDA device, or None.

    Another process reads it, and only if the driver is installed: a process that has initialized CUDA cannot fork
    jobs that use it.
    """
    if not _has_cuda_driver():
        return None
    code = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"
    result = subprocess.run(  # noqa: S603 - a constant command
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
    )
    return result.stdout.strip() or None


def cpu_name() -> str:
    """Return the processor's name as the kernel reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _has_cuda_driver() -> bool:
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg"))
