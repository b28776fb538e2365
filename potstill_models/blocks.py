"""The blocks of a ``potstill_vit``. Where nothing else is asked for, they are timm's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers import DropPath, LayerScale
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from potstill_models.attention import LocalAttention, SharedAttention, SizedAttention
from potstill_models.form import BlockSize, Form
from potstill_models.mixing import HeadMixing, RelativeKeys

_ATTENTION = ("qkv_bias", "qk_norm", "proj_bias", "attn_drop", "proj_drop", "norm_layer", "device", "dtype")
_DEVICE = ("device", "dtype")


class BlockMaker:
    """Makes block after block for timm's ViT, which hands it its options and the block's number as ``depth``."""

    def __init__(
        self, form: Form, *, drop_paths: Sequence[float], grid_size: tuple[int, int], num_prefix_tokens: int
    ) -> None:
        self.form = form
        self.drop_paths = drop_paths
        self.place = {"grid_size": grid_size, "num_prefix_tokens": num_prefix_tokens}
        self.stored = len(drop_paths) // form.repeats

    def __call__(self, **options: Any) -> nn.Module:
        """Make one block."""
        form, index = self.form, options["depth"]
        head_dim = options["dim"] // options["num_heads"]
        hidden = int(options["dim"] * options["mlp_ratio"])
        size = form.size(index, num_heads=options["num_heads"], head_dim=head_dim, hidden=hidden)
        if form.multiplexed:
            rates = self.drop_paths[index * form.repeats : (index + 1) * form.repeats]
            return MultiplexedBlock(form, size, head_dim=head_dim, drop_paths=rates, place=self.place, **options)
        if index < form.local_blocks:
            return SizedBlock(size, attention=LocalAttention, place=self.place, **options)
        if form.sized:
            return SizedBlock(size, attention=SizedAttention, place={}, **options)
        if form.wide_last is not None and index == self.stored - 1:
            return WideBlock(form.wide_last, form.wide_heads(head_dim), **options)
        block: nn.Module = Block(**options)
        return block


class SizedBlock(Block):  # type: ignore[misc]
    """timm's block with widths of its own, or with another attention."""

    def __init__(
        self, size: BlockSize, *, attention: type[SizedAttention], place: dict[str, Any], **options: Any
    ) -> None:
        super().__init__(**options)
        head_dim = options["dim"] // options["num_heads"]
        chosen = {name: options[name] for name in _ATTENTION if name in options}
        self.attn = attention(options["dim"], head_dim=head_dim, value_dims=size.value_dims, **place, **chosen)
        self.mlp = _mlp(size.hidden, options)


class WideBlock(Block):  # type: ignore[misc]
    """A last block of another width. The residual stream itself goes through a Linear before it."""

    def __init__(self, width: int, heads: int, **options: Any) -> None:
        super().__init__(**{**options, "dim": width, "num_heads": heads})
        dd = {name: options[name] for name in _DEVICE if name in options}
        self.widen = nn.Linear(options["dim"], width, **dd)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Widen, then run as any block."""
        out: Tensor = super().forward(self.widen(x), *args, **kwargs)
        return out


class MultiplexedBlock(nn.Module):
    """Attention and MLP stored once and run several times in succession (MiniViT)."""

    def __init__(
        self,
        form: Form,
        size: BlockSize,
        *,
        head_dim: int,
        drop_paths: Sequence[float],
        place: dict[str, Any],
        **options: Any,
    ) -> None:
        super().__init__()
        dd = {name: options[name] for name in _DEVICE if name in options}
        chosen = {name: options[name] for name in _ATTENTION if name in options}
        self.attn = SharedAttention(options["dim"], head_dim=head_dim, value_dims=size.value_dims, **chosen)
        self.mlp = _mlp(size.hidden, options)
        self.runs = nn.ModuleList()
        for rate in drop_paths:
            relative = RelativeKeys(head_dim, **place, **dd) if form.relative_position else None
            mixing = None
            if form.head_transforms or relative is not None:
                mixing = HeadMixing(len(size.value_dims), transforms=form.head_transforms, relative=relative, **dd)
            self.runs.append(Run(mixing, drop_path=rate, dd=dd, options=options))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:  # noqa: FBT001, FBT002
        """All runs, one after the other."""
        if attn_mask is not None or is_causal:
            raise ValueError("this block takes no attention mask")
        for run in self.runs:
            x = run(x, self.attn, self.mlp)
        return x


class Run(nn.Module):
    """What one run of a shared block has for itself: norms, scales, drop paths and mixing of the heads."""

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
        """A pre-norm block around the shared attention and MLP."""
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
