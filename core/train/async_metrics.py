"""Measurements of steps on their way from the device, which the host reads without holding the device up.

On CUDA a step is only queued when the host goes on, and waiting for each would leave the device idle between
them. So what a step measured is copied to pinned memory behind it, and read when ``lag`` further steps are
queued. On a CPU nothing is queued, and nothing lags.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LAG_STEPS = {"cpu": 0, "cuda": 2}  # by kind of device; two, so that one slow step of the host starves no device


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """What one step (counted from 0) measured: the terms of its loss, their sum, and the norm of its gradient."""

    step: int
    terms: dict[str, float]
    loss: float
    gradient_norm: float
    learning_rate: float

    def values(self) -> dict[str, float]:
        """All of it by name, as it is logged."""
        return {
            "loss": self.loss,
            **self.terms,
            "learning_rate": self.learning_rate,
            "gradient_norm": self.gradient_norm,
        }


@dataclass(frozen=True, slots=True)
class _Sent:
    """A reading that is on its way: ``measured`` are the terms, the loss and the norm; whole once ``arrived``."""

    step: int
    names: Sequence[str]
    measured: Tensor
    arrived: torch.cuda.Event | None
    learning_rate: float

    def read(self) -> StepMetrics:
        if self.arrived is not None:
            self.arrived.synchronize()
        *values, loss, norm = self.measured.tolist()
        return StepMetrics(self.step, dict(zip(self.names, values, strict=True)), loss, norm, self.learning_rate)


class MetricQueue:
    """The readings of the newest ``lag`` steps, which nobody waits for."""

    def __init__(self, lag: int) -> None:
        self.lag = lag
        self._sent: deque[_Sent] = deque()

    def put(self, step: int, names: Sequence[str], measured: Tensor, *, learning_rate: float) -> None:
        """Send off what a step measured: (terms + 2,) with the loss and the norm of the gradient at the end."""
        arrived = None
        if measured.device.type == "cuda":
            host = torch.empty(measured.shape, dtype=measured.dtype, pin_memory=True)
            measured = host.copy_(measured, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        self._sent.append(_Sent(step, names, measured, arrived, learning_rate))

    def due(self) -> Iterator[StepMetrics]:
        """Those that lie further back than the lag, in the order of their steps."""
        while len(self._sent) > self.lag:
            yield self._sent.popleft().read()

    def rest(self) -> Iterator[StepMetrics]:
        """All that are left; waits for the device."""
        while self._sent:
            yield self._sent.popleft().read()
