"""Latency of a forward pass: the median of repeated runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

BATCHES = (1, 32)
MAX_REPEATS = 50
MIN_REPEATS = 5
SECONDS_PER_BATCH = 1.0  # time limit; a slow model gets fewer repeats, but at least MIN_REPEATS
WARMUP_RUNS = 2


@dataclass(frozen=True, slots=True)
class Latency:
    """Median milliseconds of a forward pass of one batch, on preprocessed input."""

    batch_size: int
    milliseconds: float
    repeats: int
    threads: int
    device: str

    def to_json(self) -> dict[str, Any]:
        """Return the entry of the report."""
        return asdict(self)


def measure_latency(
    module: Callable[[Tensor], Any],
    example_CHW: Tensor,
    *,
    batch_sizes: tuple[int, ...] = BATCHES,
    seconds: float = SECONDS_PER_BATCH,
    poll: Callable[[], None] | None = None,
) -> tuple[Latency, ...]:
    """Time ``module`` on copies of one preprocessed image, on the device of both.

    Uses torch's current number of threads. A network should be in evaluation mode; a file in its runtime may take the
    place of a network.
    """
    return tuple(_measure(module, example_CHW, size, seconds=seconds, poll=poll) for size in batch_sizes)


def _measure(
    module: Callable[[Tensor], Any],
    example_CHW: Tensor,
    batch_size: int,
    *,
    seconds: float,
    poll: Callable[[], None] | None,
) -> Latency:
    images_BCHW = example_CHW.expand(batch_size, *example_CHW.shape).contiguous()
    times: list[float] = []
    with torch.inference_mode():
        for _ in range(WARMUP_RUNS):
            _run(module, images_BCHW)
        deadline = time.perf_counter() + seconds
        while len(times) < MIN_REPEATS or (len(times) < MAX_REPEATS and time.perf_counter() < deadline):
            if poll is not None:
                poll()
            times.append(_run(module, images_BCHW))
    return Latency(
        batch_size=batch_size,
        milliseconds=statistics.median(times) * 1000,
        repeats=len(times),
        threads=torch.get_num_threads(),
        device=images_BCHW.device.type,
    )


def _run(module: Callable[[Tensor], Any], images_BCHW: Tensor) -> float:
    began = time.perf_counter()
    module(images_BCHW)
    if images_BCHW.is_cuda:
        torch.cuda.synchronize(images_BCHW.device)
    return time.perf_counter() - began
