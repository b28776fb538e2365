"""Losses of distillation tokens: DeiT's (Touvron et al. 2021, arXiv:2012.12877) and one for each of many teachers."""

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
    """How far the distillation head (B, C) is from the teacher (B, C).

    ``hard``: cross-entropy with the teacher's decision, where temperature and reduction play no part.
    ``soft``: :func:`kd`.
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

    arXiv:2106.12378. Logits (B, C); ``weights``, one for each teacher, are 1 unless given. Raises ``ValueError``
    where tokens, teachers and weights differ in number.
    """
    shares = [1.0] * len(teachers) if weights is None else weights
    if not len(token_logits) == len(teachers) == len(shares):
        counts = f"{len(token_logits)}, {len(teachers)} and {len(shares)}"
        raise ValueError(f"needs as many tokens as teachers and weights, not {counts}")
    require_labels(target, class_logits)
    label = F.cross_entropy(class_logits.float(), target)
    advice = [
        share * kd(token, teacher, temperature=temperature)
        for share, token, teacher in zip(shares, token_logits, teachers, strict=True)
    ]
    return torch.stack([label, *advice]).sum()
