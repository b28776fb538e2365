"""Early exits: small classification heads on an inner level of a network, used only in training.

Architectures of OFA-KD (Hao et al. 2023, arXiv:2310.19444): attention over a small grid of tokens, or separable
convolutions and pooling. All compute in float32.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from core.models.taps import Feature

_MIN_SIDE = 7  # tokens a side; merging never goes below this
_MAX_HEADS = 4


class TokenExit(nn.Module):
    """Merge tokens to a grid below 14 × 14, apply transformer blocks, classify the class token or the mean.

    ``grid`` and ``width`` are those of the level. With ``class_token``, the first prefix token is classified if the
    feature has one. Prefix tokens are never merged. As in the official code, a GELU follows each merging, except for
    the last of several.
    """

    def __init__(
        self, grid: tuple[int, int], width: int, num_classes: int, *, num_blocks: int, class_token: bool
    ) -> None:
        super().__init__()
        self.class_token = class_token
        num_mergings = _num_mergings(grid)
        self.merging = nn.ModuleList(
            PatchMerging(width, activation=nn.Identity if 0 < index == num_mergings - 1 else nn.GELU)
            for index in range(num_mergings)
        )
        heads = max(count for count in range(1, _MAX_HEADS + 1) if width % count == 0)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(num_blocks)))
        self.head = nn.Linear(width, num_classes)
        self.blocks.apply(_initialize)
        _initialize(self.head)

    def forward(self, feature: Feature) -> Tensor:
        """Compute logits (B, classes) from a level's features."""
        map_BDHW = feature.map.float()
        for merge in self.merging:
            map_BDHW = merge(map_BDHW)
        tokens_BND = map_BDHW.flatten(2).transpose(1, 2)
        num_prefix = 0 if feature.prefix is None else feature.prefix.shape[1]
        if feature.prefix is not None:
            tokens_BND = torch.cat((feature.prefix.float(), tokens_BND), dim=1)
        attended_BTD = self.blocks(tokens_BND)
        use_class_token = self.class_token and num_prefix > 0
        pooled_BD = attended_BTD[:, 0] if use_class_token else attended_BTD[:, num_prefix:].mean(dim=1)
        logits: Tensor = self.head(pooled_BD)
        return logits


class ConvExit(nn.Module):
    """Halve the map with separable convolutions, pool it, and classify.

    The width doubles at each halving, except for the last, which has ``last_width``; without halvings, a 1 × 1
    convolution changes the width. Batch norms need at least two positions per batch.
    """

    def __init__(self, width: int, last_width: int, num_classes: int, *, num_halvings: int) -> None:
        super().__init__()
        widths = [width * 2**step for step in range(num_halvings)] + [last_width]
        steps: list[nn.Module] = [SeparableConv(before, after) for before, after in pairwise(widths)]
        self.narrowing = nn.Sequential(*(steps or [nn.Conv2d(width, last_width, kernel_size=1)]))
        self.head = nn.Linear(last_width, num_classes)
        self.apply(_initialize)

    def forward(self, feature: Feature) -> Tensor:
        """Compute logits (B, classes) from a level's features."""
        logits: Tensor = self.head(self.narrowing(feature.map.float()).mean(dim=(2, 3)))
        return logits


class PatchMerging(nn.Module):
    """Merge 2 × 2 tokens into one of the same width; odd grids are padded with zeros."""

    def __init__(self, width: int, *, activation: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduce = nn.Linear(4 * width, width, bias=False)
        self.activation = activation()
        _initialize(self.reduce)

    def forward(self, map_BDHW: Tensor) -> Tensor:
        """Merge (B, D, H, W) to half the height and width, rounded up."""
        height, width = map_BDHW.shape[2:]
        map_BDHW = F.pad(map_BDHW, (0, width % 2, 0, height % 2))
        merged_BhwE = F.pixel_unshuffle(map_BDHW, 2).permute(0, 2, 3, 1)  # E = 4 · D
        out_BDhw: Tensor = self.activation(self.reduce(self.norm(merged_BhwE))).permute(0, 3, 1, 2)
        return out_BDhw


class SeparableConv(nn.Sequential):
    """Two depthwise separable 3 × 3 convolutions with batch norm; the first one halves the map."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__(*_separable(width, width, stride=2), *_separable(width, out_width, stride=1))


def _separable(width: int, out_width: int, *, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, groups=width, bias=False),
        nn.Conv2d(width, out_width, kernel_size=1, bias=False),
        nn.BatchNorm2d(out_width),
        nn.ReLU(),
    )


def _num_mergings(grid: tuple[int, int]) -> int:
    """Number of times that the shorter side can be halved without falling below 7 tokens."""
    return max((min(grid) // _MIN_SIDE).bit_length() - 1, 0)


def _initialize(module: nn.Module) -> None:
    """Initialize as the official code: linear layers with std 0.02, convolutions with He initialization."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
