"""Convert a ViT to a ``potstill_vit`` that equals it, with the options that a method requires.

Dimensions are read from the requested model, as for timm's distilled ViT. Both models are compared part by part, and
any difference is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from core.errors import InvalidSpec
from core.models.distilled_vit import FORWARDED_ARGUMENTS, vit_dimensions
from core.models.meta_device import build_on_meta
from potstill_models import PotstillVit

FLEXIBLE = "potstill_vit"
# Parts that options add: a plain ViT has no weights for them, so they keep their initialization.
_ADDED_PARTS = ("heads_dist.", "lift.", "patch_embed.conv.", "patch_embed.involution.")
_HEAD_NORMS = (".attn.q_norm.", ".attn.k_norm.")  # of the width of a head
_ADDED_BLOCK_PARTS = ("attn.pos_proj.", "attn.gating", "mixing.relative.")


def to_flexible_vit(architecture: str, arguments: Mapping[str, Any], **options: Any) -> tuple[str, dict[str, Any]]:
    """Return name and full arguments of a ``potstill_vit`` that equals ``architecture``, with ``options`` added.

    ``options`` are fields of ``potstill_models.VitOptions``. Without any, both models compute the same outputs from
    the same weights. A ``potstill_vit`` keeps its own options unless they are overridden.

    Raises:
        InvalidSpec: Not a plain ViT, one with unsupported parts, or options that do not fit its dimensions.
    """
    requested: Any = build_on_meta(architecture, arguments)
    if isinstance(requested, PotstillVit):
        full = dict(arguments)
    elif type(requested) is VisionTransformer:
        full = _plain_arguments(requested, architecture, arguments)
    else:
        raise InvalidSpec.for_field(
            "/student/architecture",
            f"this method needs a plain ViT (vit_* or deit_*, without a distillation token of its own), and "
            f"{architecture} is a {type(requested).__name__}; choose one, or another method",
        )
    full |= options
    if full.get("lift_width") is not None:
        full["fc_norm"] = False  # all tokens are normalized, then lifted, then pooled
    try:
        build_on_meta(FLEXIBLE, full)
    except (ValueError, TypeError, AssertionError) as error:
        detail = f"{architecture} does not support the options of this method: {error}; change its dimensions"
        raise InvalidSpec.for_field("/student/architecture", detail) from error
    return FLEXIBLE, full


def adapt_to_flexible_vit(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Adapt weights of a plain ViT to a ``potstill_vit`` of the same dimensions.

    Distillation tokens are initialized with the class token and its position. A shared block takes attention and MLP
    from the first block of its group, and each run the norms and scales of its own block; transforms over the heads
    start as identity. Local blocks take queries, keys and values. Parts that options add (heads, lift, stems, wide
    last block, positions) and norms of heads of another width keep the initialization of ``module``. Widths of single
    blocks are not cut here: tensors of another shape are left for strict loading to refuse.
    """
    assert isinstance(module, PotstillVit)
    options, fresh = module.options, module.state_dict()
    if {name: tensor.shape for name, tensor in state.items()} == {name: own.shape for name, own in fresh.items()}:
        return dict(state)  # the weights already have these options
    adapted: dict[str, Tensor] = {}
    for name, own in fresh.items():
        source = _source_name(name, options.repeats, multiplexed=options.multiplexed, state=state)
        if _is_added(name, module) or _is_resized_norm(name, own, state.get(source), module):
            adapted[name] = own
        elif name.endswith((".conv_l.weight", ".conv_w.weight")):
            adapted[name] = torch.eye(own.shape[0], dtype=own.dtype)[:, :, None, None]
        elif name == "dist_token":
            adapted[name] = state["cls_token"].expand_as(own).clone()
        elif source in state:
            adapted[name] = state[source]
    if "pos_embed" in adapted and not module.no_embed_class:
        first_11D, rest_1ND = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
        tokens = options.distillation_tokens
        adapted["pos_embed"] = torch.cat([first_11D.expand(-1, 1 + tokens, -1), rest_1ND], dim=1)
    return adapted


def _plain_arguments(requested: VisionTransformer, architecture: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the ``potstill_vit`` without options that equals the requested ViT."""
    try:
        dimensions = vit_dimensions(requested, architecture)
    except InvalidSpec as error:
        types = sorted({type(part).__name__ for part in requested.blocks.children()})
        raise _unsupported(architecture, f"blocks of {', '.join(types)} with their norms and activations") from error
    full = dimensions | {name: value for name, value in arguments.items() if name in FORWARDED_ARGUMENTS}
    full |= {
        "num_classes": requested.num_classes,
        "in_chans": requested.in_chans,
        "global_pool": requested.global_pool,
        "class_token": requested.has_class_token,
        "no_embed_class": requested.no_embed_class,
        "fc_norm": not isinstance(requested.fc_norm, nn.Identity),
    }
    full["final_norm"] = full["final_norm"] or full["fc_norm"]  # one norm, before or after pooling
    if requested.num_reg_tokens or requested.pool_include_prefix or requested.pos_embed is None:
        raise _unsupported(architecture, "register tokens, pooling over tokens or absent positions")
    try:
        flexible: Any = build_on_meta(FLEXIBLE, full)
    except (AssertionError, RuntimeError, TypeError, ValueError, KeyError) as error:
        raise _unsupported(architecture, str(error)) from error
    own = {name: tensor.shape for name, tensor in flexible.state_dict().items()}
    expected = {name: tensor.shape for name, tensor in requested.state_dict().items()}
    differing = sorted(name for name in own.keys() | expected.keys() if own.get(name) != expected.get(name))
    parts = ("patch_embed", "norm_pre", "blocks", "norm", "fc_norm")
    differing += [part for part in parts if repr(getattr(requested, part)) != repr(getattr(flexible, part))]
    if type(requested.patch_embed) is not PatchEmbed or differing:
        raise _unsupported(architecture, ", ".join(differing[:3]) or "patch_embed")
    return full


def _is_added(name: str, module: PotstillVit) -> bool:
    """Return whether a weight belongs to a part that an option adds."""
    if name.startswith(_ADDED_PARTS) or any(part in name for part in _ADDED_BLOCK_PARTS):
        return True
    wide = module.options.wide_last is not None
    if wide and name.startswith((f"blocks.{len(module.blocks) - 1}.", "norm.", "fc_norm.")):
        return True
    return name.startswith("head.") and module.num_features != module.embed_dim


def _is_resized_norm(name: str, own: Tensor, given: Tensor | None, module: PotstillVit) -> bool:
    """Return whether a weight normalizes the heads of a block whose heads have another width than the plain ViT's."""
    if module.options.heads_per_block is None or given is None:
        return False
    return any(part in name for part in _HEAD_NORMS) and given.shape != own.shape


def _source_name(name: str, repeats: int, *, multiplexed: bool, state: Mapping[str, Tensor]) -> str:
    """Return the name of a weight in the plain ViT."""
    if name.startswith("norm.") and name not in state:
        return f"fc_{name}"  # lift_width moves the final norm before the pooling
    if not (multiplexed and name.startswith("blocks.")):
        return name
    _, block, part, *rest = name.split(".")
    if part == "runs":
        run, *inner = rest
        return ".".join(["blocks", str(int(block) * repeats + int(run)), *inner])
    return ".".join(["blocks", str(int(block) * repeats), part, *rest])


def _unsupported(architecture: str, reason: str) -> InvalidSpec:
    return InvalidSpec.for_field(
        "/student/architecture",
        f"a potstill_vit cannot express {architecture} with these arguments ({reason}); use a plain vit_* or deit_*, "
        "or another method",
    )
