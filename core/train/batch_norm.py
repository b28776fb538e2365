"""Re-estimate the running statistics of BatchNorm after a short training.

Running statistics are exponential averages over the training, so after few steps they describe earlier weights and,
where momentum is small, the initial values. One pass over training images, without labels and gradients, replaces them
by the mean over its batches (Wu and Johnson 2021, arXiv:2105.07576, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.data.transfer import to_device
from core.data.views import batches, epoch_order
from core.train.trainer import TrainingSetup

MIN_UPDATES = 1_000
"""A training with at least this many updates of the running statistics keeps them."""
MAX_IMAGES = 2_048
"""Images of one pass, drawn from the training images by the training's seed."""
_BATCH_SIZE = 256


@dataclass(frozen=True, slots=True)
class BatchNormUpdate:
    """Re-estimated statistics: number of layers and images, and of the updates that the training made before."""

    layers: int
    images: int
    updates: int

    def to_json(self) -> dict[str, Any]:
        """Return the numbers for an event or the report."""
        return asdict(self)

    @property
    def message(self) -> str:
        """Sentence for the job's log."""
        return (
            f"BatchNorm statistics of {self.layers} layers re-estimated from {self.images} training images: the "
            f"training updated them {self.updates} times, fewer than {MIN_UPDATES}."
        )


def update_batch_norm(setup: TrainingSetup, *, steps: int, poll: Callable[[], None]) -> BatchNormUpdate | None:
    """Re-estimate the running statistics of all networks that can be exported, after ``steps`` training steps.

    Return None, and change nothing, where the training has no or enough updates, or no network has such a layer.
    Leaves the networks in evaluation mode. The result depends only on weights, images and seed. Each rank-0 process
    calls it after the process group has ended, so that SyncBatchNorm uses complete batches. ``poll`` may raise.
    """
    updates = steps * setup.training.gradient_accumulation
    if not 0 < updates < MIN_UPDATES:
        return None
    num_layers, num_images = 0, min(len(setup.loader.pixels), MAX_IMAGES)
    for built in setup.method.export_candidates(setup.student):
        layers = running_layers(built.module)
        if layers:
            num_layers += len(layers)
            with torch.no_grad(), setup.compute.forward_context(), _cumulative_averages(layers) as next_batch:
                for images_BCHW in _images(setup, num_images):
                    poll()
                    next_batch()
                    built(images_BCHW)
    return BatchNormUpdate(num_layers, num_images, updates) if num_layers else None


def running_layers(module: nn.Module) -> list[nn.Module]:
    """Switch a network to evaluation mode; return the layers that update running statistics in training mode.

    These are BatchNorm in all variants of torch and timm, and timm's EvoNorm with batch statistics. Frozen layers,
    which stay in evaluation mode or have no momentum, are not returned.
    """
    module.train()
    layers = [
        part
        for part in module.modules()
        if part.training and isinstance(getattr(part, "running_var", None), Tensor) and hasattr(part, "momentum")
    ]
    module.eval()
    return layers


@contextmanager
def _cumulative_averages(layers: list[nn.Module]) -> Iterator[Callable[[], None]]:
    """Let layers average the statistics of batches with equal weights; yield a function to call before each batch."""
    before = [(layer, layer.momentum, _num_updates(layer)) for layer in layers]
    num_batches = 0

    def next_batch() -> None:
        nonlocal num_batches
        num_batches += 1
        for layer in layers:
            layer.momentum = 1 / num_batches  # type: ignore[assignment] # 1: replaces the statistics of the training

    for layer in layers:
        layer.train()
    try:
        yield next_batch
    finally:
        for layer, momentum, num_updates in before:
            layer.momentum = momentum
            layer.eval()
            if num_updates is not None:
                layer.num_batches_tracked.copy_(num_updates)  # type: ignore[operator]


def _num_updates(layer: nn.Module) -> Tensor | None:
    """Return a copy of the layer's count of updates, if it counts them."""
    count = getattr(layer, "num_batches_tracked", None)
    return count.clone() if isinstance(count, Tensor) else None


def _images(setup: TrainingSetup, num_images: int) -> Iterator[Tensor]:
    """Yield batches of training images without augmentation, in a shuffled order, as float32 in 0…1 on the device."""
    pixels = setup.loader.pixels
    order = epoch_order(setup.loader.seed, 0, len(pixels))[:num_images]
    parts = list(batches(order, _BATCH_SIZE))
    for index, indices_B in enumerate(parts):
        if pixels.is_decoded_on_demand:
            pixels.prefetch(parts[index : index + 2])
        yield to_device(pixels.batch(indices_B), setup.compute.device).float() / 255
