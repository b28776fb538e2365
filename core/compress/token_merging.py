"""Token merging in a trained ViT: the ``potstill_vit`` with the same weights that merges tokens in every block."""

from __future__ import annotations

from typing import Any

import timm
import torch

from core.compress.vit_form import flexible_form
from core.errors import InvalidSpec
from core.models.built import BuiltModel
from core.models.flexible import FLEXIBLE
from core.models.meta_device import build_on_meta
from potstill_models import PotstillVit


def merged_per_block(num_patches: int, depth: int, ratio: float) -> list[int]:
    """Return how many tokens each block merges, so that ``ratio`` of the patches is gone after the last one.

    The numbers differ by at most one, unless half of a block's tokens is less: only one of two tokens can be merged.
    """
    merged: list[int] = []
    remaining, total = num_patches, round(ratio * num_patches)
    for index in range(depth):
        share = -(-(total - sum(merged)) // (depth - index))
        merged.append(min(share, remaining // 2))
        remaining -= merged[-1]
    return merged


def check_mergeable(built: BuiltModel) -> BuiltModel:
    """Return :func:`flexible_form` of a ViT whose tokens can be merged. Raises ``InvalidSpec`` otherwise."""
    flexible = flexible_form(built)
    module = flexible.module
    assert isinstance(module, PotstillVit)
    options = module.options
    if options.multiplexed or options.local_blocks or options.wide_last is not None:
        raise InvalidSpec.for_field(
            "",
            "merge needs a ViT of plain blocks, and the blocks of this student share weights, have gates or differ in "
            "width; leave out the step merge, or the step or method that builds these blocks",
        )
    if options.merged_tokens is not None:
        raise InvalidSpec.for_field("", "this student merges tokens already; leave out one step merge")
    return flexible


def merge(built: BuiltModel, ratio: float) -> BuiltModel:
    """Return the network that merges ``ratio`` of its patch tokens, with the weights of ``built``."""
    flexible = check_mergeable(built)
    module: Any = flexible.module
    merged = merged_per_block(module.patch_embed.num_patches, len(module.blocks), ratio)
    arguments = {**flexible.arguments, "merged_tokens": merged}
    if next(module.parameters()).is_meta:
        network = build_on_meta(FLEXIBLE, arguments)
    else:
        with torch.random.fork_rng(devices=[]):
            network = timm.create_model(FLEXIBLE, pretrained=False, **arguments).eval()
        network.load_state_dict(module.state_dict(), strict=True)
    return BuiltModel(network, FLEXIBLE, arguments, built.preprocessing, built.classes)
