"""Where and in which precision the networks compute. Losses are float32 whatever is chosen here."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from core.errors import SpecCannotRun
from core.spec.job import MOST_ON_CPU, Precision


@dataclass(frozen=True, slots=True)
class ComputeConfig:
    """A device and the precision of the forward passes on it. Weights are always float32."""

    device: torch.device
    precision: Literal["fp32", "bf16"]

    def forward_context(self) -> AbstractContextManager[object]:
        """The context in which a network is called."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def choose_device(accelerator: Literal["auto", "cpu", "cuda"], *, devices: int = 1, rank: int = 0) -> torch.device:
    """The device of a run, or of one of several processes that share a training.

    Raises ``SpecCannotRun`` where CUDA is asked for and not there, or where fewer devices can be seen than asked for.
    """
    if accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available()):
        if devices > MOST_ON_CPU:
            raise SpecCannotRun(
                f"resources.devices is {devices}, and a job on a CPU has at most {MOST_ON_CPU} processes"
            )
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SpecCannotRun("resources.accelerator is cuda, but this machine has no CUDA device; use cpu or auto")
    if devices == 1:
        return torch.device("cuda", torch.cuda.current_device())
    seen = torch.cuda.device_count()
    if devices > seen:
        raise SpecCannotRun(
            f"resources.devices is {devices}, and this worker sees {seen} CUDA device(s); ask for fewer, or start a "
            "worker whose CUDA_VISIBLE_DEVICES names as many"
        )
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    return device


def choose_arithmetic(device: torch.device, precision: Precision) -> ComputeConfig:
    """``auto`` is bf16 on CUDA and fp32 on a CPU."""
    if precision == "auto":
        return ComputeConfig(device, "bf16" if device.type == "cuda" else "fp32")
    return ComputeConfig(device, precision)


def machine_of(device: torch.device) -> str:
    """The kind of device, as far as the last bits of an answer may depend on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"
