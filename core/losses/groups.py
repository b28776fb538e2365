"""Unified Visual Transformer Compression's price of a pruned width (Yu et al. 2022, arXiv:2203.08243)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def smallest_groups(norms: Tensor, count: Tensor | float) -> tuple[Tensor, Tensor]:
    """S(k; g), the sum of the k smallest of the group norms g, and its derivative by k: the next smallest.

    ``norms`` (..., G), ``count`` a number or a tensor (...), rounded up and held between 0 and G. Beyond the last
    group the derivative stays the largest norm. Both results have the shape (...).
    """
    if norms.ndim < 1 or norms.shape[-1] == 0:
        raise ValueError(f"norms must be (..., G) with one group or more, not {tuple(norms.shape)}")
    num_groups = norms.shape[-1]
    ordered_xG = norms.float().sort(dim=-1).values
    count_x = count if isinstance(count, Tensor) else torch.full(norms.shape[:-1], float(count), device=norms.device)
    place_x1 = count_x.ceil().clamp(0, num_groups).long().expand(norms.shape[:-1]).unsqueeze(-1)
    sums_xG = F.pad(ordered_xG.cumsum(dim=-1), (1, 0))
    following = ordered_xG.gather(-1, place_x1.clamp_max(num_groups - 1))
    return sums_xG.gather(-1, place_x1).squeeze(-1), following.squeeze(-1)
