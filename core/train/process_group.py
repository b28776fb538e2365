"""Data-parallel training: the process group of the ranks, one per device.

Every rank holds the complete student and trains on a contiguous part of each batch. The loss of a part is a mean over
its samples; weighted by the part's size, DDP's average of the gradients is that of the complete batch. The backend is
gloo on CPUs and NCCL on CUDA. The ranks of one machine rendezvous through a file and connect over the loopback
interface: no port is reachable from other machines. Ranks that torchrun has started rendezvous through its store.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch._C._distributed_c10d import FileStore, PrefixStore, Store, TCPStore
from torch.distributed.distributed_c10d import _abort_process_group
from torch.nn.parallel import DistributedDataParallel

from core.methods.base import Batch, Method, StepContext
from core.train.torchrun import TorchrunEnvironment

Terms = Callable[[Batch, StepContext], dict[str, Tensor]]

# For a rank that hangs; a dead one is detected by its closed connections or by the launcher. Longer than an upload of
# a checkpoint by rank 0, while the others wait.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
LONG_TIMEOUT = timedelta(days=2)  # while rank 0 computes the teacher outputs of a complete view
_STORE_TIMEOUT = timedelta(minutes=5)
_BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


class StudentAndMethod(nn.Module):
    """Student and method as one module, so that DDP averages the gradients of both. Its forward returns loss terms."""

    def __init__(self, student: nn.Module, method: Method) -> None:
        super().__init__()
        self.student = student
        self.method = method

    def forward(self, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """Return the method's loss terms. The method calls the student through ``context``."""
        return self.method.terms(batch, context)


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """Rank of this process and the collectives of a training. ``long_timeout_group`` is for long waits."""

    rank: int = 0
    world_size: int = 1
    long_timeout_group: Any = None

    def wrap_terms(self, student: nn.Module, method: Method) -> Terms:
        """Return the function from batch to loss terms whose backward pass gives the complete batch's gradient."""
        if self.world_size == 1:
            return method.terms
        # The parameters in use can change from step to step (warm-ups, stages). The flag also keeps DDP from
        # rebuilding its buckets after the first step, which would change the sums of a resumed run.
        wrapped: Terms = DistributedDataParallel(StudentAndMethod(student, method), find_unused_parameters=True)
        return wrapped

    def loss_scale(self, batch_fraction: float) -> float:
        """Factor of a part's loss. DDP divides the sum of the gradients by the number of ranks."""
        return self.world_size * batch_fraction

    def gradient_reduction(self, terms: Terms, *, enabled: bool) -> AbstractContextManager[object]:
        """Context of forward and backward pass of a micro-batch; gradients are reduced after the last one only."""
        if enabled or not isinstance(terms, DistributedDataParallel):
            return nullcontext()
        return terms.no_sync()

    def reduce_mean(self, values: Tensor, batch_fraction: float) -> Tensor:
        """All-reduce the means over each rank's part to means over the complete batch."""
        if self.world_size > 1:
            values = values * batch_fraction
            dist.all_reduce(values)
        return values

    def average_gradients(
        self, gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """Average the gradients of ``parameters`` over the ranks, as DDP would.

        A gradient that a rank lacks counts as zero there; one that all ranks lack stays None.
        """
        if self.world_size == 1:
            return list(gradients)
        is_reached = torch.tensor([gradient is not None for gradient in gradients], dtype=torch.int32)
        dist.all_reduce(is_reached)  # on the CPU, over gloo
        averaged: list[Tensor | None] = [None] * len(parameters)
        reached = is_reached.nonzero().flatten().tolist()
        if not reached:
            return averaged
        found = [gradients[index] for index in reached]
        dense = [
            torch.zeros_like(parameters[index]) if gradient is None else gradient
            for index, gradient in zip(reached, found, strict=True)
        ]
        flat_P = torch.cat([gradient.flatten() for gradient in dense])
        dist.all_reduce(flat_P)
        parts = torch.split(flat_P / self.world_size, [gradient.numel() for gradient in dense])
        for index, part in zip(reached, parts, strict=True):
            averaged[index] = part.view_as(parameters[index])
        return averaged

    def broadcast_buffers(self, modules: Iterable[nn.Module]) -> None:
        """Replace the buffers of modules by those of rank 0, as DDP does before a step."""
        if self.world_size > 1:
            for module in modules:
                for buffer in module.buffers():
                    dist.broadcast(buffer, src=0)

    def rank_zero_first(self, work: Callable[[], None]) -> None:
        """Call ``work`` on rank 0, then on all other ranks."""
        if self.rank == 0:
            work()
        if self.world_size > 1:
            dist.barrier(group=self.long_timeout_group)
        if self.rank > 0:
            work()


SINGLE_PROCESS = ProcessGroup()


def convert_batch_norm(module: nn.Module, ranks: ProcessGroup, device: torch.device) -> nn.Module:
    """Convert batch norms to SyncBatchNorm on CUDA. torch has none for CPUs, so each rank normalizes its own part."""
    if ranks.world_size == 1 or device.type != "cuda":
        return module
    converted: nn.Module = convert_sync_batchnorm(module)
    return converted


class Rendezvous(Protocol):
    """Place where the ranks of a process group meet."""

    @property
    def is_local(self) -> bool:
        """Whether one machine has all ranks."""

    def open_store(self, world_size: int) -> Store:
        """Open the store through which the ranks exchange their addresses."""


@dataclass(frozen=True, slots=True)
class FileRendezvous:
    """Rendezvous file of the ranks of one machine."""

    path: Path

    @property
    def is_local(self) -> bool:
        """Return True."""
        return True

    def open_store(self, world_size: int) -> Store:
        """Open the file."""
        return FileStore(str(self.path), world_size)


@dataclass(frozen=True, slots=True)
class StoreRendezvous:
    """Rendezvous in torchrun's store, under a prefix."""

    environment: TorchrunEnvironment
    prefix: str

    @property
    def is_local(self) -> bool:
        """Return False."""
        return False

    def open_store(self, world_size: int) -> Store:  # noqa: ARG002 - the store has no limit
        """Connect to the store."""
        return PrefixStore(self.prefix, connect_store(self.environment))


def connect_store(environment: TorchrunEnvironment, *, serve: bool = False) -> Store:
    """Connect to torchrun's store; ``serve`` it as rank 0, unless the agent does. Raises ``dist.DistError``."""
    return TCPStore(
        environment.master_addr,
        environment.master_port,
        is_master=serve and not environment.has_agent_store,
        timeout=_STORE_TIMEOUT,
        wait_for_workers=False,
        multi_tenant=True,
    )


def is_connection_error(error: RuntimeError) -> bool:
    """Return whether a collective failed because of another rank. Gloo's errors have no class, but its files' names."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


@contextmanager
def init_process_group(
    rendezvous: Rendezvous, *, rank: int, world_size: int, device: torch.device
) -> Iterator[ProcessGroup]:
    """Join a process group. Blocks until all ranks have joined."""
    interface = _loopback_interface if rendezvous.is_local else nullcontext
    with interface():
        dist.init_process_group(
            _BACKENDS[device.type],
            store=rendezvous.open_store(world_size),
            rank=rank,
            world_size=world_size,
            timeout=COLLECTIVE_TIMEOUT,
        )
    try:
        with interface():
            long_timeout_group = dist.new_group(backend="gloo", timeout=LONG_TIMEOUT)
        yield ProcessGroup(rank, world_size, long_timeout_group)
    finally:
        if device.type == "cuda":  # NCCL's regular shutdown waits for other ranks, which may be dead
            _abort_process_group()
        else:
            dist.destroy_process_group()


@contextmanager
def _loopback_interface() -> Iterator[None]:
    """Connect over the loopback interface, unless the environment names another."""
    loopback = next((name for _, name in socket.if_nameindex() if name in {"lo", "lo0"}), None)
    unset = [] if loopback is None else [name for name in _INTERFACES if name not in os.environ]
    os.environ.update(dict.fromkeys(unset, loopback or ""))
    try:
        yield
    finally:
        for name in unset:
            del os.environ[name]
