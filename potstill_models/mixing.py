"""Parts of a shared block that are separate for each run (MiniViT, Zhang et al. 2022, arXiv:2204.07154).

Shapes: B images, H heads, T tokens, d dimensions of a head, K buckets of relative positions. Of maps: H rows, W
columns, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

# Image relative position encoding (Wu et al. 2021, arXiv:2107.14222), with MiniViT's ratio.
_RATIO = 1.9
_EXACT, _LARGEST, _FAR = _RATIO, 2 * _RATIO, 8 * _RATIO


class HeadMixing(nn.Module):
    """Transforms over the heads before and after the softmax, and relative positions of the keys.

    The authors' transforms have a ``bias`` in Mini-Swin, but not in Mini-DeiT. ``start`` is ``random`` or ``identity``.
    """

    def __init__(
        self,
        heads: int,
        *,
        transforms: bool,
        relative: RelativeKeys | None,
        bias: bool = False,
        start: str = "random",
        **dd: Any,
    ) -> None:
        super().__init__()
        self.start = start
        self.conv_l = nn.Conv2d(heads, heads, 1, bias=bias, **dd) if transforms else None
        self.conv_w = nn.Conv2d(heads, heads, 1, bias=bias, **dd) if transforms else None
        self.relative = relative

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize the transforms at the identity, or near zero as in the authors' code."""
        for conv in (self.conv_l, self.conv_w):
            if conv is not None:
                if self.start == "identity":
                    nn.init.dirac_(conv.weight)
                else:
                    trunc_normal_(conv.weight, std=0.02)
                if conv.bias is not None:
                    conv.bias.zero_()

    def before(self, scores_BHTT: Tensor, q_BHTd: Tensor) -> Tensor:
        """Transform the scores before the softmax; ``q_BHTd`` is already scaled."""
        if self.relative is not None:
            scores_BHTT = scores_BHTT + self.relative(q_BHTd)
        return scores_BHTT if self.conv_l is None else _mix(scores_BHTT, self.conv_l)

    def after(self, weights_BHTT: Tensor) -> Tensor:
        """Transform the weights after the softmax."""
        return weights_BHTT if self.conv_w is None else _mix(weights_BHTT, self.conv_w)


def _mix(x_BHTT: Tensor, conv: nn.Conv2d) -> Tensor:
    """Apply a 1 × 1 convolution as a matrix product: ten times faster than torch's with few heads and many windows."""
    mixed_BHTT = torch.einsum("gh,bhij->bgij", conv.weight[:, :, 0, 0], x_BHTT)
    return mixed_BHTT if conv.bias is None else mixed_BHTT + conv.bias[:, None, None]


class RelativeKeys(nn.Module):
    """Contextual relative positions, method "product", with one table for all heads, initialized with zeros.

    Deviation: all pairs with a class or distillation token share one additional bucket.
    """

    def __init__(self, head_dim: int, *, grid_size: tuple[int, int], num_prefix_tokens: int, **dd: Any) -> None:
        super().__init__()
        bucket_TT, buckets = relative_buckets(grid_size, num_prefix_tokens)
        self.table = nn.Parameter(torch.zeros(head_dim, buckets, **dd))
        self.bucket: Tensor
        self.register_buffer("bucket", bucket_TT.to(dd.get("device")), persistent=False)

    def forward(self, q_BHTd: Tensor) -> Tensor:
        """Compute the term that is added to the scores."""
        by_bucket_BHTK = q_BHTd @ self.table
        B, H, T, _ = q_BHTd.shape
        return by_bucket_BHTK.gather(-1, self.bucket.expand(B, H, T, T))


class LocalConvolution(nn.Module):
    """Norm and depthwise convolution before each run's MLP, as in Mini-Swin.

    The norm is applied to the residual stream itself, as in the authors' code. With ``start`` ``identity`` the
    convolution starts at zero.
    """

    _SIDE = 7

    def __init__(
        self, dim: int, *, norm_layer: Callable[..., nn.Module], bias: bool, start: str = "random", **dd: Any
    ) -> None:
        super().__init__()
        self.start = start
        self.norm = norm_layer(dim, **dd)
        self.conv = nn.Conv2d(dim, dim, self._SIDE, padding=self._SIDE // 2, groups=dim, bias=bias, **dd)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Set the convolution to zero with ``start`` ``identity``; otherwise leave torch's initialization."""
        if self.start == "identity":
            for parameter in self.conv.parameters():
                parameter.zero_()

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """Return the sum of the normalized map and its convolution."""
        x_BHWD = self.norm(x_BHWD)
        local_BDHW: Tensor = self.conv(x_BHWD.permute(0, 3, 1, 2))
        return x_BHWD + local_BDHW.permute(0, 2, 3, 1)


def relative_buckets(grid_size: tuple[int, int], num_prefix_tokens: int) -> tuple[Tensor, int]:
    """Return the bucket of each pair of tokens (T, T), and the number of buckets."""
    height, width = grid_size
    largest = int(_LARGEST)
    side = 2 * largest + 1
    rows = torch.tensor([[_bucket(i - j) + largest for j in range(height)] for i in range(height)])
    columns = torch.tensor([[_bucket(i - j) + largest for j in range(width)] for i in range(width)])
    patches = rows[:, None, :, None] * side + columns[None, :, None, :]
    bucket_TT = torch.nn.functional.pad(
        patches.reshape(height * width, height * width), (num_prefix_tokens, 0, num_prefix_tokens, 0), value=side * side
    )
    return bucket_TT, side * side + (1 if num_prefix_tokens else 0)


def _bucket(distance: int) -> int:
    """Bucket of a distance: exact if near, logarithmic if far."""
    if abs(distance) <= _EXACT:
        return distance
    far = _EXACT + math.log(abs(distance) / _EXACT) / math.log(_FAR / _EXACT) * (_LARGEST - _EXACT)
    return int(math.copysign(min(int(_LARGEST), round(far)), distance))
