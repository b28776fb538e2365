"""``potstill_swin``: timm's Swin with the options of ``potstill_models.options.SwinOptions``.

It is a subclass with other blocks: weight names, features, classifier and checkpointing are timm's. With default
options it equals timm's Swin bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import calculate_drop_path_rates, to_ntuple
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.swin_transformer import SwinTransformer, checkpoint_filter_fn, resolve_stage_window_sizes
from torch import nn

from potstill_models.options import SwinOptions
from potstill_models.swin_blocks import multiplexed_blocks

__all__ = ["PotstillSwin"]  # timm adds the registered name

_OPTIONS = frozenset(field.name for field in fields(SwinOptions))
# Arguments that are forwarded to timm's Swin and, under other names, to its blocks.
_FORWARDED = frozenset(
    {
        "always_partition",
        "attn_drop_rate",
        "device",
        "drop_rate",
        "dtype",
        "dynamic_img_size",
        "global_pool",
        "img_size",
        "in_chans",
        "num_classes",
        "patch_size",
        "proj_drop_rate",
        "qkv_bias",
        "strict_img_size",
    }
)


class PotstillSwin(SwinTransformer):  # type: ignore[misc]
    """A Swin with optional weight sharing. All arguments are JSON values; ``SwinOptions`` has those that timm lacks.

    Deviation from timm's Swin: no stochastic depth by default.
    """

    layers: nn.Sequential

    def __init__(
        self,
        *,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        head_dim: int | Sequence[int | None] | None = None,
        window_size: int | Sequence[int | Sequence[int]] = 7,
        mlp_ratio: float | Sequence[float] = 4.0,
        drop_path_rate: float = 0.0,
        weight_init: str = "",
        **options: Any,
    ) -> None:
        swin_options = SwinOptions(**{name: options.pop(name) for name in sorted(_OPTIONS & options.keys())})
        if unknown := sorted(options.keys() - _FORWARDED):
            raise TypeError(f"potstill_swin got an unexpected argument {unknown[0]!r}")
        swin_options.check(depths)
        if len(num_heads) != len(depths):
            raise ValueError(f"num_heads has {len(num_heads)} entries, and there are {len(depths)} stages")
        sizes = {"num_heads": num_heads, "head_dim": head_dim, "window_size": window_size, "mlp_ratio": mlp_ratio}
        super().__init__(
            embed_dim=embed_dim,
            depths=[0] * len(depths) if swin_options.multiplexed else depths,
            drop_path_rate=0.0 if swin_options.multiplexed else drop_path_rate,
            weight_init="skip",
            **sizes,
            **options,
        )
        self.options = swin_options
        if swin_options.multiplexed:
            rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
            self._build_blocks(rates, sizes, options)
        self.weight_init_mode = "reset" if weight_init == "skip" else weight_init
        if weight_init != "skip":
            self.init_weights(needs_reset=False)

    def _build_blocks(self, rates: list[list[float]], sizes: dict[str, Any], options: dict[str, Any]) -> None:
        """Fill timm's empty stages with shared blocks."""
        stages = len(rates)
        windows = resolve_stage_window_sizes(sizes["window_size"], stages)
        head_dims, mlp_ratios = to_ntuple(stages)(sizes["head_dim"]), to_ntuple(stages)(sizes["mlp_ratio"])
        layers: Any = self.layers
        for index, stage in enumerate(layers):
            stage.depth = len(rates[index])
            stage.blocks = multiplexed_blocks(
                self.options,
                drop_paths=rates[index],
                dim=self.feature_info[index]["num_chs"],
                input_resolution=stage.output_resolution,
                num_heads=sizes["num_heads"][index],
                head_dim=head_dims[index],
                window_size=windows[index],
                mlp_ratio=mlp_ratios[index],
                always_partition=options.get("always_partition", False),
                dynamic_mask=self.dynamic_img_size,
                qkv_bias=options.get("qkv_bias", True),
                attn_drop=options.get("attn_drop_rate", 0.0),
                proj_drop=options.get("proj_drop_rate", 0.0),
                device=options.get("device"),
                dtype=options.get("dtype"),
            )


default_cfgs = generate_default_cfgs(
    {
        "potstill_swin": {
            "url": "",
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.9,
            "interpolation": "bicubic",
            "fixed_input_size": True,
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "patch_embed.proj",
            "classifier": "head.fc",
        }
    }
)


@register_model  # type: ignore[untyped-decorator]
def potstill_swin(pretrained: bool = False, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002 - timm's signature
    """Create a ``PotstillSwin`` from its arguments; Swin-Tiny by default."""
    stages = range(len(kwargs.get("depths", (2, 2, 6, 2))))
    return build_model_with_cfg(
        PotstillSwin,
        "potstill_swin",
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"flatten_sequential": True, "out_indices": kwargs.pop("out_indices", tuple(stages))},
        **kwargs,
    )
