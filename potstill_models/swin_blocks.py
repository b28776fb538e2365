"""Blocks of a ``potstill_swin`` that share weights between runs (Mini-Swin, Zhang et al. 2022, arXiv:2204.07154).

Shapes: B images, H rows, W columns, D width, n windows per image, T tokens per window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models.swin_transformer import SwinTransformerBlock, window_partition, window_reverse
from torch import Tensor, nn

from potstill_models.attention import SharedWindowAttention
from potstill_models.mixing import HeadMixing, LocalConvolution
from potstill_models.options import SwinOptions

_ATTENTION = ("num_heads", "head_dim", "qkv_bias", "attn_drop", "proj_drop", "device", "dtype")
_DEVICE = ("device", "dtype")


def multiplexed_blocks(swin_options: SwinOptions, *, drop_paths: Sequence[float], **options: Any) -> nn.Sequential:
    """Build the stored blocks of a stage. ``drop_paths`` has a rate per run, ``options`` are those of timm's block."""
    runs = swin_options.runs(len(drop_paths))
    return nn.Sequential(
        *(
            MultiplexedSwinBlock(swin_options, first_run=first, drop_paths=drop_paths[first : first + runs], **options)
            for first in range(0, len(drop_paths), runs)
        )
    )


class MultiplexedSwinBlock(SwinTransformerBlock):  # type: ignore[misc]
    """Window attention and MLP stored once and run several times in succession.

    The runs of a stage alternate between unshifted and shifted windows; ``first_run`` is the number of runs before this
    block. As in the authors' code, on which their weights depend, unshifted windows also use the mask of shifted ones:
    at the far borders they attend to fewer tokens than in a plain Swin. A stage of one window has neither shift nor
    mask.
    """

    def __init__(
        self,
        swin_options: SwinOptions,
        *,
        first_run: int,
        drop_paths: Sequence[float],
        dim: int,
        window_size: tuple[int, int],
        norm_layer: Callable[..., nn.Module] = nn.LayerNorm,
        **options: Any,
    ) -> None:
        shift = (window_size[0] // 2, window_size[1] // 2)
        super().__init__(dim=dim, window_size=window_size, shift_size=shift, norm_layer=norm_layer, **options)
        del self.norm1, self.norm2, self.drop_path1, self.drop_path2  # each run has separate ones
        attention_options = {name: options[name] for name in _ATTENTION if name in options}
        self.attn = SharedWindowAttention(dim, window_size=self.window_size, **attention_options)
        dd = {name: options[name] for name in _DEVICE if name in options}
        self.runs = nn.ModuleList()
        for run, rate in enumerate(drop_paths, start=first_run):
            mixing = local = None
            start = swin_options.transform_start
            if swin_options.head_transforms:
                mixing = HeadMixing(self.attn.num_heads, transforms=True, relative=None, bias=True, start=start, **dd)
            if swin_options.local_convolution:
                bias = self.attn.qkv.bias is not None  # the authors' code has a bias if q, k and v have one
                local = LocalConvolution(dim, norm_layer=norm_layer, bias=bias, start=start, **dd)
            norms = norm_layer(dim, **dd), norm_layer(dim, **dd)
            self.runs.append(SwinRun(norms, mixing, local, drop_path=rate, shifted=run % 2 == 1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply all runs in sequence; (B, H, W, D) in and out."""
        for run in self.runs:
            x = run(x, self.attend, self.mlp)
        return x

    def attend(self, x_BHWD: Tensor, mixing: HeadMixing | None, *, shifted: bool) -> Tensor:
        """Apply attention within shifted or unshifted windows."""
        _, H, W, _ = x_BHWD.shape
        rows, columns = self.window_size
        down, right = self.shift_size if shifted else (0, 0)
        rolled = torch.roll(x_BHWD, (-down, -right), dims=(1, 2)) if down or right else x_BHWD
        rolled = F.pad(rolled, (0, 0, 0, -W % columns, 0, -H % rows))
        mask = self.get_attn_mask(rolled) if self.dynamic_mask else self.attn_mask
        windows = window_partition(rolled, self.window_size).flatten(1, 2)  # (Bn, T, D)
        attended = self.attn(windows, mask, mixing).unflatten(1, (rows, columns))
        merged = window_reverse(attended, self.window_size, rolled.shape[1], rolled.shape[2])[:, :H, :W]
        out_BHWD: Tensor = torch.roll(merged, (down, right), dims=(1, 2)) if down or right else merged
        return out_BHWD

    def _init_buffers(self) -> None:
        """Register the mask, without saving it. timm reads its device from a norm, which only the runs have here."""
        if not self.dynamic_mask:
            weight = self.attn.qkv.weight
            mask = self.get_attn_mask(device=weight.device, dtype=weight.dtype)
            self.register_buffer("attn_mask", mask, persistent=False)


class SwinRun(nn.Module):
    """Parts of one run of a shared block: norms, drop paths, mixing of the heads, local convolution."""

    def __init__(
        self,
        norms: tuple[nn.Module, nn.Module],
        mixing: HeadMixing | None,
        local: LocalConvolution | None,
        *,
        drop_path: float,
        shifted: bool,
    ) -> None:
        super().__init__()
        self.shifted = shifted
        self.norm1, self.norm2 = norms
        self.mixing = mixing
        self.local = local
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x_BHWD: Tensor, attend: Callable[..., Tensor], mlp: nn.Module) -> Tensor:
        """Apply a pre-norm block around the shared attention and MLP."""
        x_BHWD = x_BHWD + self.drop_path1(attend(self.norm1(x_BHWD), self.mixing, shifted=self.shifted))
        if self.local is not None:
            x_BHWD = self.local(x_BHWD)
        out_BHWD: Tensor = x_BHWD + self.drop_path2(mlp(self.norm2(x_BHWD)))
        return out_BHWD
