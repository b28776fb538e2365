"""``potstill_vit``: timm's ViT with the options of ``potstill_models.options.VitOptions``.

It is a subclass with some parts replaced: weight names, features, classifier and checkpointing are timm's. With default
options it equals timm's ViT bit for bit.
Shapes: B images, T tokens, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from timm.layers import LayerNorm, PatchEmbed, calculate_drop_path_rates, get_norm_layer, trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models._manipulate import checkpoint
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from potstill_models.blocks import BlockMaker, MultiplexedBlock
from potstill_models.options import VitOptions
from potstill_models.stems import CoAdviseStem, ConvStem, Stem

__all__ = ["PotstillVit"]  # timm adds the registered name

_OPTIONS = frozenset(field.name for field in fields(VitOptions))
# Arguments that are forwarded to timm's ViT.
_FORWARDED = frozenset(
    {
        "act_layer",
        "attn_drop_rate",
        "class_token",
        "device",
        "drop_rate",
        "dtype",
        "fc_norm",
        "final_norm",
        "fix_init",
        "init_values",
        "mlp_ratio",
        "no_embed_class",
        "norm_layer",
        "patch_drop_rate",
        "pos_drop_rate",
        "pre_norm",
        "proj_bias",
        "proj_drop_rate",
        "qk_norm",
        "qkv_bias",
    }
)


class PotstillVit(VisionTransformer):  # type: ignore[misc]
    """A configurable ViT. All arguments are plain JSON values; ``VitOptions`` has those that timm lacks."""

    blocks: nn.Sequential
    reg_token: nn.Parameter | None
    dist_token: nn.Parameter | None

    def __init__(  # noqa: PLR0917 - the order is timm's
        self,
        img_size: int | Sequence[int] = 224,
        patch_size: int | Sequence[int] = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        embed_dim: int = 192,
        depth: int = 12,
        num_heads: int = 3,
        drop_path_rate: float = 0.0,
        weight_init: str = "",
        **options: Any,
    ) -> None:
        vit_options = VitOptions(**{name: options.pop(name) for name in sorted(_OPTIONS & options.keys())})
        if unknown := sorted(options.keys() - _FORWARDED):
            raise TypeError(f"potstill_vit got an unexpected argument {unknown[0]!r}")
        vit_options.check(embed_dim=embed_dim, depth=depth, num_heads=num_heads)
        vit_options.check_pooling(
            global_pool=global_pool,
            class_token=options.get("class_token", True),
            fc_norm=options.get("fc_norm"),
            patch_drop=options.get("patch_drop_rate", 0.0),
        )
        if vit_options.lift_width is not None:
            options["fc_norm"] = False  # the lift follows the final norm, so the norm precedes the pooling
        grid_size = (_side(img_size) // _side(patch_size),) * 2
        vit_options.check_merged_tokens(grid_size[0] * grid_size[1])
        prefix = int(options.get("class_token", True)) + vit_options.distillation_tokens
        maker = BlockMaker(
            vit_options,
            drop_paths=calculate_drop_path_rates(drop_path_rate, depth),
            grid_size=grid_size,
            num_prefix_tokens=prefix,
        )
        super().__init__(
            img_size=_side(img_size),
            patch_size=_side(patch_size),
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            embed_dim=embed_dim,
            depth=depth // vit_options.repeats,
            num_heads=num_heads,
            reg_tokens=vit_options.distillation_tokens,  # same number and position as timm's register tokens
            embed_layer=_embed_layer(vit_options),
            block_fn=maker,
            weight_init="skip",
            **options,
        )
        self.options = vit_options
        self.distilled_training = False
        dd = {"device": options.get("device"), "dtype": options.get("dtype")}
        self._rename_register_tokens()
        self._build_norm_and_heads(get_norm_layer(options.get("norm_layer")) or LayerNorm, dd)
        self.feature_info = self._feature_info()
        self.weight_init_mode = "reset" if weight_init == "skip" else weight_init
        if weight_init != "skip":
            self.init_weights(needs_reset=False)

    def init_weights(self, mode: str = "", needs_reset: bool = True) -> None:  # noqa: FBT001, FBT002 - timm's signature
        """Initialize as timm does; parts with another initialization define their own ``init_weights``."""
        super().init_weights(mode=mode, needs_reset=needs_reset)
        if self.dist_token is not None:
            trunc_normal_(self.dist_token, std=0.02)

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def set_distilled_training(self, enable: bool = True) -> None:  # noqa: FBT001, FBT002 - timm's signature
        """In training mode, return the logits of every head, the class token's first."""
        self.distilled_training = enable

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:  # noqa: ARG002, FBT001, FBT002 - timm's signature
        """Return patterns of layers, for layer-wise decay."""
        return {
            "stem": r"^cls_token|dist_token|pos_embed|patch_embed|norm_pre",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm|^lift", (99999,))],
        }

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def get_classifier(self) -> Any:
        """Return the head, or all heads with distillation tokens."""
        return (self.head, *self.heads_dist) if self.options.distillation_tokens else self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the heads. An empty ``global_pool`` gives features without pooling."""
        if global_pool == "avg" and self.options.distillation_tokens:
            raise ValueError("distillation tokens are not pooled: global_pool cannot be avg")
        if global_pool not in {None, "", "token", "avg"}:
            raise ValueError(f"global_pool is token or avg, not {global_pool!r}")
        if global_pool == "token" and not self.has_class_token:
            raise ValueError("global_pool token needs the class token")
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = global_pool
        dd = {"device": self.patch_embed_weight.device, "dtype": self.patch_embed_weight.dtype}
        self._build_heads(dd)
        self.train(self.training)

    def set_input_size(self, img_size: Any = None, patch_size: Any = None) -> None:
        """Set the input size. Raises ValueError if parts depend on the grid of patches."""
        options = self.options
        if options.local_blocks or options.relative_position or options.merged_tokens or options.stem != "patch":
            raise ValueError("these options fix the input size: build the model with another img_size")
        super().set_input_size(img_size, patch_size)

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,  # noqa: FBT001, FBT002 - timm's signature
        prune_head: bool = True,  # noqa: FBT001, FBT002 - timm's signature
    ) -> list[int]:
        """Remove all parts that features of the given runs do not need."""
        taken, last = feature_take_indices(len(self.feature_info), indices)
        self.blocks = self.blocks[: last // self.options.repeats + 1]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.fc_norm = nn.Identity()
            self.reset_classifier(0, "")
        indices_taken: list[int] = taken
        return indices_taken

    def forward_intermediates(  # noqa: PLR0917 - timm's signature
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,  # noqa: FBT001, FBT002 - timm's signature
        norm: bool = False,  # noqa: FBT001, FBT002
        stop_early: bool = False,  # noqa: FBT001, FBT002
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,  # noqa: FBT001, FBT002
    ) -> Any:
        """As timm's, with one map per run, so ``depth`` maps. Maps precede norm and lift."""
        if self.options.merged_tokens is not None:
            raise ValueError("tokens that are merged form no map")
        if output_fmt not in {"NCHW", "NLC"}:
            raise ValueError(f"output_fmt is NCHW or NLC, not {output_fmt!r}")
        taken, last = feature_take_indices(len(self.feature_info), indices)
        height, width = self.patch_embed.dynamic_feat_size(x.shape[-2:])
        x = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        maps = []
        for index, run in enumerate(self._runs()):
            if stop_early and index > last:
                break
            x = checkpoint(run, x) if self.grad_checkpointing else run(x)
            if index in taken:
                maps.append(self.norm(x) if norm else x)
        prefixes = [tokens[:, : self.num_prefix_tokens] for tokens in maps]
        maps = [tokens[:, self.num_prefix_tokens :] for tokens in maps]
        if output_fmt == "NCHW":
            maps = [m.reshape(m.shape[0], height, width, -1).permute(0, 3, 1, 2).contiguous() for m in maps]
        outputs: Any = maps
        if return_prefix_tokens and self.num_prefix_tokens:
            outputs = list(zip(maps, prefixes, strict=True))
        return outputs if intermediates_only else (self.lift(self.norm(x)), outputs)

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:  # noqa: FBT001, FBT002
        """Return all tokens after norm and lift.

        Merged patches that are averaged later are weighted by their size, so that every patch counts the same.
        """
        if self.options.merged_tokens is not None:
            return self._merge_features(x)
        features: Tensor = self.lift(super().forward_features(x, attn_mask=attn_mask, is_causal=is_causal))
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Any:  # noqa: FBT001, FBT002 - timm's signature
        """Return logits; with distillation tokens their mean over all heads, or each token's in distilled training."""
        if not self.options.distillation_tokens:
            return super().forward_head(x, pre_logits=pre_logits)
        count = self.num_prefix_tokens
        inputs_BTD, heads = x[:, :count], [self.head, *self.heads_dist]
        if self.options.patch_vote:
            inputs_BTD = torch.cat([inputs_BTD, x[:, count:].mean(dim=1, keepdim=True)], dim=1)
            heads.append(heads[-1])
        inputs_BTD = self.head_drop(self.fc_norm(inputs_BTD))
        if pre_logits:
            return inputs_BTD.mean(dim=1)
        logits = tuple(head(inputs_BTD[:, index]) for index, head in enumerate(heads))
        if self.distilled_training and self.training:
            return logits[:count]
        return torch.stack(logits).mean(dim=0)

    def _merge_features(self, x: Tensor) -> Tensor:
        x = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        num_patches, size_BT = x.shape[1] - self.num_prefix_tokens, None
        for block in self.blocks:
            x, size_BT = checkpoint(block, x, size_BT) if self.grad_checkpointing else block(x, size_BT)
        x = self.lift(self.norm(x))
        if size_BT is not None and (self.global_pool == "avg" or self.options.patch_vote):
            count = self.num_prefix_tokens
            remaining = x.shape[1] - count
            weighted = x[:, count:] * (size_BT[:, count:, None] * (remaining / num_patches))
            x = torch.cat([x[:, :count], weighted], dim=1)
        return x

    @property
    def patch_embed_weight(self) -> Tensor:
        """A weight with the model's device and dtype."""
        weight: Tensor = next(self.patch_embed.parameters())
        return weight

    def _pos_embed(self, x: Tensor) -> Tensor:
        if not self.options.distillation_tokens:
            embedded: Tensor = super()._pos_embed(x)
            return embedded
        tokens = [self.cls_token.expand(x.shape[0], -1, -1)]
        if self.dist_token is not None:
            tokens.append(self.dist_token.expand(x.shape[0], -1, -1))
        positions_1TD = self.pos_embed
        if self.no_embed_class:
            positions_1TD = F.pad(positions_1TD, (0, 0, self.num_prefix_tokens, 0))
        embedded_BTD: Tensor = self.pos_drop(torch.cat([*tokens, x], dim=1) + positions_1TD)
        return embedded_BTD

    def _runs(self) -> Iterator[Callable[[Tensor], Tensor]]:
        for block in self.blocks:
            if isinstance(block, MultiplexedBlock):
                yield from (partial(run, attn=block.attn, mlp=block.mlp) for run in block.runs)
            else:
                yield block

    def _feature_info(self) -> list[dict[str, Any]]:
        """Feature info of each run for timm: module, channels and reduction."""
        names = [
            f"blocks.{index}.runs.{run}" if isinstance(block, MultiplexedBlock) else f"blocks.{index}"
            for index, block in enumerate(self.blocks)
            for run in range(self.options.repeats)
        ]
        pixels = self.patch_embed.feat_ratio()
        maps = [{"module": name, "num_chs": self.embed_dim, "reduction": pixels} for name in names]
        if self.options.wide_last is not None:
            maps[-1]["num_chs"] = self.options.wide_last
        return maps

    def _rename_register_tokens(self) -> None:
        """Use register tokens as distillation tokens; other stems compute theirs from the image."""
        token = self.reg_token
        del self.reg_token
        self.reg_token, self.num_reg_tokens = None, 0
        self.dist_token = token if self.options.stem == "patch" else None

    def _build_norm_and_heads(self, norm_layer: Callable[..., nn.Module], dd: dict[str, Any]) -> None:
        """Build norm, lift and heads at the width of their inputs."""
        width = self.options.wide_last or self.embed_dim
        if width != self.embed_dim:
            for name in ("norm", "fc_norm"):
                if not isinstance(getattr(self, name), nn.Identity):
                    setattr(self, name, norm_layer(width, **dd))
        lifted = self.options.lift_width
        self.lift = nn.Linear(width, lifted, **dd) if lifted is not None else nn.Identity()
        self.num_features = self.head_hidden_size = lifted or width
        if self.num_features != self.embed_dim or self.options.distillation_tokens:
            self._build_heads(dd)

    def _build_heads(self, dd: dict[str, Any]) -> None:
        def head() -> nn.Module:
            return nn.Linear(self.num_features, self.num_classes, **dd) if self.num_classes > 0 else nn.Identity()

        self.head = head()
        if self.options.distillation_tokens:
            self.heads_dist = nn.ModuleList(head() for _ in range(self.options.distillation_tokens))


def _embed_layer(options: VitOptions) -> Callable[..., nn.Module]:
    match options.stem:
        case "conv":
            return partial(_fixed_stem, ConvStem, token=options.distillation_tokens > 0)
        case "co_advise":
            return partial(_fixed_stem, CoAdviseStem)
    return PatchEmbed  # type: ignore[no-any-return]


def _fixed_stem(build: type[Stem], *, dynamic_img_pad: bool, **options: Any) -> Stem:
    if dynamic_img_pad:
        raise ValueError("this stem has a fixed input size")
    return build(**options)


def _side(size: int | Sequence[int]) -> int:
    sides = [size] if isinstance(size, int) else list(size)
    if not 1 <= len(sides) <= 2 or any(side != sides[0] or side < 1 for side in sides):
        raise ValueError(f"images and patches must be square, not {size!r}")
    return sides[0]


default_cfgs = generate_default_cfgs(
    {
        "potstill_vit": {
            "url": "",
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": None,
            "crop_pct": 0.9,
            "interpolation": "bicubic",
            "fixed_input_size": True,
            "mean": IMAGENET_INCEPTION_MEAN,
            "std": IMAGENET_INCEPTION_STD,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        }
    }
)


@register_model  # type: ignore[untyped-decorator]
def potstill_vit(pretrained: bool = False, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002 - timm's signature
    """Create a ``PotstillVit`` from its arguments; ViT-Tiny by default."""
    model = build_model_with_cfg(
        PotstillVit,
        "potstill_vit",
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": kwargs.pop("out_indices", 3), "feature_cls": "getter"},
        **kwargs,
    )
    if isinstance(model, PotstillVit):  # parts that timm adapts to other channels and classes
        heads = [f"heads_dist.{index}" for index in range(model.options.distillation_tokens)]
        model.pretrained_cfg["classifier"] = ["head", *heads] if heads else "head"
        stems = {"conv": ["conv"], "co_advise": ["conv", "involution"]}.get(model.options.stem)
        if stems is not None:
            model.pretrained_cfg["first_conv"] = [f"patch_embed.{stem}.0" for stem in stems]
    return model
