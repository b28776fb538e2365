"""Bringing features of one network to the grid and width of another."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from core.models.taps import Feature


def resampled(feature: Feature, grid: tuple[int, int]) -> Feature:
    """The patch tokens on another grid: averaged over areas where it is coarser, bilinear where it is finer.

    Prefix tokens stay as they are.
    """
    if feature.grid == grid:
        return feature
    picture = feature.map
    if grid[0] <= feature.grid[0] and grid[1] <= feature.grid[1]:
        moved = F.adaptive_avg_pool2d(picture, grid)
    else:
        moved = F.interpolate(picture, size=grid, mode="bilinear", align_corners=False)
    return Feature(moved.flatten(2).transpose(1, 2), grid, feature.prefix)


def coarser(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    """The grid with fewer tokens, so that nothing has to be invented."""
    return min(one, other, key=lambda grid: grid[0] * grid[1])


class TokenProjector(nn.Module):
    """A linear layer from the student's width to the teacher's, (B, N, D) to (B, N, D_t), in float32."""

    def __init__(self, width: int, wanted: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, wanted)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Project tokens or embeddings."""
        projected: Tensor = self.linear(tokens_BND.float())
        return projected


def map_generator(width: int) -> nn.Sequential:
    """3 × 3 convolution, ReLU, 3 × 3 convolution: (B, D, H, W) to the same shape."""
    return nn.Sequential(
        nn.Conv2d(width, width, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, kernel_size=3, padding=1),
    )
