"""Device and precision of the networks. Losses are float32 in every precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from core.errors import SpecCannotRun
from core.spec.job import MAX_CPU_DEVICES
from core.spec.training import Precision


@dataclass(frozen=True, slots=True)
class ComputeConfig:
    """Device, and precision of forward passes. Weights are always float32."""

    device: torch.device
    precision: Literal["fp32", "bf16"]

    def forward_context(self) -> AbstractContextManager[object]:
        """Autocast context for calling a network."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def choose_device(accelerator: Literal["auto", "cpu", "cuda"], *, devices: int = 1, rank: int = 0) -> torch.device:
    """Return the device of one rank of a run, and make it current. ``devices`` and ``rank`` count on this machine.

    Raises ``SpecCannotRun`` if CUDA is requested and unavailable, or if fewer devices are visible than requested.
    """
    if accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available()):
        if devices > MAX_CPU_DEVICES:
            raise SpecCannotRun(
                f"the job needs {devices} devices of this machine, but has at most {MAX_CPU_DEVICES} processes on a CPU"
            )
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SpecCannotRun("resources.accelerator is cuda, but this machine has no CUDA device; use cpu or auto")
    if devices == 1:
        return torch.device("cuda", torch.cuda.current_device())
    visible = torch.cuda.device_count()
    if devices > visible:
        raise SpecCannotRun(
            f"the job needs {devices} CUDA devices of this machine, but this process sees {visible}; lower "
            "resources.devices, or start a worker whose CUDA_VISIBLE_DEVICES names as many"
        )
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    return device


def choose_compute(device: torch.device, precision: Precision) -> ComputeConfig:
    """Resolve the precision: ``auto`` is bf16 on CUDA and fp32 on a CPU."""
    if precision == "auto":
        return ComputeConfig(device, "bf16" if device.type == "cuda" else "fp32")
    return ComputeConfig(device, precision)


def device_description(device: torch.device) -> str:
    """Return the kind of device, as far as the last bits of a result depend on it. Part of cache keys."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"
