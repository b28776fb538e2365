"""Convert a Swin to a ``potstill_swin`` that equals it, with the options that a method requires.

Dimensions are read from the requested model. Both models are compared part by part, and any difference is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import PatchEmbed
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from core.errors import InvalidSpec
from core.models.meta_device import build_on_meta
from potstill_models import PotstillSwin

FLEXIBLE_SWIN = "potstill_swin"
_FORWARDED_ARGUMENTS = ("attn_drop_rate", "drop_rate", "proj_drop_rate", "weight_init")


def to_flexible_swin(architecture: str, arguments: Mapping[str, Any], **options: Any) -> tuple[str, dict[str, Any]]:
    """Return name and full arguments of a ``potstill_swin`` that equals ``architecture``, with ``options`` added.

    ``options`` are fields of ``potstill_models.SwinOptions``. Without any, both models compute the same outputs from
    the same weights. A ``potstill_swin`` keeps its own options unless they are overridden.

    Raises:
        InvalidSpec: Not a Swin, one with unsupported parts, or stages that cannot be divided into ``repeats`` runs.
    """
    requested: Any = build_on_meta(architecture, arguments)
    if isinstance(requested, PotstillSwin):
        full = dict(arguments)
    elif type(requested) is SwinTransformer:
        full = _plain_arguments(architecture, arguments)
    else:
        raise InvalidSpec.for_field(
            "/student/architecture",
            f"this method needs a Swin of the first version (swin_*, not swinv2_*), and {architecture} is a "
            f"{type(requested).__name__}; choose one, or another method",
        )
    full |= options
    try:
        build_on_meta(FLEXIBLE_SWIN, full)
    except ValueError as error:
        raise InvalidSpec.for_field("/method/repeats", f"{architecture} does not support this: {error}") from error
    return FLEXIBLE_SWIN, full


def adapt_to_flexible_swin(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Adapt weights of a plain Swin to a ``potstill_swin`` of the same dimensions.

    A shared block takes attention, positions and MLP from the first block of its group, and each run the norms of its
    own block. Transforms over the heads start as identity and local convolutions as zero. So apart from the sharing,
    only the norm before the MLP and the mask of unshifted runs change the outputs.
    """
    assert isinstance(module, PotstillSwin)
    fresh = module.state_dict()
    if {name: tensor.shape for name, tensor in state.items()} == {name: own.shape for name, own in fresh.items()}:
        return dict(state)  # the weights already have these options
    layers: Any = module.layers
    repeats = [module.options.runs(stage.depth) for stage in layers]
    adapted: dict[str, Tensor] = {}
    for name, own in fresh.items():
        if name.endswith((".conv_l.weight", ".conv_w.weight")):
            adapted[name] = torch.eye(own.shape[0], dtype=own.dtype)[:, :, None, None]
        elif name.endswith((".conv_l.bias", ".conv_w.bias")) or ".local.conv." in name:
            adapted[name] = torch.zeros_like(own)
        elif ".local.norm." in name:
            adapted[name] = own
        elif (source := _source_name(name, repeats) if module.options.multiplexed else name) in state:
            adapted[name] = state[source]
    return adapted


def _plain_arguments(architecture: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the ``potstill_swin`` without options that equals the requested Swin."""
    # Without drop path, which the trainer sets.
    requested: Any = build_on_meta(architecture, {**arguments, "drop_path_rate": 0.0})
    if any(len(stage.blocks) == 0 for stage in requested.layers):
        raise InvalidSpec.for_field("/student/arguments/depths", "each stage needs a block; give depths of at least 1")
    full = _dimensions(requested) | {name: value for name, value in arguments.items() if name in _FORWARDED_ARGUMENTS}
    try:
        flexible: Any = build_on_meta(FLEXIBLE_SWIN, full)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise _unsupported(architecture, str(error)) from error
    own = {name: tensor.shape for name, tensor in flexible.state_dict().items()}
    expected = {name: tensor.shape for name, tensor in requested.state_dict().items()}
    differing = sorted(name for name in own.keys() | expected.keys() if own.get(name) != expected.get(name))
    differing += [
        part for part in ("layers", "norm", "head") if repr(getattr(requested, part)) != repr(getattr(flexible, part))
    ]
    if type(requested.patch_embed) is not PatchEmbed or differing:
        raise _unsupported(architecture, ", ".join(differing[:3]) or "patch_embed")
    return full


def _dimensions(requested: SwinTransformer) -> dict[str, Any]:
    """Read all dimensions of a built Swin, as constructor arguments."""
    blocks: list[Any] = [stage.blocks[0] for stage in requested.layers]
    attentions = [block.attn for block in blocks]
    dimensions = {
        "img_size": requested.patch_embed.img_size[0],
        "patch_size": requested.patch_embed.patch_size[0],
        "in_chans": requested.in_chans,
        "num_classes": requested.num_classes,
        "global_pool": requested.global_pool,
        "embed_dim": requested.embed_dim,
        "depths": [len(stage.blocks) for stage in requested.layers],
        "num_heads": [attention.num_heads for attention in attentions],
        "window_size": [list(block.window_size) for block in blocks],
        "mlp_ratio": [block.mlp_ratio for block in blocks],
        "qkv_bias": attentions[0].qkv.bias is not None,
    }
    head_dims = [attention.qkv.out_features // 3 // attention.num_heads for attention in attentions]
    if head_dims != [attention.dim // attention.num_heads for attention in attentions]:
        dimensions["head_dim"] = head_dims
    if blocks[0].always_partition:
        dimensions["always_partition"] = True
    if requested.dynamic_img_size:
        dimensions["dynamic_img_size"] = True
    return dimensions


def _source_name(name: str, repeats: list[int]) -> str:
    """Return the name of a weight in the plain Swin; ``repeats`` has the number of runs per stored block, by stage."""
    layers, stage, *inner = name.split(".")
    if layers != "layers" or inner[0] != "blocks":
        return name
    _, block, part, *rest = inner
    first = int(block) * repeats[int(stage)]
    if part == "runs":
        run, *rest = rest
        return ".".join([layers, stage, "blocks", str(first + int(run)), *rest])
    return ".".join([layers, stage, "blocks", str(first), part, *rest])


def _unsupported(architecture: str, reason: str) -> InvalidSpec:
    return InvalidSpec.for_field(
        "/student/architecture",
        f"a potstill_swin cannot express {architecture} with these arguments ({reason}); use a plain swin_*, or "
        "another method",
    )
