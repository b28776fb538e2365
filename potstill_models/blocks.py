"""Blocks of a ``potstill_vit``; with default options they are timm's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers import DropPath, LayerScale
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from potstill_models.attention import LocalAttention, SharedAttention, SizedAttention
from potstill_models.merging import MergingAttention, merge_tokens
from potstill_models.mixing import HeadMixing, RelativeKeys
from potstill_models.options import BlockSize, VitOptions

_ATTENTION = ("qkv_bias", "qk_norm", "proj_bias", "attn_drop", "proj_drop", "norm_layer", "device", "dtype")
_DEVICE = ("device", "dtype")


class BlockMaker:
    """Block factory for timm's ViT, which passes its options and the index of the block as ``depth``."""

    def __init__(
        self,
        vit_options: VitOptions,
        *,
        drop_paths: Sequence[float],
        grid_size: tuple[int, int],
        num_prefix_tokens: int,
    ) -> None:
        self.vit_options = vit_options
        self.drop_paths = drop_paths
        self.grid = {"grid_size": grid_size, "num_prefix_tokens": num_prefix_tokens}
        self.num_prefix_tokens = num_prefix_tokens
        self.num_stored = len(drop_paths) // vit_options.repeats

    def __call__(self, **options: Any) -> nn.Module:
        """Build one block."""
        vit_options, index = self.vit_options, options["depth"]
        if vit_options.heads_per_block is not None:
            options["num_heads"] = vit_options.heads_per_block[index]
        head_dim = vit_options.head_dim or options["dim"] // options["num_heads"]
        hidden = int(options["dim"] * options["mlp_ratio"])
        size = vit_options.size(index, num_heads=options["num_heads"], head_dim=head_dim, hidden=hidden)
        if vit_options.multiplexed:
            rates = self.drop_paths[index * vit_options.repeats : (index + 1) * vit_options.repeats]
            return MultiplexedBlock(vit_options, size, head_dim=head_dim, drop_paths=rates, grid=self.grid, **options)
        if vit_options.merged_tokens is not None:
            return MergingBlock(
                size,
                head_dim=head_dim,
                merged=vit_options.merged_tokens[index],
                num_prefix_tokens=self.num_prefix_tokens,
                **options,
            )
        if index < vit_options.local_blocks:
            return SizedBlock(size, head_dim=head_dim, attention=LocalAttention, grid=self.grid, **options)
        if vit_options.sized:
            return SizedBlock(size, head_dim=head_dim, attention=SizedAttention, grid={}, **options)
        if vit_options.wide_last is not None and index == self.num_stored - 1:
            return WideBlock(vit_options.wide_last, vit_options.wide_heads(head_dim), **options)
        block: nn.Module = Block(**options)
        return block


class SizedBlock(Block):  # type: ignore[misc]
    """timm's block with individual widths, or with another attention."""

    def __init__(
        self, size: BlockSize, *, head_dim: int, attention: type[SizedAttention], grid: dict[str, Any], **options: Any
    ) -> None:
        super().__init__(**{**options, "num_heads": 1})  # attention and MLP are replaced; 1 divides every width
        attention_options = {name: options[name] for name in _ATTENTION if name in options}
        self.attn = attention(
            options["dim"], head_dim=head_dim, value_dims=size.value_dims, **grid, **attention_options
        )
        self.mlp = _mlp(size.hidden, options)


class MergingBlock(SizedBlock):
    """A block that merges similar patch tokens between attention and MLP. ``merged``: the number of tokens that go."""

    def __init__(self, size: BlockSize, *, head_dim: int, merged: int, num_prefix_tokens: int, **options: Any) -> None:
        super().__init__(size, head_dim=head_dim, attention=MergingAttention, grid={}, **options)
        self.merged = merged
        self.num_prefix_tokens = num_prefix_tokens

    def forward(self, x: Tensor, size_BT: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the remaining tokens, and how many patches each stands for; None while all stand for one."""
        attended, keys = self.attn(self.norm1(x), size_BT)
        x = x + self.drop_path1(self.ls1(attended))
        if self.merged:
            x, size_BT = merge_tokens(x, keys, size_BT, merged=self.merged, num_prefix_tokens=self.num_prefix_tokens)
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x)))), size_BT


class WideBlock(Block):  # type: ignore[misc]
    """A last block of another width, after a linear layer on the residual stream."""

    def __init__(self, width: int, heads: int, **options: Any) -> None:
        super().__init__(**{**options, "dim": width, "num_heads": heads})
        dd = {name: options[name] for name in _DEVICE if name in options}
        self.widen = nn.Linear(options["dim"], width, **dd)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Widen the tokens and apply the block."""
        out: Tensor = super().forward(self.widen(x), *args, **kwargs)
        return out


class MultiplexedBlock(nn.Module):
    """Attention and MLP stored once and run several times in succession (MiniViT)."""

    def __init__(
        self,
        vit_options: VitOptions,
        size: BlockSize,
        *,
        head_dim: int,
        drop_paths: Sequence[float],
        grid: dict[str, Any],
        **options: Any,
    ) -> None:
        super().__init__()
        dd = {name: options[name] for name in _DEVICE if name in options}
        attention_options = {name: options[name] for name in _ATTENTION if name in options}
        self.attn = SharedAttention(options["dim"], head_dim=head_dim, value_dims=size.value_dims, **attention_options)
        self.mlp = _mlp(size.hidden, options)
        self.runs = nn.ModuleList()
        for rate in drop_paths:
            relative = RelativeKeys(head_dim, **grid, **dd) if vit_options.relative_position else None
            mixing = None
            if vit_options.head_transforms or relative is not None:
                mixing = HeadMixing(
                    len(size.value_dims),
                    transforms=vit_options.head_transforms,
                    relative=relative,
                    start=vit_options.transform_start,
                    **dd,
                )
            self.runs.append(Run(mixing, drop_path=rate, dd=dd, options=options))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:  # noqa: FBT001, FBT002
        """Apply all runs in sequence."""
        if attn_mask is not None or is_causal:
            raise ValueError("this block takes no attention mask")
        for run in self.runs:
            x = run(x, self.attn, self.mlp)
        return x


class Run(nn.Module):
    """Parts of one run of a shared block: norms, scales, drop paths and mixing of the heads."""

    def __init__(self, mixing: HeadMixing | None, *, drop_path: float, dd: Any, options: dict[str, Any]) -> None:
        super().__init__()
        dim, init_values = options["dim"], options["init_values"]
        self.norm1 = options["norm_layer"](dim, **dd)
        self.mixing = mixing
        self.ls1 = LayerScale(dim, init_values=init_values, **dd) if init_values else nn.Identity()
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = options["norm_layer"](dim, **dd)
        self.ls2 = LayerScale(dim, init_values=init_values, **dd) if init_values else nn.Identity()
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, attn: nn.Module, mlp: nn.Module) -> Tensor:
        """Apply a pre-norm block around the shared attention and MLP."""
        x = x + self.drop_path1(self.ls1(attn(self.norm1(x), self.mixing)))
        out: Tensor = x + self.drop_path2(self.ls2(mlp(self.norm2(x))))
        return out


def _mlp(hidden: int, options: dict[str, Any]) -> nn.Module:
    dd = {name: options[name] for name in _DEVICE if name in options}
    mlp: nn.Module = options["mlp_layer"](
        in_features=options["dim"],
        hidden_features=hidden,
        act_layer=options["act_layer"],
        bias=options["proj_bias"],
        drop=options["proj_drop"],
        **dd,
    )
    return mlp
