"""Split a sample's logits into its target class and the other classes."""

from __future__ import annotations

import torch
from torch import Tensor


def require_labels(target: Tensor, logits: Tensor) -> None:
    """Raise ``ValueError`` unless ``target`` is integers (B,) or probabilities (B, C) for logits (B, C)."""
    is_probabilities = target.shape == logits.shape and target.is_floating_point()
    is_classes = target.shape == logits.shape[:1] and not target.is_floating_point()
    if not (is_probabilities or is_classes):
        raise ValueError(
            f"labels must be (B,) integers or (B, C) probabilities of logits {tuple(logits.shape)}, "
            f"not {tuple(target.shape)} of {target.dtype}"
        )


def hard_labels(target: Tensor, logits: Tensor) -> Tensor:
    """Return the class of each sample, (B,) int64: labels (B,), or the most probable class of (B, C)."""
    require_labels(target, logits)
    return target.argmax(dim=1) if target.ndim == 2 else target.long()


def target_entries(values: Tensor, label: Tensor) -> Tensor:
    """Return the entry (B,) of each row of ``values`` (B, C) at its label (B,)."""
    return values.gather(1, label.unsqueeze(1)).squeeze(1)


def other_entries(values: Tensor, label: Tensor) -> Tensor:
    """Return ``values`` (B, C) without each row's entry at its label (B,): (B, C − 1), in the same order."""
    index_1O = torch.arange(values.shape[1] - 1, device=values.device).unsqueeze(0)
    return values.gather(1, index_1O + (index_1O >= label.unsqueeze(1)))
