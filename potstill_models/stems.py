"""Stems of a co-advised student (Ren et al. 2022, arXiv:2106.12378): a convolution, or one with an involution.

Deviation: the second stem is RedNet's small one (convolution, involution, convolution) in plain torch operations.
Shapes: B images, C channels, G groups, k kernel side, N patches, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CHANNELS = 64
_GROUP_CHANNELS = 16
_REDUCTION = 4


class Stem(nn.Module):
    """Attributes and methods of timm's patch embedding, for a stem with a fixed size of square images."""

    def __init__(self, *, img_size: int, patch_size: int) -> None:
        super().__init__()
        if img_size % patch_size:
            raise ValueError(f"img_size {img_size} is not a multiple of patch_size {patch_size}")
        self.img_size = (img_size, img_size)
        self.patch_size = (patch_size, patch_size)
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]

    def feat_ratio(self, as_scalar: bool = True) -> tuple[int, int] | int:  # noqa: FBT001, FBT002 - timm's signature
        """Return pixels per patch, as timm's patch embedding does."""
        return max(self.patch_size) if as_scalar else self.patch_size

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Return patches a side, as timm's patch embedding does."""
        return img_size[0] // self.patch_size[0], img_size[1] // self.patch_size[1]

    def require_image_size(self, x: Tensor) -> None:
        """Raise ``ValueError`` for images of another size."""
        if x.shape[-2:] != self.img_size:
            raise ValueError(
                f"images are {x.shape[-2]} by {x.shape[-1]} pixels and should be {self.img_size[0]} a side"
            )


class ConvStem(Stem):
    """Embed images by four convolutions: ``[mean of the patches, patches]`` (B, 1 + N, D), or patches (B, N, D).

    The mean is the distillation token's input; ``token`` says whether it is returned.
    """

    def __init__(
        self, *, img_size: int, patch_size: int, in_chans: int, embed_dim: int, bias: bool, token: bool, **dd: Any
    ) -> None:
        super().__init__(img_size=img_size, patch_size=patch_size)
        self.token = token
        self.conv = _convolutions(in_chans, embed_dim, patch_size, bias=bias, dd=dd)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the patches, after their mean if there is a token."""
        self.require_image_size(x)
        patches_BND: Tensor = self.conv(x).flatten(2).transpose(1, 2)
        return torch.cat([patches_BND.mean(dim=1, keepdim=True), patches_BND], dim=1) if self.token else patches_BND


class CoAdviseStem(Stem):
    """Embed images as ``[mean of the first stem, mean of the second, their sum]`` (B, 2 + N, D)."""

    def __init__(self, *, img_size: int, patch_size: int, in_chans: int, embed_dim: int, bias: bool, **dd: Any) -> None:
        super().__init__(img_size=img_size, patch_size=patch_size)
        stride, rest = _strides(patch_size)
        half = _CHANNELS // 2
        self.conv = _convolutions(in_chans, embed_dim, patch_size, bias=bias, dd=dd)
        self.involution = nn.Sequential(
            *_conv(in_chans, half, 3, stride, dd),
            Involution(half, 3, **dd),
            nn.BatchNorm2d(half, **dd),
            nn.ReLU(),
            *_conv(half, _CHANNELS, 3, 1, dd),
            nn.Conv2d(_CHANNELS, embed_dim, rest, rest, bias=bias, **dd),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute both stems; their means come first."""
        self.require_image_size(x)
        conv_BND = self.conv(x).flatten(2).transpose(1, 2)
        involution_BND = self.involution(x).flatten(2).transpose(1, 2)
        tokens = [conv_BND.mean(dim=1, keepdim=True), involution_BND.mean(dim=1, keepdim=True)]
        return torch.cat([*tokens, conv_BND + involution_BND], dim=1)


class Involution(nn.Module):
    """A kernel per position, computed from the features there and shared by the channels of a group.

    Involution (Li et al. 2021, arXiv:2103.06255). The neighborhood is summed shift by shift: unfolding it would take k²
    times the memory.
    """

    def __init__(self, channels: int, kernel_size: int, **dd: Any) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.groups = channels // _GROUP_CHANNELS
        inner = channels // _REDUCTION
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False, **dd), nn.BatchNorm2d(inner, **dd), nn.ReLU()
        )
        self.span = nn.Conv2d(inner, kernel_size**2 * self.groups, 1, **dd)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Apply each position's kernel."""
        B, C, H, W = x_BCHW.shape
        k, margin = self.kernel_size, self.kernel_size // 2
        kernels = self.span(self.reduce(x_BCHW)).reshape(B, self.groups, k * k, 1, H, W)
        padded = F.pad(x_BCHW, (margin, margin, margin, margin)).reshape(
            B, self.groups, C // self.groups, H + 2 * margin, W + 2 * margin
        )
        out = torch.zeros_like(x_BCHW).reshape(B, self.groups, C // self.groups, H, W)
        for position in range(k * k):
            row, column = divmod(position, k)
            out = out + kernels[:, :, position] * padded[..., row : row + H, column : column + W]
        return out.reshape(B, C, H, W)


def _strides(patch_size: int) -> tuple[int, int]:
    """Strides of a stem's first convolution and of its last one."""
    stride = 1 if patch_size % 2 else 2  # an odd patch size is not divisible by 2
    return stride, patch_size // stride


def _convolutions(in_chans: int, embed_dim: int, patch_size: int, *, bias: bool, dd: dict[str, Any]) -> nn.Sequential:
    """7 × 7, twice 3 × 3, and a convolution whose kernels do not overlap."""
    stride, rest = _strides(patch_size)
    return nn.Sequential(
        *_conv(in_chans, _CHANNELS, 7, stride, dd),
        *_conv(_CHANNELS, _CHANNELS, 3, 1, dd),
        *_conv(_CHANNELS, _CHANNELS, 3, 1, dd),
        nn.Conv2d(_CHANNELS, embed_dim, rest, rest, bias=bias, **dd),
    )


def _conv(before: int, after: int, side: int, stride: int, dd: dict[str, Any]) -> list[nn.Module]:
    conv = nn.Conv2d(before, after, side, stride, padding=side // 2, bias=False, **dd)
    return [conv, nn.BatchNorm2d(after, **dd), nn.ReLU()]
