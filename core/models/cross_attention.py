"""Modules that project a CNN's features into the spaces of a ViT (Liu et al. 2022, arXiv:2207.05273).

Shapes: B images, N positions of a grid (H, W), C channels of the CNN, D width of the ViT, h heads of d dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.models.taps import Attention


class PartialCrossAttention(nn.Module):
    """L_proj1: three 3 × 3 convolutions produce queries, keys and values that imitate the ViT's attention.

    Each of the three is replaced by the teacher's for a random ``teacher_fraction`` of the images at each call. The
    loss has two terms, means over all entries: squared error of the attention output, and of the relations v vᵀ / √d
    between all positions.
    """

    def __init__(self, channels: int, width: int, *, teacher_fraction: float) -> None:
        super().__init__()
        self.teacher_fraction = teacher_fraction
        self.query, self.key, self.value = (nn.Conv2d(channels, width, 3, padding=1) for _ in range(3))

    def forward(self, map_BCHW: Tensor, teacher: Attention) -> Tensor:
        """Loss against the teacher's attention over the positions of the same grid, a scalar."""
        teacher_qkv = [_by_head(tensor, teacher.heads) for tensor in teacher.qkv]
        student_qkv = [
            _by_head(project(map_BCHW).flatten(2).transpose(1, 2), teacher.heads)
            for project in (self.query, self.key, self.value)
        ]
        mixed = [self._mix(own, given) for own, given in zip(student_qkv, teacher_qkv, strict=True)]
        attention_loss = F.mse_loss(attend(*mixed), attend(*teacher_qkv))
        return attention_loss + F.mse_loss(relation(student_qkv[2]), relation(teacher_qkv[2]))

    def _mix(self, student_BhNd: Tensor, teacher_BhNd: Tensor) -> Tensor:
        from_teacher_B = torch.rand(len(student_BhNd), device=student_BhNd.device) < self.teacher_fraction
        return torch.where(from_teacher_B[:, None, None, None], teacher_BhNd, student_BhNd)


class GroupwiseProjector(nn.Module):
    """Projector of L_proj2: dropout, then one linear layer C → D per square tile of the grid."""

    by_tile: Tensor
    back: Tensor

    def __init__(self, channels: int, width: int, grid: tuple[int, int], *, group_size: int, dropout: float) -> None:
        super().__init__()
        tiles = _tiles(grid, group_size)
        by_tile = [position for tile in tiles for position in tile]
        self.sizes = [len(tile) for tile in tiles]
        self.register_buffer("by_tile", torch.tensor(by_tile), persistent=False)
        self.register_buffer("back", torch.tensor(by_tile).argsort(), persistent=False)
        self.dropout = nn.Dropout(dropout)
        self.linears = nn.ModuleList(nn.Linear(channels, width) for _ in tiles)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Project (B, N, C) on the grid to (B, N, D)."""
        tiles = self.dropout(tokens_BNC)[:, self.by_tile].split(self.sizes, dim=1)
        projected = [linear(tile) for linear, tile in zip(self.linears, tiles, strict=True)]
        return torch.cat(projected, dim=1)[:, self.back]


class Discriminator(nn.Module):
    """Three layers that discriminate the teacher's pooled features from the student's, with both adversarial losses."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, 1)
        )

    def forward(self, student_BD: Tensor, teacher_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Compute both adversarial losses, scalars.

        The first, −log D(student), has gradients only for the student. The second,
        −log D(teacher) − log(1 − D(student)), has gradients only for the discriminator.
        """
        frozen = {name: weight.detach() for name, weight in self.layers.named_parameters()}
        student_loss = F.softplus(-torch.func.functional_call(self.layers, frozen, (student_BD,))).mean()
        own_loss = F.softplus(-self.layers(teacher_BD.detach())) + F.softplus(self.layers(student_BD.detach()))
        return student_loss, own_loss.mean()


def attend(query_BhNd: Tensor, key_BhNd: Tensor, value_BhNd: Tensor) -> Tensor:
    """Compute softmax(q kᵀ / √d) v."""
    scores_BhNN = query_BhNd @ key_BhNd.transpose(-2, -1) / query_BhNd.shape[-1] ** 0.5
    attended_BhNd: Tensor = scores_BhNN.softmax(dim=-1) @ value_BhNd
    return attended_BhNd


def relation(value_BhNd: Tensor) -> Tensor:
    """Compute v vᵀ / √d, (B, h, N, N)."""
    relation_BhNN: Tensor = value_BhNd @ value_BhNd.transpose(-2, -1) / value_BhNd.shape[-1] ** 0.5
    return relation_BhNN


def _by_head(tokens_BND: Tensor, heads: int) -> Tensor:
    batch_size, num_tokens, _ = tokens_BND.shape
    return tokens_BND.reshape(batch_size, num_tokens, heads, -1).transpose(1, 2)


def _tiles(grid: tuple[int, int], side: int) -> tuple[tuple[int, ...], ...]:
    """Positions of each tile in row-major order; tiles at the border may be smaller."""
    height, width = grid
    tiles: dict[tuple[int, int], list[int]] = {}
    for row in range(height):
        for column in range(width):
            tiles.setdefault((row // side, column // side), []).append(row * width + column)
    return tuple(tuple(positions) for positions in tiles.values())
