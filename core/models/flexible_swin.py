"""From an asked Swin to a ``potstill_swin`` that equals it but for what a method's student has beside.

Dimensions are read from the model itself; both are compared part by part, and what a ``potstill_swin``
cannot express is refused.
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
_PASSED_ON = ("attn_drop_rate", "drop_rate", "proj_drop_rate", "weight_init")


def swin_twin(architecture: str, arguments: Mapping[str, Any], **form: Any) -> tuple[str, dict[str, Any]]:
    """Name and full arguments of a ``potstill_swin`` that equals ``architecture``, and has ``form`` beside.

    ``form`` holds fields of ``potstill_models.SwinForm``. With none, both compute the same from the same
    weights. A ``potstill_swin`` keeps the form that it has, where ``form`` says nothing else.

    Raises:
        InvalidSpec: Not a Swin, one with parts of its own, or runs that its stages cannot be divided into.
    """
    asked: Any = build_on_meta(architecture, arguments)
    if isinstance(asked, PotstillSwin):
        full = dict(arguments)
    elif type(asked) is SwinTransformer:
        full = _plain_twin(architecture, arguments)
    else:
        raise InvalidSpec.for_field(
            "/student/architecture",
            f"this method needs a Swin of the first version (swin_*, not swinv2_*), and {architecture} is a "
            f"{type(asked).__name__}; choose one, or another method",
        )
    full |= form
    try:
        build_on_meta(FLEXIBLE_SWIN, full)
    except ValueError as error:
        raise InvalidSpec.for_field("/method/repeats", f"{architecture} cannot have this form: {error}") from error
    return FLEXIBLE_SWIN, full


def adapt_swin_state(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Weights of a plain Swin, made to fit a ``potstill_swin`` of the same dimensions.

    A shared block takes attention, positions and MLP from the first block of its group, each run the norms
    of its own block. Transforms over the heads begin at the identity and local convolutions at nothing, so
    that beside the sharing only the norm before the MLP, and the mask of unshifted runs, change what is computed.
    """
    assert isinstance(module, PotstillSwin)
    fresh = module.state_dict()
    if {name: tensor.shape for name, tensor in state.items()} == {name: own.shape for name, own in fresh.items()}:
        return dict(state)  # weights of this very form
    layers: Any = module.layers
    repeats = [module.form.runs(stage.depth) for stage in layers]
    adapted: dict[str, Tensor] = {}
    for name, own in fresh.items():
        if name.endswith((".conv_l.weight", ".conv_w.weight")):
            adapted[name] = torch.eye(own.shape[0], dtype=own.dtype)[:, :, None, None]
        elif name.endswith((".conv_l.bias", ".conv_w.bias")) or ".local.conv." in name:
            adapted[name] = torch.zeros_like(own)
        elif ".local.norm." in name:
            adapted[name] = own
        elif (source := _source(name, repeats) if module.form.multiplexed else name) in state:
            adapted[name] = state[source]
    return adapted


def _plain_twin(architecture: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the ``potstill_swin`` without form that is the asked Swin."""
    asked: Any = build_on_meta(architecture, {**arguments, "drop_path_rate": 0.0})  # as ours has it: the trainer's
    if any(len(stage.blocks) == 0 for stage in asked.layers):
        raise InvalidSpec.for_field("/student/arguments/depths", "each stage needs a block; give depths of at least 1")
    full = _dimensions(asked) | {name: value for name, value in arguments.items() if name in _PASSED_ON}
    try:
        twin: Any = build_on_meta(FLEXIBLE_SWIN, full)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise _cannot(architecture, str(error)) from error
    own = {name: tensor.shape for name, tensor in twin.state_dict().items()}
    wanted = {name: tensor.shape for name, tensor in asked.state_dict().items()}
    differing = sorted(name for name in own.keys() | wanted.keys() if own.get(name) != wanted.get(name))
    differing += [
        part for part in ("layers", "norm", "head") if repr(getattr(asked, part)) != repr(getattr(twin, part))
    ]
    if type(asked.patch_embed) is not PatchEmbed or differing:
        raise _cannot(architecture, ", ".join(differing[:3]) or "patch_embed")
    return full


def _dimensions(asked: SwinTransformer) -> dict[str, Any]:
    """Every dimension of a built Swin as arguments that build it again."""
    blocks: list[Any] = [stage.blocks[0] for stage in asked.layers]
    attentions = [block.attn for block in blocks]
    dimensions = {
        "img_size": asked.patch_embed.img_size[0],
        "patch_size": asked.patch_embed.patch_size[0],
        "in_chans": asked.in_chans,
        "num_classes": asked.num_classes,
        "global_pool": asked.global_pool,
        "embed_dim": asked.embed_dim,
        "depths": [len(stage.blocks) for stage in asked.layers],
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
    if asked.dynamic_img_size:
        dimensions["dynamic_img_size"] = True
    return dimensions


def _source(name: str, repeats: list[int]) -> str:
    """The plain Swin's name of a weight, by how often each stage's blocks run."""
    layers, stage, *inner = name.split(".")
    if layers != "layers" or inner[0] != "blocks":
        return name
    _, block, part, *rest = inner
    first = int(block) * repeats[int(stage)]
    if part == "runs":
        run, *rest = rest
        return ".".join([layers, stage, "blocks", str(first + int(run)), *rest])
    return ".".join([layers, stage, "blocks", str(first), part, *rest])


def _cannot(architecture: str, why: str) -> InvalidSpec:
    return InvalidSpec.for_field(
        "/student/architecture",
        f"a potstill_swin cannot express {architecture} with these arguments ({why}); use a plain swin_*, or another "
        "method",
    )
