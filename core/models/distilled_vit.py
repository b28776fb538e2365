"""Convert a ViT to timm's distilled ViT, with a distillation token (DeiT, Touvron et al. 2021, arXiv:2012.12877).

timm's distilled ViT is a separate class with few registered names. So all dimensions are read from the requested model
and passed to one of those names. Then both models are compared part by part, and any difference is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed, get_act_layer, get_norm_layer
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from core.errors import InvalidSpec
from core.models.meta_device import build_on_meta

# Registered names by width. All dimensions are passed, so the width only selects a descriptive name.
_ENTRYPOINTS = {
    192: "deit_tiny_distilled_patch16_224",
    384: "deit_small_distilled_patch16_224",
    768: "deit_base_distilled_patch16_224",
}
_NORM_NAMES = ("layernorm", "layernormfp32", "rmsnorm", "rmsnormfp32", "simplenorm", "simplenormfp32")
_ACT_NAMES = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "mish", "tanh", "sigmoid", "hard_swish")
FORWARDED_ARGUMENTS = (
    "drop_rate",
    "pos_drop_rate",
    "patch_drop_rate",
    "proj_drop_rate",
    "attn_drop_rate",
    "fix_init",
    "weight_init",
)


def to_distilled_vit(architecture: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return name and full arguments of the distilled ViT that equals ``architecture`` except for token and head.

    Raises:
        InvalidSpec: Not a ViT, or one with parts that timm's distilled ViT does not have.
    """
    requested: Any = build_on_meta(architecture, arguments)
    if isinstance(requested, VisionTransformerDistilled):
        return architecture, dict(arguments)
    if type(requested) is not VisionTransformer:
        raise InvalidSpec.for_field(
            "/student/architecture",
            f"a distillation token needs a plain ViT (vit_* or deit_*), and {architecture} is a "
            f"{type(requested).__name__}; choose one, or another method",
        )
    name = _ENTRYPOINTS[min(_ENTRYPOINTS, key=lambda width: abs(width - requested.embed_dim))]
    full = vit_dimensions(requested, architecture)
    full |= {name: value for name, value in arguments.items() if name in FORWARDED_ARGUMENTS}
    full |= {"num_classes": requested.num_classes, "in_chans": requested.in_chans}
    try:
        distilled = build_on_meta(name, full)
    except (AssertionError, RuntimeError, TypeError, ValueError, KeyError) as error:
        raise _unsupported(architecture, str(error)) from error
    _require_equal_parts(requested, distilled, architecture)
    return name, full


def adapt_to_distilled_vit(state: Mapping[str, Tensor], distilled: nn.Module) -> dict[str, Tensor]:
    """Adapt weights of a plain ViT to its distilled ViT.

    The distillation token is initialized with the class token and its position; its head keeps the initialization of
    ``distilled``. Shapes: T tokens of the plain model, D width.
    """
    adapted = dict(state)
    own = distilled.state_dict()
    adapted["dist_token"] = state["cls_token"].clone()
    pos_1TD = state["pos_embed"]
    if pos_1TD.shape[1] + 1 == own["pos_embed"].shape[1]:
        adapted["pos_embed"] = torch.cat([pos_1TD[:, :1], pos_1TD[:, :1], pos_1TD[:, 1:]], dim=1)
    else:  # the plain model's class token has no position (DeiT III), which equals zero
        adapted["pos_embed"] = F.pad(pos_1TD, (0, 0, 2, 0))
    for name in ("head_dist.weight", "head_dist.bias"):
        adapted[name] = own[name]
    return adapted


def vit_dimensions(vit: VisionTransformer, architecture: str) -> dict[str, Any]:
    """Read all dimensions of a built ViT, as constructor arguments. Raises InvalidSpec for unknown blocks."""
    block: Any = vit.blocks[0] if len(vit.blocks) else None
    if type(block) is not Block:
        raise _unsupported(architecture, f"its blocks are {type(block).__name__}")
    attention, mlp = block.attn, block.mlp
    dimensions: dict[str, Any] = {
        "img_size": vit.patch_embed.img_size[0],
        "patch_size": vit.patch_embed.patch_size[0],
        "embed_dim": vit.embed_dim,
        "depth": len(vit.blocks),
        "num_heads": attention.num_heads,
        "mlp_ratio": mlp.fc1.out_features / vit.embed_dim if hasattr(mlp, "fc1") else 4.0,
        "qkv_bias": attention.qkv.bias is not None,
        "proj_bias": attention.proj.bias is not None,
        "qk_norm": not isinstance(attention.q_norm, nn.Identity),
        "pre_norm": not isinstance(vit.norm_pre, nn.Identity),
        "final_norm": not isinstance(vit.norm, nn.Identity),
    }
    if not isinstance(block.ls1, nn.Identity):
        dimensions["init_values"] = block.ls1.init_values
    return dimensions | _layer_names(block, architecture)


def _layer_names(block: Block, architecture: str) -> dict[str, str]:
    """Names of norm and activation, if they are not the default; functions cannot be serialized to JSON."""
    norm = next((n for n in _NORM_NAMES if _class_of(get_norm_layer(n)) is type(block.norm1)), None)
    act = next((n for n in _ACT_NAMES if get_act_layer(n) is type(block.mlp.act)), None)
    if norm is None or (act is None and type(block.mlp.act) is not nn.GELU):
        raise _unsupported(architecture, f"it uses {type(block.norm1).__name__} and {type(block.mlp.act).__name__}")
    layers: dict[str, str] = {}
    if norm != "layernorm":
        layers["norm_layer"] = norm
    if act is not None and type(block.mlp.act) is not nn.GELU:
        layers["act_layer"] = act
    return layers


def _class_of(layer: Any) -> Any:
    return getattr(layer, "func", layer)


def _require_equal_parts(requested: nn.Module, distilled: nn.Module, architecture: str) -> None:
    """Raise InvalidSpec if the models differ in more than the distillation token, its head and the positions."""
    extra = {"dist_token", "head_dist.weight", "head_dist.bias"}
    own = {n: t.shape for n, t in distilled.state_dict().items() if n not in extra | {"pos_embed"}}
    expected = {n: t.shape for n, t in requested.state_dict().items() if n != "pos_embed"}
    differing = sorted(n for n in own.keys() | expected.keys() if own.get(n) != expected.get(n))
    parts = ("patch_embed", "norm_pre", "blocks", "norm", "fc_norm")
    differing += [part for part in parts if repr(getattr(requested, part)) != repr(getattr(distilled, part))]
    if getattr(requested, "global_pool", "token") != "token":
        raise InvalidSpec.for_field(
            "/student/arguments/global_pool", "with a distillation token, global_pool has to be token"
        )
    if not isinstance(requested.patch_embed, PatchEmbed) or differing:
        raise _unsupported(architecture, f"these differ: {', '.join(differing[:3]) or 'patch_embed'}")


def _unsupported(architecture: str, reason: str) -> InvalidSpec:
    return InvalidSpec.for_field(
        "/student/architecture",
        f"timm's distilled ViT cannot express {architecture} with these arguments ({reason}); use a plain vit_* or "
        "deit_*, or another method",
    )
