"""The processes that train one student together, one a device, and what they say to each other.

Every rank holds the whole student and takes a contiguous part of each batch. The loss of a part is a mean over
its samples; weighted by the part's size, DDP's average of the gradients is that of the whole batch. Process
groups are gloo on CPUs and NCCL on CUDA, and meet by a file: no port is opened beyond this machine.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch._C._distributed_c10d import FileStore
from torch.distributed.distributed_c10d import _abort_process_group
from torch.nn.parallel import DistributedDataParallel

from core.methods.base import Batch, Method, StepContext

Terms = Callable[[Batch, StepContext], dict[str, Tensor]]

# One that is dead is noticed at once by its closed connections, or by whoever watches the processes; this is
# for one that hangs, and has to outlast a checkpoint that the first rank uploads while the others wait.
PATIENCE = timedelta(minutes=30)
LONG_PATIENCE = timedelta(days=2)  # while the first rank asks the teachers about a whole view
_BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


class Joint(nn.Module):
    """Student and method as the one module that DDP averages the gradients of: its forward is a step's loss."""

    def __init__(self, student: nn.Module, method: Method) -> None:
        super().__init__()
        self.student = student
        self.method = method

    def forward(self, batch: Batch, room: StepContext) -> dict[str, Tensor]:
        """The method's terms. They ask the student through ``room``."""
        return self.method.terms(batch, room)


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """This process's place among those that train together. ``patient`` is their group for long waits."""

    rank: int = 0
    size: int = 1
    patient: Any = None

    def terms(self, student: nn.Module, method: Method) -> Terms:
        """What gives the terms of a step, so that their backward pass leaves the gradient of the whole batch."""
        if self.size == 1:
            return method.terms
        # Which parameters take part can change from step to step (warm-ups, stages). It also keeps DDP from
        # sorting its buckets anew behind the first step, which would change sums in a run that is resumed.
        wrapped: Terms = DistributedDataParallel(Joint(student, method), find_unused_parameters=True)
        return wrapped

    def factor(self, share: float) -> float:
        """What a part's loss is multiplied by, given its share of the batch, as DDP divides by the number of ranks."""
        return self.size * share

    def whole(self, measured: Tensor, share: float) -> Tensor:
        """Means over the whole batch, from the means over each rank's share of it; the same on every rank."""
        if self.size > 1:
            measured = measured * share
            dist.all_reduce(measured)
        return measured

    def after_first(self, work: Callable[[], None]) -> None:
        """Do something on every rank, on the others once the first one has done it."""
        if self.rank == 0:
            work()
        if self.size > 1:
            dist.barrier(group=self.patient)
        if self.rank > 0:
            work()


SINGLE_PROCESS = ProcessGroup()


def synchronised(module: nn.Module, ranks: ProcessGroup, device: torch.device) -> nn.Module:
    """The module with batch norms that see all parts of a batch. On CPUs torch has none: each sees its own part."""
    if ranks.size == 1 or device.type != "cuda":
        return module
    converted: nn.Module = convert_sync_batchnorm(module)
    return converted


@contextmanager
def init_process_group(meeting: Path, *, rank: int, size: int, device: torch.device) -> Iterator[ProcessGroup]:
    """Be one of ``size`` processes that meet by a file. Blocks until all are there."""
    with _on_this_machine():
        dist.init_process_group(
            _BACKENDS[device.type],
            store=FileStore(str(meeting), size),
            rank=rank,
            world_size=size,
            timeout=PATIENCE,
        )
    try:
        with _on_this_machine():
            patient = dist.new_group(backend="gloo", timeout=LONG_PATIENCE)
        yield ProcessGroup(rank, size, patient)
    finally:
        if device.type == "cuda":  # NCCL's own farewell waits for the others, who may be gone
            _abort_process_group()
        else:
            dist.destroy_process_group()


@contextmanager
def _on_this_machine() -> Iterator[None]:
    """Let connections be made over the loopback interface, unless somebody chose another."""
    loopback = next((name for _, name in socket.if_nameindex() if name in {"lo", "lo0"}), None)
    chosen = [] if loopback is None else [name for name in _INTERFACES if name not in os.environ]
    os.environ.update(dict.fromkeys(chosen, loopback or ""))
    try:
        yield
    finally:
        for name in chosen:
            del os.environ[name]
