"""A small network that generates a map from a damaged one."""

from __future__ import annotations

from torch import nn


def map_generator(width: int) -> nn.Sequential:
    """3 × 3 convolution, ReLU, 3 × 3 convolution: (B, D, H, W) to the same shape."""
    return nn.Sequential(
        nn.Conv2d(width, width, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, kernel_size=3, padding=1),
    )
