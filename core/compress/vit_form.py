"""Forms of a ViT: the ``potstill_vit`` that equals one of timm's, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

from core.errors import InvalidSpec
from core.models.built import BuiltModel
from core.models.distilled_vit import vit_dimensions
from core.models.flexible import FLEXIBLE, adapt_to_flexible_vit, to_flexible_vit
from core.models.meta_device import build_on_meta
from potstill_models import PotstillVit


def flexible_form(built: BuiltModel) -> BuiltModel:
    """Return the ``potstill_vit`` that equals a ViT, with the same weights, in evaluation mode.

    A module on the meta device gives one on the meta device. Raises ``InvalidSpec`` if there is none.
    """
    module = built.module
    if isinstance(module, PotstillVit):
        return built
    if isinstance(module, VisionTransformerDistilled):
        arguments = vit_dimensions(module, built.architecture) | {
            "num_classes": module.num_classes,
            "in_chans": module.in_chans,
            "no_embed_class": module.no_embed_class,
            "distillation_tokens": 1,
        }
    else:
        try:
            _, arguments = to_flexible_vit(built.architecture, built.arguments)
        except InvalidSpec as error:
            raise InvalidSpec.for_field(
                "",
                f"this step needs a plain ViT (vit_* or deit_*), and {built.architecture} is a "
                f"{type(module).__name__} or has parts of its own; leave the step out, or take another student",
            ) from error
    if next(module.parameters()).is_meta:
        return BuiltModel(build_on_meta(FLEXIBLE, arguments), FLEXIBLE, arguments, built.preprocessing, built.classes)
    with torch.random.fork_rng(devices=[]):
        flexible = timm.create_model(FLEXIBLE, pretrained=False, **arguments)
    state = {name.replace("head_dist.", "heads_dist.0."): tensor for name, tensor in module.state_dict().items()}
    flexible.load_state_dict(adapt_to_flexible_vit(state, flexible), strict=True)
    return BuiltModel(flexible.eval(), FLEXIBLE, arguments, built.preprocessing, built.classes)


def plain_form(flexible: BuiltModel, original: BuiltModel) -> BuiltModel:
    """Return timm's own ViT that equals a pruned one of the ViT ``original``; ``flexible`` itself if there is none."""
    module: Any = original.module
    if type(module) is not VisionTransformer:
        return flexible
    arguments = _plain_arguments(flexible, original.arguments)
    if arguments is None:
        return flexible
    shapes = {
        name: tensor.shape for name, tensor in build_on_meta(original.architecture, arguments).state_dict().items()
    }
    state = flexible.module.state_dict()
    if shapes != {name: tensor.shape for name, tensor in state.items()}:
        return flexible
    with torch.random.fork_rng(devices=[]):
        plain = timm.create_model(original.architecture, pretrained=False, **arguments)
    plain.load_state_dict(state, strict=True)
    return BuiltModel(plain.eval(), original.architecture, arguments, flexible.preprocessing, flexible.classes)


def _plain_arguments(flexible: BuiltModel, original: Mapping[str, Any]) -> dict[str, Any] | None:
    """Arguments of timm's ViT of equal blocks, with full heads that fill the width; None if blocks differ."""
    module: Any = flexible.module
    heads = {block.attn.num_heads for block in module.blocks}
    dims = {dim for block in module.blocks for dim in block.attn.value_dims}
    hidden = {block.mlp.fc2.in_features for block in module.blocks}
    head_dim = module.blocks[0].attn.head_dim
    if len(heads) > 1 or len(hidden) > 1 or dims != {head_dim} or max(heads) * head_dim != module.embed_dim:
        return None
    return {
        **original,
        "embed_dim": module.embed_dim,
        "depth": len(module.blocks),
        "num_heads": max(heads),
        "mlp_ratio": max(hidden) / module.embed_dim,
    }
