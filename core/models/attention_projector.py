"""ScaleKD's attention projector: a student's map in the space and on the grid of a teacher's stage.

Paper: Fan et al. 2024, arXiv:2411.06786, "cross attention projector". Shapes: B images, (h, w) grid of the student's
map, d its width, N positions of the teacher's grid, D the teacher's width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from core.models.structure import FeatureLevel

_MAX_HEADS = 8  # the official code's; fewer where they do not divide the width
_POSITION_STD = 0.02


class AttentionProjector(nn.Module):
    """Cross-attention from the teacher's positions to the student's map, then a feed-forward part.

    The map passes through 3 × 3 convolution, batch norm and ReLU, and gets learned positions. Queries are learned, or
    given, and pass through a linear layer and ReLU. The residual of the feed-forward part is the normalized attention
    output, as in the official code.
    """

    def __init__(
        self, student: FeatureLevel, teacher: FeatureLevel, *, softmax_scale: float, own_query: bool, heads: int = 0
    ) -> None:
        super().__init__()
        width = teacher.width
        self.position = nn.Parameter(torch.zeros(1, student.width, *student.grid))
        self.embed_query = nn.Sequential(nn.Linear(width, width), nn.ReLU())  # equals a 1 × 1 convolution
        self.embed_map = nn.Sequential(
            nn.Conv2d(student.width, student.width, kernel_size=3, padding=1), nn.BatchNorm2d(student.width), nn.ReLU()
        )
        self.attention = ScaledAttention(
            student.width, width, heads=heads or num_heads(width), softmax_scale=softmax_scale
        )
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.norm = nn.LayerNorm(width)
        self.query = nn.Embedding(teacher.tokens, width) if own_query else None
        trunc_normal_(self.position, std=_POSITION_STD)

    def forward(self, map_Bdhw: Tensor, query_BND: Tensor | None = None) -> Tensor:
        """Project a map to tokens (B, N, D) in float32. ``query_BND`` replaces the learned queries."""
        if query_BND is None:
            assert self.query is not None, "a projector without queries of its own needs them"
            query_BND = self.query.weight.expand(len(map_Bdhw), -1, -1)
        embedded_Bdhw = self.embed_map(map_Bdhw.float()) + self.position
        attended_BND = self.attention(self.embed_query(query_BND.float()), embedded_Bdhw.flatten(2).transpose(1, 2))
        normalized_BND = self.norm(attended_BND)
        projected_BND: Tensor = normalized_BND + self.feed_forward(normalized_BND)
        return projected_BND


class ScaledAttention(nn.Module):
    """Multi-head cross-attention whose logits are multiplied by ``softmax_scale`` in addition to 1 / √d of a head."""

    def __init__(self, key_width: int, width: int, *, heads: int, softmax_scale: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = softmax_scale * (width // heads) ** -0.5
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(key_width, width)
        self.v = nn.Linear(key_width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, query_BND: Tensor, key_BMd: Tensor) -> Tensor:
        """Attend from N queries to M keys, (B, N, D)."""
        attended = F.scaled_dot_product_attention(
            self._by_head(self.q(query_BND)),
            self._by_head(self.k(key_BMd)),
            self._by_head(self.v(key_BMd)),
            scale=self.scale,
        )
        projected_BND: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return projected_BND

    def _by_head(self, tokens_BND: Tensor) -> Tensor:
        return tokens_BND.reshape(*tokens_BND.shape[:2], self.heads, -1).transpose(1, 2)


def num_heads(width: int) -> int:
    """Return the largest number of heads up to 8 that divides a width."""
    return next(heads for heads in range(_MAX_HEADS, 0, -1) if width % heads == 0)
