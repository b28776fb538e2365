"""The loss of DeiT's distillation token (Touvron et al. 2021, arXiv:2012.12877)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from core.losses.divergence import Reduction, kd

DistillationType = Literal["none", "soft", "hard"]


def token_divergence(
    distillation_logits: Tensor,
    teacher: Tensor,
    *,
    distillation_type: Literal["soft", "hard"],
    temperature: float,
    reduction: Reduction = "element",
) -> Tensor:
    """How far the distillation head (B, C) is from the teacher (B, C).

    ``hard``: cross-entropy with the teacher's decision, where temperature and reduction play no part.
    ``soft``: :func:`kd`.
    """
    if distillation_type == "hard":
        return F.cross_entropy(distillation_logits.float(), teacher.detach().argmax(dim=1))
    return kd(distillation_logits, teacher, temperature=temperature, reduction=reduction)


def deit(
    class_logits: Tensor,
    distillation_logits: Tensor,
    teacher: Tensor,
    base: Tensor,
    *,
    distillation_type: DistillationType,
    alpha: float,
    temperature: float,
    reduction: Reduction = "element",
) -> Tensor:
    """(1 − alpha) · base + alpha · divergence of the distillation head; ``none`` is ``base`` unscaled.

    ``base`` is the label loss of ``class_logits``, already a scalar. The default reduction is the official
    code's (B·C); the paper's formula is ``sample``. Raises ``ValueError`` where the heads differ in shape.
    """
    if distillation_type == "none":
        return base
    if not class_logits.shape == distillation_logits.shape == teacher.shape:
        shapes = [tuple(t.shape) for t in (class_logits, distillation_logits, teacher)]
        raise ValueError(f"class, distillation and teacher logits must have one shape, not {shapes}")
    divergence = token_divergence(
        distillation_logits,
        teacher,
        distillation_type=distillation_type,
        temperature=temperature,
        reduction=reduction,
    )
    return (1 - alpha) * base + alpha * divergence
