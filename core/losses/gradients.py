"""Weights that balance the gradients of two losses."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

GradientRule = Literal["projected", "min_norm", "equal_norm"]

MAX_EQUAL_NORM_WEIGHT = 10.0


def gradient_weights(task: Tensor, distillation: Tensor, *, rule: GradientRule) -> tuple[Tensor, Tensor]:
    """Weights (task, distillation) of two flat gradients (P,), scalars on their device.

    With a = |task|², b = |distillation|² and c their product:

    - ``projected``: each without its part against the other, 1 − c/a and 1 − c/b if c < 0, else 1 and 1. Their weighted
      sum is that of PCGrad for two losses (Yu et al. 2020, arXiv:2001.06782).
    - ``min_norm``: the shortest convex combination, (b − c) / (a + b − 2c) in 0…1 and the rest (MGDA, Sener and Koltun
      2018, arXiv:1810.04650). Two equal gradients have one half each.
    - ``equal_norm``: 1, and √(a/b) up to 10, so that both have the same length.

    A gradient of zeros leaves nothing to balance: both weights are 1. Raises ``ValueError`` for other shapes.
    """
    if task.ndim != 1 or task.shape != distillation.shape:
        raise ValueError(
            f"gradients must be flat, of the same size, not {tuple(task.shape)} and {tuple(distillation.shape)}"
        )
    task_P, distillation_P = task.detach().float(), distillation.detach().float()
    a, b, c = task_P @ task_P, distillation_P @ distillation_P, task_P @ distillation_P
    one = torch.ones_like(a)
    match rule:
        case "projected":
            against = c.clamp_max(0)
            weights = 1 - against / a, 1 - against / b
        case "min_norm":
            length = a + b - 2 * c
            task_weight = torch.where(length > 0, ((b - c) / length).clamp(0, 1), one / 2)
            weights = task_weight, 1 - task_weight
        case "equal_norm":
            weights = one, (a / b).sqrt().clamp_max(MAX_EQUAL_NORM_WEIGHT)
    is_zero = (a == 0) | (b == 0)
    return torch.where(is_zero, one, weights[0]), torch.where(is_zero, one, weights[1])
