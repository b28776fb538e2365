"""Accuracy on a part of the training split, by its positions; :mod:`core.evaluate.accuracy` reads complete splits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from core.data.pixels import Pixels
from core.models.taps import Outputs

_BATCH_SIZE = 256


def top1(
    network: Callable[[Tensor], Any],
    pixels: Pixels,
    *,
    device: torch.device | str = "cpu",
    poll: Callable[[], None] = lambda: None,
) -> float:
    """Top-1 accuracy of a network on ``pixels``, 0…1.

    ``network`` is called with float images (B, C, H, W) in 0…1, for example a ``BuiltModel`` on ``device`` in
    evaluation mode. ``poll`` is called before each batch and may raise.
    """
    return float((predicted_labels(network, pixels, device=device, poll=poll) == pixels.labels).double().mean())


def predicted_labels(
    network: Callable[[Tensor], Any],
    pixels: Pixels,
    *,
    device: torch.device | str = "cpu",
    poll: Callable[[], None] = lambda: None,
) -> Tensor:
    """Most probable class of each image (N,), int64 on the CPU. See :func:`top1`."""
    predictions = []
    with torch.inference_mode():
        for images_BCHW in image_batches(pixels, _BATCH_SIZE):
            poll()
            logits = Outputs.from_model_output(network(images_BCHW.to(device))).logits
            predictions.append(logits.argmax(dim=1).cpu())
    return torch.cat(predictions)


def image_batches(pixels: Pixels, batch_size: int) -> Iterator[Tensor]:
    """Yield the images in order, as float32 (B, C, H, W) in 0…1."""
    for start in range(0, len(pixels), batch_size):
        indices_B = torch.arange(start, min(start + batch_size, len(pixels)))
        yield pixels.batch(indices_B).float() / 255
