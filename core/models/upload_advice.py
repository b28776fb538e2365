"""Find the arguments that explain why the tensors of an uploaded file do not fit its model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from core.models.meta_device import build_on_meta
from core.models.weights import BUILD_ERRORS

Shapes = Mapping[str, tuple[int, ...]]
Advice = tuple[str, dict[str, Any]]  # what the file shows, and the arguments that follow from it


def explain(architecture: str, arguments: Mapping[str, Any], shapes: Shapes, module: nn.Module) -> str:
    """Return which arguments to set so that the tensors fit; empty if the shapes do not tell.

    ``shapes`` has the file's shapes by the model's names. ``module`` is the model with ``arguments``, on the meta
    device. The arguments are tried: the text says whether the file fits with all of them.
    """
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    advice = [*_input_and_head(module, shapes, own), *_tokens(module, shapes, own), *_blocks(shapes, own)]
    if not advice:
        return ""
    proposed = {name: value for _, settings in advice for name, value in settings.items()}
    reasons = "; ".join(f"{fact}: set {_assignments(settings)}" for fact, settings in advice)
    fits = _fits(architecture, {**arguments, **proposed}, shapes)
    return f"{reasons}. With {'this' if len(proposed) == 1 else 'these'} they fit" if fits else reasons


def _assignments(settings: Mapping[str, Any]) -> str:
    return " and ".join(f"arguments.{name} to {_json(value)}" for name, value in settings.items())


def _json(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _fits(architecture: str, arguments: Mapping[str, Any], shapes: Shapes) -> bool:
    try:
        module = build_on_meta(architecture, arguments)
    except BUILD_ERRORS:
        return False
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} == dict(shapes)


def _input_and_head(module: nn.Module, shapes: Shapes, own: Shapes) -> Iterator[Advice]:
    cfg = getattr(module, "pretrained_cfg", None) or {}
    for convolution in _as_tuple(cfg.get("first_conv")):
        weight = f"{convolution}.weight"
        given, expected = shapes.get(weight, ()), own.get(weight, ())
        if len(given) == len(expected) == 4 and given[1] != expected[1]:
            yield f"{weight} has {given[1]} input channels", {"in_chans": given[1]}
            break
    for classifier in _as_tuple(cfg.get("classifier")):
        weight = f"{classifier}.weight"
        if weight in shapes and shapes[weight][:1] != own.get(weight, ())[:1]:
            yield f"{weight} has {shapes[weight][0]} rows", {"num_classes": shapes[weight][0]}
            break
        if weight in own and weight not in shapes and not any(name.startswith(f"{classifier}.") for name in shapes):
            yield f"the file has no {classifier}", {"num_classes": 0}
            break


def _tokens(module: nn.Module, shapes: Shapes, own: Shapes) -> Iterator[Advice]:
    """Explain patch size, width and number of tokens of a plain ViT."""
    weight = "patch_embed.proj.weight"
    given, expected = shapes.get(weight, ()), own.get(weight, ())
    if len(given) != 4 or len(expected) != 4:
        return
    if given[0] != expected[0]:
        yield f"{weight} has {given[0]} rows", {"embed_dim": given[0]}
    if given[2:] != expected[2:] and given[2] == given[3]:
        yield f"{weight} has patches of {given[2]} pixels", {"patch_size": given[2]}
    position, own_position = shapes.get("pos_embed", ()), own.get("pos_embed", ())
    if "reg_token" in shapes and "reg_token" not in own:
        yield f"reg_token has {shapes['reg_token'][1]} tokens", {"reg_tokens": shapes["reg_token"][1]}
    if len(position) != 3 or len(own_position) != 3:
        return
    num_prefix = 0 if getattr(module, "no_embed_class", False) else int(getattr(module, "num_prefix_tokens", 0))
    side = math.isqrt(max(0, position[1] - num_prefix))
    if side * side + num_prefix == position[1]:
        size, own_side = side * given[2], math.isqrt(own_position[1] - num_prefix)
        if size != own_side * expected[2]:
            yield f"pos_embed has {position[1]} tokens at a patch size of {given[2]}", {"img_size": size}
    elif position[1] != own_position[1]:
        yield (
            f"pos_embed has {position[1]} tokens, which is no square grid and {num_prefix} more",
            {"class_token": math.isqrt(position[1]) ** 2 != position[1]},
        )


def _blocks(shapes: Shapes, own: Shapes) -> Iterator[Advice]:
    """Explain the number of blocks and their options."""
    depth, own_depth = _count(r"blocks\.(\d+)\.", shapes), _count(r"blocks\.(\d+)\.", own)
    if depth and own_depth and depth != own_depth:
        yield f"the file has {depth} blocks", {"depth": depth}
    depths, own_depths = _stage_depths(shapes), _stage_depths(own)
    if depths and len(depths) == len(own_depths) and depths != own_depths:
        yield f"the file has {depths} blocks in its stages", {"depths": depths}
    bias = "blocks.0.attn.qkv.bias"
    if own_depth and depth and (bias in shapes) != (bias in own):
        yield f"{bias} is {'there' if bias in shapes else 'missing'}", {"qkv_bias": bias in shapes}
    scale = "blocks.0.ls1.gamma"
    if own_depth and depth and (scale in shapes) != (scale in own):
        found = scale in shapes
        yield f"{scale} is {'there' if found else 'missing'}", {"init_values": 1e-5 if found else None}
    fc1, width = shapes.get("blocks.0.mlp.fc1.weight", ()), own.get("blocks.0.mlp.fc1.weight", ())
    if len(fc1) == len(width) == 2 and fc1[0] * width[1] != width[0] * fc1[1]:
        yield f"blocks.0.mlp.fc1.weight is {list(fc1)}", {"mlp_ratio": fc1[0] / fc1[1]}
    if "fc_norm.weight" in shapes and "norm.weight" in own and "fc_norm.weight" not in own:
        yield "the file has fc_norm", {"global_pool": "avg"}
    elif "fc_norm.weight" in own and "norm.weight" in shapes and "fc_norm.weight" not in shapes:
        yield "the file has no fc_norm", {"global_pool": "token"}


def _count(pattern: str, shapes: Shapes) -> int:
    return len({match[1] for name in shapes if (match := re.match(pattern, name))})


def _stage_depths(shapes: Shapes) -> list[int]:
    """Return the number of blocks of each stage: ``layers.1.blocks.0``, ``stages.1.blocks.0``; empty for others."""
    found = {
        match.groups() for name in shapes if (match := re.match(r"(?:layers|stages)\.(\d+)\.blocks\.(\d+)\.", name))
    }
    stages = sorted({int(stage) for stage, _ in found})
    return [sum(1 for stage, _ in found if int(stage) == number) for number in stages]


def _as_tuple(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())
