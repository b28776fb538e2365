"""Exits: small heads that answer from an inner level of a network, and are thrown away after training.

The forms are those of OFA-KD (Hao et al. 2023, arXiv:2310.19444): attention over a small grid of tokens,
or separable convolutions down to one place. All in float32.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from core.models.taps import Feature

_SMALL_SIDE = 7  # tokens a side, below which nothing is merged
_MOST_HEADS = 4


class TokenExit(nn.Module):
    """Merge tokens to a grid of less than 14 × 14, let them see each other, read the class token or the mean.

    ``grid`` and ``width`` are those of the level. With ``class_token`` the first prefix token is read where the
    feature has one; prefix tokens are never merged.
    """

    def __init__(
        self, grid: tuple[int, int], width: int, num_classes: int, *, num_blocks: int, class_token: bool
    ) -> None:
        super().__init__()
        self.class_token = class_token
        self.merging = nn.ModuleList(PatchMerging(width) for _ in range(_num_mergings(grid)))
        heads = max(count for count in range(1, _MOST_HEADS + 1) if width % count == 0)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(num_blocks)))
        self.head = nn.Linear(width, num_classes)
        self.blocks.apply(_initialise)
        _initialise(self.head)

    def forward(self, feature: Feature) -> Tensor:
        """Logits (B, classes) of a level's features."""
        picture_BDHW = feature.map.float()
        for merge in self.merging:
            picture_BDHW = merge(picture_BDHW)
        tokens_BND = picture_BDHW.flatten(2).transpose(1, 2)
        prefixes = 0 if feature.prefix is None else feature.prefix.shape[1]
        if feature.prefix is not None:
            tokens_BND = torch.cat((feature.prefix.float(), tokens_BND), dim=1)
        seen_BTD = self.blocks(tokens_BND)
        reads_class_token = self.class_token and prefixes > 0
        read_BD = seen_BTD[:, 0] if reads_class_token else seen_BTD[:, prefixes:].mean(dim=1)
        logits: Tensor = self.head(read_BD)
        return logits


class ConvExit(nn.Module):
    """Halve the map with separable convolutions, pool it, and classify.

    The width doubles at each halving, up to ``last_width`` at the last; without a halving a 1 × 1 convolution leads
    there. Batch norms need two places or more in a batch.
    """

    def __init__(self, width: int, last_width: int, num_classes: int, *, num_halvings: int) -> None:
        super().__init__()
        widths = [width * 2**step for step in range(num_halvings)] + [last_width]
        steps: list[nn.Module] = [SeparableConv(before, after) for before, after in pairwise(widths)]
        self.narrowing = nn.Sequential(*(steps or [nn.Conv2d(width, last_width, kernel_size=1)]))
        self.head = nn.Linear(last_width, num_classes)
        self.apply(_initialise)

    def forward(self, feature: Feature) -> Tensor:
        """Logits (B, classes) of a level's features."""
        logits: Tensor = self.head(self.narrowing(feature.map.float()).mean(dim=(2, 3)))
        return logits


class PatchMerging(nn.Module):
    """Four neighbours become one token of the same width; odd grids are padded with zeros."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduce = nn.Linear(4 * width, width, bias=False)
        _initialise(self.reduce)

    def forward(self, picture_BDHW: Tensor) -> Tensor:
        """(B, D, H, W) to half the height and width, rounded up."""
        height, width = picture_BDHW.shape[2:]
        picture_BDHW = F.pad(picture_BDHW, (0, width % 2, 0, height % 2))
        fours_BhwE = F.pixel_unshuffle(picture_BDHW, 2).permute(0, 2, 3, 1)  # E = 4 · D
        return F.gelu(self.reduce(self.norm(fours_BhwE))).permute(0, 3, 1, 2)


class SeparableConv(nn.Sequential):
    """Two depthwise separable 3 × 3 convolutions with batch norm; the first one halves the map."""

    def __init__(self, width: int, wanted: int) -> None:
        super().__init__(*_separable(width, width, stride=2), *_separable(width, wanted, stride=1))


def _separable(width: int, wanted: int, *, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, groups=width, bias=False),
        nn.Conv2d(width, wanted, kernel_size=1, bias=False),
        nn.BatchNorm2d(wanted),
        nn.ReLU(),
    )


def _num_mergings(grid: tuple[int, int]) -> int:
    """How often the shorter side can be halved without falling below 7 tokens."""
    return max((min(grid) // _SMALL_SIDE).bit_length() - 1, 0)


def _initialise(module: nn.Module) -> None:
    """As the official code: linear layers from a normal of deviation 0.02, convolutions by He's rule."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
