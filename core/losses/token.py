"""Losses of distillation tokens: DeiT (Touvron et al. 2021, arXiv:2012.12877) and Co-advise, one token per teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from core.losses.divergence import Reduction, kd
from core.losses.labels import require_labels
from core.losses.shapes import require_logits

DistillationType = Literal["none", "soft", "hard"]


def token_divergence(
    distillation_logits: Tensor,
    teacher: Tensor,
    *,
    distillation_type: Literal["soft", "hard"],
    temperature: float,
    reduction: Reduction = "element",
) -> Tensor:
    """Divergence of the distillation head (B, C) from the teacher (B, C).

    ``hard``: cross-entropy with the teacher's decision; temperature and reduction are not used. ``soft``: :func:`kd`.
    """
    require_logits(distillation_logits, teacher)
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

    ``base`` is the label loss of ``class_logits``, a scalar. The default reduction is that of the official code (B·C);
    the paper's formula is ``sample``. Raises ``ValueError`` if the heads differ in shape.
    """
    if distillation_type == "none":
        return base
    if not class_logits.shape == distillation_logits.shape == teacher.shape:
        shapes = [tuple(t.shape) for t in (class_logits, distillation_logits, teacher)]
        raise ValueError(f"class, distillation and teacher logits must have the same shape, not {shapes}")
    divergence = token_divergence(
        distillation_logits,
        teacher,
        distillation_type=distillation_type,
        temperature=temperature,
        reduction=reduction,
    )
    return (1 - alpha) * base + alpha * divergence


def co_advise(
    class_logits: Tensor,
    token_logits: Sequence[Tensor],
    teachers: Sequence[Tensor],
    target: Tensor,
    *,
    temperature: float = 1.0,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Co-advise: the label's cross-entropy plus :func:`kd` of each token with its own teacher (Ren et al. 2022).

    arXiv:2106.12378. Logits (B, C); ``weights``, one per teacher, are 1 by default. Raises ``ValueError`` if the
    numbers of tokens, teachers and weights differ.
    """
    teacher_weights = [1.0] * len(teachers) if weights is None else weights
    if not len(token_logits) == len(teachers) == len(teacher_weights):
        counts = f"{len(token_logits)}, {len(teachers)} and {len(teacher_weights)}"
        raise ValueError(f"needs equal numbers of tokens, teachers and weights, not {counts}")
    require_labels(target, class_logits)
    label = F.cross_entropy(class_logits.float(), target)
    divergences = [
        weight * kd(token, teacher, temperature=temperature)
        for weight, token, teacher in zip(teacher_weights, token_logits, teachers, strict=True)
    ]
    return torch.stack([label, *divergences]).sum()
