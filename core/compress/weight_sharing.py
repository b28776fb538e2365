"""Weight sharing in a trained ViT or Swin: consecutive blocks store attention and MLP once (MiniViT)."""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor

from core.compress.vit_form import flexible_form
from core.errors import InvalidSpec
from core.models.built import BuiltModel
from core.models.flexible import FLEXIBLE, adapt_to_flexible_vit
from core.models.flexible_swin import adapt_to_flexible_swin, to_flexible_swin
from core.models.meta_device import build_on_meta
from potstill_models import PotstillVit

_SIZES = ("block_heads", "block_dims", "block_hidden")


def share(built: BuiltModel, *, repeats: int, head_transforms: bool) -> BuiltModel:
    """Return the network whose blocks share attention and MLP in groups of ``repeats``, in evaluation mode.

    The weights are those of the first block of each group; norms are those of each block. Raises ``InvalidSpec`` for a
    network whose blocks cannot be shared; a module on the meta device is enough for that.
    """
    options = {"repeats": repeats, "head_transforms": head_transforms, "transform_start": "identity"}
    if isinstance(built.module, SwinTransformer):
        return _share_swin(built, options)
    flexible = flexible_form(built)
    module = flexible.module
    assert isinstance(module, PotstillVit)
    if module.options.multiplexed:
        raise InvalidSpec.for_field("", "the blocks of this student share their weights already; leave out share")
    if module.options.merged_tokens is not None:
        raise InvalidSpec.for_field("", "this student merges tokens; share before merging")
    depth = len(module.blocks)
    if depth % repeats:
        divisors = [str(number) for number in range(2, depth + 1) if depth % number == 0]
        fix = f"set repeats to {' or '.join(divisors)}" if divisors else "leave out share"
        raise InvalidSpec.for_field("/repeats", f"{depth} blocks cannot be split into groups of {repeats}; {fix}")
    arguments = {**flexible.arguments, **options, **_group_sizes(flexible.arguments, repeats)}
    network = _build(FLEXIBLE, arguments, like=module)
    if not _is_meta(module):
        state = module.state_dict()
        own = network.state_dict()
        adapted = adapt_to_flexible_vit(state, network)
        # The adaptation is for plain ViTs; parts outside the blocks are equal here, distillation tokens included.
        adapted |= {
            name: tensor
            for name, tensor in state.items()
            if not name.startswith("blocks.") and name in own and own[name].shape == tensor.shape
        }
        network.load_state_dict(adapted, strict=True)
    return BuiltModel(network.eval(), FLEXIBLE, arguments, built.preprocessing, built.classes)


def _share_swin(built: BuiltModel, options: dict[str, Any]) -> BuiltModel:
    if getattr(getattr(built.module, "options", None), "multiplexed", False):
        raise InvalidSpec.for_field("", "the blocks of this student share their weights already; leave out share")
    try:
        name, arguments = to_flexible_swin(built.architecture, built.arguments, **options, local_convolution=True)
    except InvalidSpec as error:
        raise InvalidSpec.for_field("/repeats", error.errors[0].detail if error.errors else error.detail) from error
    network = _build(name, arguments, like=built.module)
    if not _is_meta(built.module):
        state: dict[str, Tensor] = dict(built.module.state_dict())
        network.load_state_dict(adapt_to_flexible_swin(state, network), strict=True)
    return BuiltModel(network.eval(), name, arguments, built.preprocessing, built.classes)


def _group_sizes(arguments: Any, repeats: int) -> dict[str, Any]:
    """Return the sizes of the stored blocks. Raises ``InvalidSpec`` where blocks of one group differ in size."""
    sizes = {name: list(arguments[name]) for name in _SIZES if arguments.get(name) is not None}
    for given in sizes.values():
        groups = [given[start : start + repeats] for start in range(0, len(given), repeats)]
        if any(size != group[0] for group in groups for size in group):
            raise InvalidSpec.for_field(
                "",
                "share needs blocks of equal size, and pruning left blocks of different sizes; leave out share, or "
                'prune only {"parts": ["width"]} or {"parts": ["blocks"]}',
            )
    return {name: given[::repeats] for name, given in sizes.items()}


def _build(architecture: str, arguments: dict[str, Any], *, like: torch.nn.Module) -> torch.nn.Module:
    if _is_meta(like):
        return build_on_meta(architecture, arguments)
    with torch.random.fork_rng(devices=[]):
        network: torch.nn.Module = timm.create_model(architecture, pretrained=False, **arguments)
    return network


def _is_meta(module: torch.nn.Module) -> bool:
    return next(module.parameters()).is_meta
