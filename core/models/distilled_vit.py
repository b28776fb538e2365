"""From a ViT to its twin with a distillation token (DeiT, Touvron et al. 2021, arXiv:2012.12877).

timm's distilled ViT is a class of its own with few registered names. So the asked model's dimensions
are read from the model itself and given to one of those names in full; then both are compared, part
by part, and anything that the twin cannot express is refused.
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

# The registered names, by width; any would do, as every dimension is passed, but a telling name is kind.
_ENTRYPOINTS = {
    192: "deit_tiny_distilled_patch16_224",
    384: "deit_small_distilled_patch16_224",
    768: "deit_base_distilled_patch16_224",
}
_NORM_NAMES = ("layernorm", "layernormfp32", "rmsnorm", "rmsnormfp32", "simplenorm", "simplenormfp32")
_ACT_NAMES = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "mish", "tanh", "sigmoid", "hard_swish")
_PASSED_ON = (
    "drop_rate",
    "pos_drop_rate",
    "patch_drop_rate",
    "proj_drop_rate",
    "attn_drop_rate",
    "fix_init",
    "weight_init",
)


def distilled_twin(architecture: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and full arguments of the distilled ViT that equals ``architecture`` but for token and head.

    Raises:
        InvalidSpec: Not a ViT, or one with parts that timm's distilled ViT does not have.
    """
    asked: Any = build_on_meta(architecture, arguments)
    if isinstance(asked, VisionTransformerDistilled):
        return architecture, dict(arguments)
    if type(asked) is not VisionTransformer:
        raise InvalidSpec.for_field(
            "/student/architecture",
            f"a distillation token needs a plain ViT (vit_* or deit_*), and {architecture} is a "
            f"{type(asked).__name__}; choose one, or another method",
        )
    name = _ENTRYPOINTS[min(_ENTRYPOINTS, key=lambda width: abs(width - asked.embed_dim))]
    twin_arguments = {**_dimensions(asked, architecture), **{k: v for k, v in arguments.items() if k in _PASSED_ON}}
    twin_arguments |= {"num_classes": asked.num_classes, "in_chans": asked.in_chans}
    try:
        twin = build_on_meta(name, twin_arguments)
    except (AssertionError, RuntimeError, TypeError, ValueError, KeyError) as error:
        raise _no_twin(architecture, str(error)) from error
    _compare(asked, twin, architecture)
    return name, twin_arguments


def widen_state(state: Mapping[str, Tensor], twin: nn.Module) -> dict[str, Tensor]:
    """Weights of a plain ViT, made to fit its distilled twin.

    The distillation token begins as the class token, at the class token's position; its head begins
    as ``twin`` was initialised. Shapes: T tokens of the plain model, D width.
    """
    widened = dict(state)
    own = twin.state_dict()
    widened["dist_token"] = state["cls_token"].clone()
    pos_1TD = state["pos_embed"]
    if pos_1TD.shape[1] + 1 == own["pos_embed"].shape[1]:
        widened["pos_embed"] = torch.cat([pos_1TD[:, :1], pos_1TD[:, :1], pos_1TD[:, 1:]], dim=1)
    else:  # the plain model's class token had no position (DeiT III): zero is the same
        widened["pos_embed"] = F.pad(pos_1TD, (0, 0, 2, 0))
    for name in ("head_dist.weight", "head_dist.bias"):
        widened[name] = own[name]
    return widened


def _dimensions(asked: VisionTransformer, architecture: str) -> dict[str, Any]:
    """Every dimension of a built ViT as arguments that build it again."""
    block: Any = asked.blocks[0] if len(asked.blocks) else None
    if type(block) is not Block:
        raise _no_twin(architecture, f"its blocks are {type(block).__name__}")
    attention, mlp = block.attn, block.mlp
    dimensions: dict[str, Any] = {
        "img_size": asked.patch_embed.img_size[0],
        "patch_size": asked.patch_embed.patch_size[0],
        "embed_dim": asked.embed_dim,
        "depth": len(asked.blocks),
        "num_heads": attention.num_heads,
        "mlp_ratio": mlp.fc1.out_features / asked.embed_dim if hasattr(mlp, "fc1") else 4.0,
        "qkv_bias": attention.qkv.bias is not None,
        "proj_bias": attention.proj.bias is not None,
        "qk_norm": not isinstance(attention.q_norm, nn.Identity),
        "pre_norm": not isinstance(asked.norm_pre, nn.Identity),
        "final_norm": not isinstance(asked.norm, nn.Identity),
    }
    if not isinstance(block.ls1, nn.Identity):
        dimensions["init_values"] = block.ls1.init_values
    return dimensions | _layers(block, architecture)


def _layers(block: Block, architecture: str) -> dict[str, str]:
    """Norm and activation by name, and only where they are not the default: functions are no JSON."""
    norm = next((n for n in _NORM_NAMES if _class_of(get_norm_layer(n)) is type(block.norm1)), None)
    act = next((n for n in _ACT_NAMES if get_act_layer(n) is type(block.mlp.act)), None)
    if norm is None or (act is None and type(block.mlp.act) is not nn.GELU):
        raise _no_twin(architecture, f"it uses {type(block.norm1).__name__} and {type(block.mlp.act).__name__}")
    layers: dict[str, str] = {}
    if norm != "layernorm":
        layers["norm_layer"] = norm
    if act is not None and type(block.mlp.act) is not nn.GELU:
        layers["act_layer"] = act
    return layers


def _class_of(layer: Any) -> Any:
    return getattr(layer, "func", layer)


def _compare(asked: nn.Module, twin: nn.Module, architecture: str) -> None:
    """Refuse a twin that differs in anything but the token, its head and the positions."""
    extra = {"dist_token", "head_dist.weight", "head_dist.bias"}
    own = {n: t.shape for n, t in twin.state_dict().items() if n not in extra | {"pos_embed"}}
    wanted = {n: t.shape for n, t in asked.state_dict().items() if n != "pos_embed"}
    differing = sorted(n for n in own.keys() | wanted.keys() if own.get(n) != wanted.get(n))
    parts = ("patch_embed", "norm_pre", "blocks", "norm", "fc_norm")
    differing += [part for part in parts if repr(getattr(asked, part)) != repr(getattr(twin, part))]
    if getattr(asked, "global_pool", "token") != "token":
        raise InvalidSpec.for_field(
            "/student/arguments/global_pool", "with a distillation token, global_pool has to be token"
        )
    if not isinstance(asked.patch_embed, PatchEmbed) or differing:
        raise _no_twin(architecture, f"these differ: {', '.join(differing[:3]) or 'patch_embed'}")


def _no_twin(architecture: str, why: str) -> InvalidSpec:
    return InvalidSpec.for_field(
        "/student/architecture",
        f"timm's distilled ViT cannot express {architecture} with these arguments ({why}); use a plain vit_* or "
        "deit_*, or another method",
    )
