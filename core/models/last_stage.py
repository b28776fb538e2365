"""Run the last stage of a network alone, from features of the stage before it.

The last stage of a hierarchical network includes its downsampling and the final norm. A plain ViT has four stages of a
quarter of its blocks each; its last stage runs on patch tokens only, without class token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.models.convnext import ConvNeXt
from timm.models.deit import VisionTransformerDistilled
from timm.models.regnet import RegNet
from timm.models.resnet import ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from core.models.meta_device import build_on_meta
from core.models.structure import FeatureLevel, ModelStructure
from potstill_models import PotstillVit

_PLAIN_VITS = (VisionTransformer, VisionTransformerDistilled, PotstillVit)
_NUM_STAGES = 4
_TEMPLATE_IMAGES = 2
_MODEL_ERRORS = (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError)


def stage_levels(structure: ModelStructure) -> tuple[int, int]:
    """Return the levels at the ends of the last two stages. Both are the same in a network of a single level."""
    depth = len(structure.levels)
    if not structure.is_vit:
        return max(0, depth - 2), depth - 1
    return max(0, -(-depth * (_NUM_STAGES - 1) // _NUM_STAGES) - 1), depth - 1


def run_last_stage(module: nn.Module, map_BDHW: Tensor) -> Tensor:
    """Run the last stage of ``module`` on features of the stage before; return the last features, (B, D, H, W).

    Raises ``TypeError`` for a network whose last stage is not known here.
    """
    run = _runner(module)
    if run is None:
        raise TypeError(f"the last stage of a {type(module).__name__} is not known")
    return run(module, map_BDHW)


def last_stage_input(structure: ModelStructure, arguments: Any) -> FeatureLevel | None:
    """Return the features that the last stage of ``timm.create_model(architecture, **arguments)`` reads.

    None if the stage cannot be run alone at the structure's image size, which is tried on the meta device.
    """
    if structure.last is None or len(structure.levels) < 2:
        return None
    level = structure.levels[stage_levels(structure)[0]]
    module = build_on_meta(structure.architecture, arguments)
    features = torch.empty(_TEMPLATE_IMAGES, level.width, *level.grid, device="meta")
    try:
        output = run_last_stage(module, features)
    except _MODEL_ERRORS:
        return None
    expected = (_TEMPLATE_IMAGES, structure.last.width, *structure.last.grid)
    return level if tuple(output.shape) == expected else None


def _runner(module: nn.Module) -> Callable[[Any, Tensor], Tensor] | None:
    if type(module) in _PLAIN_VITS:
        return _run_vit
    runners = {(SwinTransformer, SwinTransformerV2): _run_swin, ConvNeXt: _run_convnext, ResNet: _run_resnet,
               RegNet: _run_regnet}  # fmt: skip
    return next((run for classes, run in runners.items() if isinstance(module, classes)), None)


def _run_swin(swin: Any, map_BDHW: Tensor) -> Tensor:
    stage_BHWD = swin.layers[-1](map_BDHW.permute(0, 2, 3, 1))
    last_BHWD: Tensor = swin.norm(stage_BHWD)
    return last_BHWD.permute(0, 3, 1, 2)


def _run_convnext(convnext: Any, map_BDHW: Tensor) -> Tensor:
    last: Tensor = convnext.norm_pre(convnext.stages[-1](map_BDHW))
    return last


def _run_resnet(resnet: Any, map_BDHW: Tensor) -> Tensor:
    last: Tensor = resnet.layer4(map_BDHW)
    return last


def _run_regnet(regnet: Any, map_BDHW: Tensor) -> Tensor:
    last: Tensor = regnet.final_conv(regnet.s4(map_BDHW))
    return last


def _run_vit(vit: Any, map_BDHW: Tensor) -> Tensor:
    is_flexible = isinstance(vit, PotstillVit)
    runs = list(vit._runs() if is_flexible else vit.blocks)  # noqa: SLF001 - our own student
    tokens_BND = map_BDHW.flatten(2).transpose(1, 2)
    for run in runs[-(-len(runs) * (_NUM_STAGES - 1) // _NUM_STAGES) :]:
        tokens_BND = run(tokens_BND)
    tokens_BND = vit.norm(tokens_BND)
    last_BND: Tensor = vit.lift(tokens_BND) if is_flexible else tokens_BND
    return last_BND.transpose(1, 2).reshape(len(map_BDHW), -1, *map_BDHW.shape[2:])
