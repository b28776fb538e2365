"""Heads that map a student's features to the width of a teacher. They are trained with the student.

Shapes: B batch, N tokens, D width. Heads work in float32 on the last axis, on embeddings (B, D) and tokens (B, N, D).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ProjectionMlp(nn.Module):
    """Linear layer, ``depth`` residual blocks x + Linear(GELU(LN(x))), then LN, GELU and a linear layer.

    The head of AM-RADIO (arXiv:2312.06709), as in NVIDIA's TAO Toolkit. The last bias starts at 0.
    """

    def __init__(self, width: int, out_width: int, *, hidden_width: int, depth: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, hidden_width)
        self.inner = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden_width), nn.GELU(), nn.Linear(hidden_width, hidden_width))
            for _ in range(depth)
        )
        self.norm = nn.Sequential(nn.LayerNorm(hidden_width), nn.GELU())
        self.last = nn.Linear(hidden_width, out_width)
        nn.init.zeros_(self.last.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Project features (..., D) to the teacher's width."""
        hidden = self.first(features.float())
        for block in self.inner:
            hidden = hidden + block(hidden)
        projected: Tensor = self.last(self.norm(hidden))
        return projected


class Ladder(nn.Module):
    """Sum of one MLP per level of the student: Linear, GELU, Linear (UNIC, Sariyildiz et al. 2024, arXiv:2408.05088).

    ``widths`` are those of the levels, in rising order. The MLP of the last level has ``last_hidden_width``.
    Weights start from a normal distribution with deviation 0.02, truncated at ±2; biases start at 0.
    """

    def __init__(self, widths: Sequence[int], out_width: int, *, hidden_width: int, last_hidden_width: int) -> None:
        super().__init__()
        hidden_widths = [hidden_width] * (len(widths) - 1) + [last_hidden_width]
        self.rungs = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out_width))
            for width, hidden in zip(widths, hidden_widths, strict=True)
        )
        for part in self.rungs.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Project the features of all levels, each (..., D), and add them up."""
        projected = [rung(features.float()) for rung, features in zip(self.rungs, levels, strict=True)]
        return torch.stack(projected).sum(dim=0)
