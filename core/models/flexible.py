"""From an asked ViT to a ``potstill_vit`` that equals it but for what a method's student has beside.

Dimensions are read from the model itself, as for timm's distilled ViT; both are compared part by
part, and what a ``potstill_vit`` cannot express is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from core.errors import InvalidSpec
from core.models.distilled_vit import _PASSED_ON, _dimensions
from core.models.meta_device import build_on_meta
from potstill_models import PotstillVit

FLEXIBLE = "potstill_vit"
# Parts that a form adds: weights of a plain ViT have nothing for them, so they begin as initialised.
_NEW_PARTS = ("heads_dist.", "lift.", "patch_embed.conv.", "patch_embed.involution.")
_NEW_IN_BLOCKS = ("attn.pos_proj.", "attn.gating", "mixing.relative.")


def flexible_twin(architecture: str, arguments: Mapping[str, Any], **form: Any) -> tuple[str, dict[str, Any]]:
    """Name and full arguments of a ``potstill_vit`` that equals ``architecture``, and has ``form`` beside.

    ``form`` holds fields of ``potstill_models.Form``. With none, both compute the same from the same
    weights. A ``potstill_vit`` keeps the form that it has, where ``form`` says nothing else.

    Raises:
        InvalidSpec: Not a plain ViT, one with parts of its own, or a form that does not go with it.
    """
    asked: Any = build_on_meta(architecture, arguments)
    if isinstance(asked, PotstillVit):
        full = dict(arguments)
    elif type(asked) is VisionTransformer:
        full = _plain_twin(asked, architecture, arguments)
    else:
        raise InvalidSpec.for_field(
            "/student/architecture",
            f"this method needs a plain ViT (vit_* or deit_*, without a distillation token of its own), and "
            f"{architecture} is a {type(asked).__name__}; choose one, or another method",
        )
    full |= form
    if full.get("lift_width") is not None:
        full["fc_norm"] = False  # all tokens are normed, then lifted, then pooled
    try:
        build_on_meta(FLEXIBLE, full)
    except (ValueError, TypeError, AssertionError) as error:
        detail = f"{architecture} cannot have the form that the method asks for: {error}; change its dimensions"
        raise InvalidSpec.for_field("/student/architecture", detail) from error
    return FLEXIBLE, full


def adapt_state(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Weights of a plain ViT, made to fit a ``potstill_vit`` of the same dimensions.

    Distillation tokens begin as the class token, at its position. A shared block takes attention and
    MLP from the first block of its group, each run the norms and scales of its own block, and the
    transforms over the heads begin at the identity. Local blocks take queries, keys and values. What
    the form adds (heads, lift, stems, wide last block, positions) begins as ``module`` was initialised.
    Widths of single blocks are not cut here: weights that differ in shape are left to be refused.
    """
    assert isinstance(module, PotstillVit)
    form, fresh = module.form, module.state_dict()
    if {name: tensor.shape for name, tensor in state.items()} == {name: own.shape for name, own in fresh.items()}:
        return dict(state)  # weights of this very form
    adapted: dict[str, Tensor] = {}
    for name, own in fresh.items():
        if _is_new(name, module):
            adapted[name] = own
        elif name.endswith((".conv_l.weight", ".conv_w.weight")):
            adapted[name] = torch.eye(own.shape[0], dtype=own.dtype)[:, :, None, None]
        elif name == "dist_token":
            adapted[name] = state["cls_token"].expand_as(own).clone()
        elif (source := _source(name, form.repeats, multiplexed=form.multiplexed, state=state)) in state:
            adapted[name] = state[source]
    if "pos_embed" in adapted and not module.no_embed_class:
        first_11D, rest_1ND = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
        tokens = form.distillation_tokens
        adapted["pos_embed"] = torch.cat([first_11D.expand(-1, 1 + tokens, -1), rest_1ND], dim=1)
    return adapted


def _plain_twin(asked: VisionTransformer, architecture: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the ``potstill_vit`` without form that is the asked ViT."""
    try:
        dimensions = _dimensions(asked, architecture)
    except InvalidSpec as error:
        kinds = sorted({type(part).__name__ for part in asked.blocks.children()})
        raise _cannot(architecture, f"blocks of {', '.join(kinds)} with their norms and activations") from error
    full = dimensions | {name: value for name, value in arguments.items() if name in _PASSED_ON}
    full |= {
        "num_classes": asked.num_classes,
        "in_chans": asked.in_chans,
        "global_pool": asked.global_pool,
        "class_token": asked.has_class_token,
        "no_embed_class": asked.no_embed_class,
        "fc_norm": not isinstance(asked.fc_norm, nn.Identity),
    }
    full["final_norm"] = full["final_norm"] or full["fc_norm"]  # one norm, before or after pooling
    if asked.num_reg_tokens or asked.pool_include_prefix or asked.pos_embed is None:
        raise _cannot(architecture, "register tokens, pooling over tokens or absent positions")
    try:
        twin: Any = build_on_meta(FLEXIBLE, full)
    except (AssertionError, RuntimeError, TypeError, ValueError, KeyError) as error:
        raise _cannot(architecture, str(error)) from error
    own = {name: tensor.shape for name, tensor in twin.state_dict().items()}
    wanted = {name: tensor.shape for name, tensor in asked.state_dict().items()}
    differing = sorted(name for name in own.keys() | wanted.keys() if own.get(name) != wanted.get(name))
    parts = ("patch_embed", "norm_pre", "blocks", "norm", "fc_norm")
    differing += [part for part in parts if repr(getattr(asked, part)) != repr(getattr(twin, part))]
    if type(asked.patch_embed) is not PatchEmbed or differing:
        raise _cannot(architecture, ", ".join(differing[:3]) or "patch_embed")
    return full


def _is_new(name: str, module: PotstillVit) -> bool:
    """Whether a weight belongs to what the form adds."""
    if name.startswith(_NEW_PARTS) or any(part in name for part in _NEW_IN_BLOCKS):
        return True
    wide = module.form.wide_last is not None
    if wide and name.startswith((f"blocks.{len(module.blocks) - 1}.", "norm.", "fc_norm.")):
        return True
    return name.startswith("head.") and module.num_features != module.embed_dim


def _source(name: str, repeats: int, *, multiplexed: bool, state: Mapping[str, Tensor]) -> str:
    """The plain ViT's name of a weight."""
    if name.startswith("norm.") and name not in state:
        return f"fc_{name}"  # a lift puts the final norm before pooling
    if not (multiplexed and name.startswith("blocks.")):
        return name
    _, block, part, *rest = name.split(".")
    if part == "runs":
        run, *inner = rest
        return ".".join(["blocks", str(int(block) * repeats + int(run)), *inner])
    return ".".join(["blocks", str(int(block) * repeats), part, *rest])


def _cannot(architecture: str, why: str) -> InvalidSpec:
    return InvalidSpec.for_field(
        "/student/architecture",
        f"a potstill_vit cannot express {architecture} with these arguments ({why}); use a plain vit_* or deit_*, "
        "or another method",
    )
