"""Norm of the smallest groups, for Unified Visual Transformer Compression (Yu et al. 2022, arXiv:2203.08243)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def smallest_groups(norms: Tensor, count: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return S(k; g), the sum of the k smallest group norms g, and its derivative with respect to k.

    The derivative is the next smallest norm, or the largest norm if k is G. ``norms`` is (..., G); ``count``, the k, is
    a number or a tensor (...), rounded up and clamped to 0…G. Both results have the shape (...).
    """
    if norms.ndim < 1 or norms.shape[-1] == 0:
        raise ValueError(f"norms must be (..., G) with one group or more, not {tuple(norms.shape)}")
    num_groups = norms.shape[-1]
    ordered_xG = norms.float().sort(dim=-1).values
    count_x = count if isinstance(count, Tensor) else torch.full(norms.shape[:-1], float(count), device=norms.device)
    index_x1 = count_x.ceil().clamp(0, num_groups).long().expand(norms.shape[:-1]).unsqueeze(-1)
    sums_xG = F.pad(ordered_xG.cumsum(dim=-1), (1, 0))
    following = ordered_xG.gather(-1, index_x1.clamp_max(num_groups - 1))
    return sums_xG.gather(-1, index_x1).squeeze(-1), following.squeeze(-1)
