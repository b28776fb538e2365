"""Folding: scales that follow a linear layer become part of its weights, with the same outputs."""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.layers import LayerScale

from core.models.built import BuiltModel
from core.models.flexible import FLEXIBLE


def fold_layer_scale(built: BuiltModel) -> BuiltModel:
    """Return a ``potstill_vit`` without layer scales that has the outputs of ``built``; ``built`` if it has none.

    Only of ViTs whose blocks have their own attention: shared weights have a scale for each run.
    """
    module: Any = built.module
    if built.architecture != FLEXIBLE or not built.arguments.get("init_values") or module.options.multiplexed:
        return built
    arguments = {**built.arguments, "init_values": None}
    state = dict(module.state_dict())
    for index, block in enumerate(module.blocks):
        for scale_name, layer_name in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
            scale = getattr(block, scale_name)
            assert isinstance(scale, LayerScale)
            gamma_D = state.pop(f"blocks.{index}.{scale_name}.gamma")
            weight, bias = f"blocks.{index}.{layer_name}.weight", f"blocks.{index}.{layer_name}.bias"
            state[weight] = gamma_D[:, None] * state[weight]
            if bias in state:
                state[bias] = gamma_D * state[bias]
    with torch.random.fork_rng(devices=[]):
        folded = timm.create_model(FLEXIBLE, pretrained=False, **arguments)
    folded.load_state_dict(state, strict=True)
    return BuiltModel(folded.eval(), FLEXIBLE, arguments, built.preprocessing, built.classes)
