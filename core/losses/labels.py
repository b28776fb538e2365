"""Split a sample's logits into its target class and the other classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NO_LABEL = -1  # of a sample without a label; its probabilities (C,) are all 0


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


def labeled_cross_entropies(logits: Tensor, target: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of each sample with its label, (B,); 0 for samples without one.

    Args:
        logits: (B, C).
        target: Labels (B,), −1 for none; or probabilities (B, C). Where a labeled image is mixed with one without a
            label, the sum of the probabilities is the labeled part, which weights the sample.

    Raises:
        ValueError: The shapes differ.
    """
    require_labels(target, logits)
    if target.ndim == 1:
        return F.cross_entropy(
            logits, target.long(), ignore_index=NO_LABEL, label_smoothing=label_smoothing, reduction="none"
        )
    mass_B = target.sum(dim=1)
    probabilities_BC = target / mass_B.clamp(min=torch.finfo(target.dtype).eps).unsqueeze(1)
    return mass_B * F.cross_entropy(logits, probabilities_BC, label_smoothing=label_smoothing, reduction="none")


def target_entries(values: Tensor, label: Tensor) -> Tensor:
    """Return the entry (B,) of each row of ``values`` (B, C) at its label (B,)."""
    return values.gather(1, label.unsqueeze(1)).squeeze(1)


def other_entries(values: Tensor, label: Tensor) -> Tensor:
    """Return ``values`` (B, C) without each row's entry at its label (B,): (B, C − 1), in the same order."""
    index_1O = torch.arange(values.shape[1] - 1, device=values.device).unsqueeze(0)
    return values.gather(1, index_1O + (index_1O >= label.unsqueeze(1)))
