"""Accuracy of a model, and agreement of two models, on one split.

Shapes: N images of the split, B batch, C channels, H and W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from core.data.pixels import Images

BATCH_SIZE = 256


class LabeledImages(Protocol):
    """Decoded images ``(N, C, H, W)`` uint8 with labels ``(N,)``, for example ``core.data.pixels.Pixels``."""

    @property
    def images(self) -> Images:
        """All images; may be memory-mapped, or decoded on demand."""

    @property
    def labels(self) -> Tensor:
        """The class of each image, int64."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Fractions (0…1) on one split. ``per_class`` is None for a class without images; ``predictions``: (N,) int64."""

    top1: float
    top5: float
    per_class: tuple[float | None, ...]
    predictions: Tensor
    num_samples: int


def predict(
    logits: Callable[[Tensor], Any],
    images_NCHW: Images,
    *,
    batch_size: int = BATCH_SIZE,
    device: torch.device | str = "cpu",
    poll: Callable[[], None] | None = None,
) -> Tensor:
    """Run a model over a split; return its logits ``(N, K)`` in float32 on the CPU.

    ``logits`` is called with float images ``(B, C, H, W)`` in 0…1, for example a ``BuiltModel`` on ``device`` in
    evaluation mode. ``poll`` is called before each batch and may raise.
    """
    outputs = []
    with torch.inference_mode():
        for start in range(0, len(images_NCHW), batch_size):
            if poll is not None:
                poll()
            # A copy, because torch does not support read-only memory such as this memory map.
            batch_BCHW = torch.from_numpy(np.array(images_NCHW[start : start + batch_size]))
            outputs.append(logits(batch_BCHW.to(device).float() / 255).float().cpu())
    return torch.cat(outputs)


def evaluate_accuracy(
    logits: Callable[[Tensor], Any],
    pixels: LabeledImages,
    *,
    batch_size: int = BATCH_SIZE,
    device: torch.device | str = "cpu",
    poll: Callable[[], None] | None = None,
) -> Accuracy:
    """Run a model over a split and score it. See :func:`predict` for the arguments."""
    return score(predict(logits, pixels.images, batch_size=batch_size, device=device, poll=poll), pixels.labels)


def score(logits_NK: Tensor, labels_N: Tensor) -> Accuracy:
    """Score logits against labels. With fewer than five classes, top-5 uses all of them."""
    num_classes = logits_NK.shape[1]
    top_N5 = logits_NK.topk(min(5, num_classes), dim=1).indices
    hits_N5 = top_N5 == labels_N[:, None]
    is_correct_N = hits_N5[:, 0]
    totals_K = torch.bincount(labels_N, minlength=num_classes)
    correct_K = torch.bincount(labels_N[is_correct_N], minlength=num_classes)
    per_class = tuple(
        correct / total if total else None for correct, total in zip(correct_K.tolist(), totals_K.tolist(), strict=True)
    )
    return Accuracy(
        top1=float(is_correct_N.double().mean()),
        top5=float(hits_N5.any(dim=1).double().mean()),
        per_class=per_class,
        predictions=top_N5[:, 0].clone(),
        num_samples=len(labels_N),
    )


def agreement(first_N: Tensor, second_N: Tensor) -> float:
    """Fraction of images for which two models predict the same class."""
    return float((first_N == second_N).double().mean())
