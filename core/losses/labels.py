"""What the label says of a sample's logits: its class, and the classes that it is not."""

from __future__ import annotations

import torch
from torch import Tensor


def require_labels(target: Tensor, logits: Tensor) -> None:
    """Integers (B,) or probabilities (B, C) for logits (B, C), or ``ValueError``."""
    probabilities = target.shape == logits.shape and target.is_floating_point()
    classes = target.shape == logits.shape[:1] and not target.is_floating_point()
    if not (probabilities or classes):
        raise ValueError(
            f"labels must be (B,) integers or (B, C) probabilities of logits {tuple(logits.shape)}, "
            f"not {tuple(target.shape)} of {target.dtype}"
        )


def hard_labels(target: Tensor, logits: Tensor) -> Tensor:
    """The class of each sample, (B,) int64, of labels (B,) or the likeliest of probabilities (B, C)."""
    require_labels(target, logits)
    return target.argmax(dim=1) if target.ndim == 2 else target.long()


def of_label(values: Tensor, label: Tensor) -> Tensor:
    """The entry (B,) of each row of ``values`` (B, C) at its label (B,)."""
    return values.gather(1, label.unsqueeze(1)).squeeze(1)


def of_others(values: Tensor, label: Tensor) -> Tensor:
    """``values`` (B, C) without each row's entry at its label (B,): (B, C − 1), in their order."""
    place_1O = torch.arange(values.shape[1] - 1, device=values.device).unsqueeze(0)
    return values.gather(1, place_1O + (place_1O >= label.unsqueeze(1)))
