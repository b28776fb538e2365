"""What this machine's job workers run on, found out without waking CUDA up."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import Literal

from core.settings import Settings

_CUDA_SECONDS = 120.0


def accelerator_of(settings: Settings) -> Literal["cpu", "cuda"]:
    """The accelerator that jobs are claimed for: the setting, else CUDA if there is one."""
    if settings.accelerator != "auto":
        return settings.accelerator
    return "cuda" if cuda_name() else "cpu"


def device_name(accelerator: str) -> str:
    """What the device is called, for people."""
    if accelerator == "cuda":
        return cuda_name() or "CUDA device"
    return cpu_name()


def cuda_name() -> str | None:
    """The first CUDA device, or None.

    Asked of another process, and only where the driver is there at all: a process that has initialised
    CUDA cannot fork jobs that use it.
    """
    if not _driver_is_there():
        return None
    question = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"
    answer = subprocess.run(  # noqa: S603 - our own interpreter and words
        [sys.executable, "-P", "-c", question], capture_output=True, text=True, timeout=_CUDA_SECONDS, check=False
    )
    return answer.stdout.strip() or None


def cpu_name() -> str:
    """The processor's name as the kernel gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _driver_is_there() -> bool:
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg"))
