"""How often a model is right, and how often two models agree, on the pictures of one split.

Shapes: N pictures of the split, B of a batch, C channels, H and W pixels, K classes.
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


class LabelledPictures(Protocol):
    """Decoded pictures ``(N, C, H, W)`` uint8 with labels ``(N,)``; ``core.data.pixels.Pixels`` is one."""

    @property
    def images(self) -> Images:
        """All pictures; may be a memory map, or decoded on demand."""

    @property
    def labels(self) -> Tensor:
        """The class of each picture, int64."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Fractions on one split. ``per_class`` is None for a class without pictures; ``predictions`` is ``(N,)`` int64."""

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
    """Logits ``(N, K)`` in float32 on the CPU.

    ``logits`` takes float pictures ``(B, C, H, W)`` in 0…1; a ``BuiltModel`` on ``device``, in
    evaluation mode, is such a function. ``poll`` is called before each batch and may raise.
    """
    answers = []
    with torch.inference_mode():
        for start in range(0, len(images_NCHW), batch_size):
            if poll is not None:
                poll()
            # A copy: the pictures are a read-only memory map, and torch takes no read-only memory.
            batch_BCHW = torch.from_numpy(np.array(images_NCHW[start : start + batch_size]))
            answers.append(logits(batch_BCHW.to(device).float() / 255).float().cpu())
    return torch.cat(answers)


def evaluate_accuracy(
    logits: Callable[[Tensor], Any],
    pixels: LabelledPictures,
    *,
    batch_size: int = BATCH_SIZE,
    device: torch.device | str = "cpu",
    poll: Callable[[], None] | None = None,
) -> Accuracy:
    """Run a model over a split and score it; see :func:`predict` for ``logits``."""
    return score(predict(logits, pixels.images, batch_size=batch_size, device=device, poll=poll), pixels.labels)


def score(logits_NK: Tensor, labels_N: Tensor) -> Accuracy:
    """Score logits against labels. With fewer than five classes, top-5 looks at all of them."""
    num_classes = logits_NK.shape[1]
    best_N5 = logits_NK.topk(min(5, num_classes), dim=1).indices
    hits_N5 = best_N5 == labels_N[:, None]
    right_N = hits_N5[:, 0]
    totals_K = torch.bincount(labels_N, minlength=num_classes)
    rights_K = torch.bincount(labels_N[right_N], minlength=num_classes)
    per_class = tuple(
        right / total if total else None for right, total in zip(rights_K.tolist(), totals_K.tolist(), strict=True)
    )
    return Accuracy(
        top1=float(right_N.double().mean()),
        top5=float(hits_N5.any(dim=1).double().mean()),
        per_class=per_class,
        predictions=best_N5[:, 0].clone(),
        num_samples=len(labels_N),
    )


def agreement(first_N: Tensor, second_N: Tensor) -> float:
    """The fraction of pictures on which two models decide for the same class."""
    return float((first_N == second_N).double().mean())
