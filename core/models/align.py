"""Align features of one network with the grid and width of another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from core.models.taps import Feature


def resample(feature: Feature, grid: tuple[int, int]) -> Feature:
    """Resample patch tokens to ``grid``: average pooling to a coarser grid, bilinear interpolation otherwise.

    Prefix tokens are unchanged.
    """
    if feature.grid == grid:
        return feature
    map_BDHW = feature.map
    if grid[0] <= feature.grid[0] and grid[1] <= feature.grid[1]:
        resampled_BDHW = F.adaptive_avg_pool2d(map_BDHW, grid)
    else:
        resampled_BDHW = F.interpolate(map_BDHW, size=grid, mode="bilinear", align_corners=False)
    return Feature(resampled_BDHW.flatten(2).transpose(1, 2), grid, feature.prefix)


def interpolate(feature: Feature, grid: tuple[int, int]) -> Feature:
    """Bring patch tokens to ``grid``: by averages of blocks if it divides the own grid, else by bilinear interpolation.

    The interpolation maps corners to corners. Prefix tokens are dropped.
    """
    if feature.grid == grid:
        return feature
    if feature.grid[0] % grid[0] == 0 and feature.grid[1] % grid[1] == 0:
        map_BDHW = F.avg_pool2d(feature.map, (feature.grid[0] // grid[0], feature.grid[1] // grid[1]))
    else:
        map_BDHW = F.interpolate(feature.map, size=grid, mode="bilinear", align_corners=True)
    return Feature(map_BDHW.flatten(2).transpose(1, 2), grid)


def coarser_grid(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
    """Return the grid with fewer tokens: resampling to it needs no interpolation."""
    return min(first, second, key=lambda grid: grid[0] * grid[1])


class TokenProjector(nn.Module):
    """A linear layer from the student's width to the teacher's, (B, N, D) to (B, N, D_t), in float32."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out_width)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Project tokens or embeddings."""
        projected: Tensor = self.linear(tokens_BND.float())
        return projected


class OrthogonalProjector(nn.Module):
    """A linear layer without bias whose weight W is orthogonal, (..., D) to (..., D_t), in float32.

    WᵀW is the identity, which preserves distances; if the layer narrows, WWᵀ is. The trained parameter is the
    unconstrained one of torch's parametrization: the matrix exponential for a square W, otherwise Householder
    reflections without the additional matrix of the larger width squared. It must have no weight decay: the
    reflections read the signs on its diagonal as integers, and a decayed −0.9999 counts as 0, which sets W to zero.
    """

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        device = torch.empty(0).device
        with torch.device("cpu"):  # the initial weight is decomposed, which the meta device cannot do
            linear = nn.Linear(width, out_width, bias=False)
            self.linear = orthogonal(linear, use_trivialization=width == out_width)
        self.to(device)

    def forward(self, features: Tensor) -> Tensor:
        """Project features."""
        projected: Tensor = self.linear(features.float())
        return projected


def map_generator(width: int) -> nn.Sequential:
    """Build 3 × 3 convolution, ReLU, 3 × 3 convolution: (B, D, H, W) to the same shape."""
    return nn.Sequential(
        nn.Conv2d(width, width, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, kernel_size=3, padding=1),
    )
