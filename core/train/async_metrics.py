"""Step metrics, read from the device asynchronously.

CUDA steps are queued: a host that waits for each one leaves the device idle between steps. The metrics of a step are
therefore copied to pinned memory, and read after ``lag`` further steps are queued. On a CPU the lag is 0.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from core.errors import NonFiniteLoss

LAG_STEPS = {"cpu": 0, "cuda": 2}  # by device type; 2 keeps the device busy while one host step is slow


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """Metrics of one step (counted from 0): the loss terms, their sum, the norm of the gradient, and ``others``."""

    step: int
    terms: dict[str, float]
    loss: float
    gradient_norm: float
    learning_rate: float
    others: Mapping[str, float] = field(default_factory=dict)

    def values(self) -> dict[str, float]:
        """Metrics by the name under which they are logged."""
        return {
            "loss": self.loss,
            **self.terms,
            "learning_rate": self.learning_rate,
            "gradient_norm": self.gradient_norm,
            **self.others,
        }


@dataclass(frozen=True, slots=True)
class _PendingMetrics:
    """Metrics being copied to the host: terms, loss, norm and others. ``values`` is valid after ``copied``."""

    step: int
    names: Sequence[str]
    other_names: Sequence[str]
    values: Tensor
    copied: torch.cuda.Event | None
    learning_rate: float

    def read(self) -> StepMetrics:
        if self.copied is not None:
            self.copied.synchronize()
        values = self.values.tolist()
        count = len(self.names)
        terms, others = (
            dict(zip(self.names, values, strict=False)),
            dict(zip(self.other_names, values[count + 2 :], strict=True)),
        )
        return StepMetrics(self.step, terms, values[count], values[count + 1], self.learning_rate, others)


class MetricQueue:
    """Queue of the metrics of the newest ``lag`` steps, which are not waited for."""

    def __init__(self, lag: int) -> None:
        self.lag = lag
        self._pending: deque[_PendingMetrics] = deque()

    def put(
        self,
        step: int,
        names: Sequence[str],
        values: Tensor,
        *,
        learning_rate: float,
        others: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Start copying the metrics of a step: shape (terms + 2,), loss and gradient norm last, and other scalars."""
        if others:
            values = torch.cat((values, torch.stack(tuple(others.values()))))
        copied = None
        if values.device.type == "cuda":
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            values = host.copy_(values, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        self._pending.append(_PendingMetrics(step, names, tuple(others), values, copied, learning_rate))

    def pop_due(self) -> Iterator[StepMetrics]:
        """Yield the metrics of steps older than the lag, in step order."""
        while len(self._pending) > self.lag:
            yield self._pending.popleft().read()

    def drain(self) -> Iterator[StepMetrics]:
        """Wait for the device and yield all remaining metrics, in step order."""
        while self._pending:
            yield self._pending.popleft().read()


def non_finite_loss(metrics: StepMetrics, epoch: int) -> NonFiniteLoss:
    """Return the error for a step whose loss or gradient is not finite."""
    terms = {name: value for name, value in metrics.terms.items() if not math.isfinite(value)}
    cause = (
        " and ".join(f"the loss term {name!r} became {value}" for name, value in terms.items())
        or f"the loss is finite, but the norm of its gradient became {metrics.gradient_norm}"
    )
    return NonFiniteLoss(
        f"at step {metrics.step} (epoch {epoch}) {cause}; the step was not applied. Lower training.learning_rate, "
        "increase training.warmup_epochs, or set training.gradient_clip.",
        extra={"step": metrics.step, "terms": {name: str(value) for name, value in terms.items()}},
    )
