"""Modules that bring a CNN's features into the spaces of a ViT (Liu et al. 2022, arXiv:2207.05273).

Shapes: B pictures, N places of a grid (H, W), C channels of the CNN, D width of the ViT, h heads of d dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.models.taps import Attention


class PartialCrossAttention(nn.Module):
    """L_proj1: three 3 × 3 convolutions give queries, keys and values that attend as the ViT's do.

    Each of the three is the teacher's own for a part of the pictures, drawn anew at each call. Two
    terms, means over all entries: squared error of the attention's output, and of the relations
    v vᵀ / √d of all places.
    """

    def __init__(self, channels: int, width: int, *, teacher_share: float) -> None:
        super().__init__()
        self.teacher_share = teacher_share
        self.query, self.key, self.value = (nn.Conv2d(channels, width, 3, padding=1) for _ in range(3))

    def forward(self, map_BCHW: Tensor, teacher: Attention) -> Tensor:
        """The distance to the teacher's attention over the places of the same grid, a scalar."""
        teachers = [_by_head(tensor, teacher.heads) for tensor in teacher.qkv]
        own = [
            _by_head(project(map_BCHW).flatten(2).transpose(1, 2), teacher.heads)
            for project in (self.query, self.key, self.value)
        ]
        mixed = [self._mixed(mine, theirs) for mine, theirs in zip(own, teachers, strict=True)]
        attended = F.mse_loss(attend(*mixed), attend(*teachers))
        return attended + F.mse_loss(relation(own[2]), relation(teachers[2]))

    def _mixed(self, own_BhNd: Tensor, teacher_BhNd: Tensor) -> Tensor:
        chosen_B = torch.rand(len(own_BhNd), device=own_BhNd.device) < self.teacher_share
        return torch.where(chosen_B[:, None, None, None], teacher_BhNd, own_BhNd)


class GroupwiseProjector(nn.Module):
    """L_proj2's projector: dropout, then a linear layer C → D for each square of neighbouring places."""

    by_tile: Tensor
    back: Tensor

    def __init__(self, channels: int, width: int, grid: tuple[int, int], *, group_size: int, dropout: float) -> None:
        super().__init__()
        tiles = _tiles(grid, group_size)
        by_tile = [place for tile in tiles for place in tile]
        self.sizes = [len(tile) for tile in tiles]
        self.register_buffer("by_tile", torch.tensor(by_tile), persistent=False)
        self.register_buffer("back", torch.tensor(by_tile).argsort(), persistent=False)
        self.dropout = nn.Dropout(dropout)
        self.linears = nn.ModuleList(nn.Linear(channels, width) for _ in tiles)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """(B, N, C) on the grid to (B, N, D)."""
        tiles = self.dropout(tokens_BNC)[:, self.by_tile].split(self.sizes, dim=1)
        projected = [linear(tile) for linear, tile in zip(self.linears, tiles, strict=True)]
        return torch.cat(projected, dim=1)[:, self.back]


class Discriminator(nn.Module):
    """Three layers that tell the teacher's pooled features from the student's, and the student's term against them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, 1)
        )

    def forward(self, student_BD: Tensor, teacher_BD: Tensor) -> tuple[Tensor, Tensor]:
        """−log D(student), which moves the student alone, and −log D(teacher) − log(1 − D(student)), which moves D."""
        frozen = {name: weight.detach() for name, weight in self.layers.named_parameters()}
        fooled = F.softplus(-torch.func.functional_call(self.layers, frozen, (student_BD,))).mean()
        told = F.softplus(-self.layers(teacher_BD.detach())) + F.softplus(self.layers(student_BD.detach()))
        return fooled, told.mean()


def attend(query_BhNd: Tensor, key_BhNd: Tensor, value_BhNd: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v."""
    scores_BhNN = query_BhNd @ key_BhNd.transpose(-2, -1) / query_BhNd.shape[-1] ** 0.5
    attended_BhNd: Tensor = scores_BhNN.softmax(dim=-1) @ value_BhNd
    return attended_BhNd


def relation(value_BhNd: Tensor) -> Tensor:
    """V vᵀ / √d, (B, h, N, N)."""
    related_BhNN: Tensor = value_BhNd @ value_BhNd.transpose(-2, -1) / value_BhNd.shape[-1] ** 0.5
    return related_BhNN


def _by_head(tokens_BND: Tensor, heads: int) -> Tensor:
    size_B, places, _ = tokens_BND.shape
    return tokens_BND.reshape(size_B, places, heads, -1).transpose(1, 2)


def _tiles(grid: tuple[int, int], side: int) -> tuple[tuple[int, ...], ...]:
    """Places, row by row, of each tile; those at the border may be smaller."""
    height, width = grid
    tiles: dict[tuple[int, int], list[int]] = {}
    for row in range(height):
        for column in range(width):
            tiles.setdefault((row // side, column // side), []).append(row * width + column)
    return tuple(tuple(places) for places in tiles.values())
