"""Structured pruning of a trained CNN: fewer channels in every layer, by torch-pruning's dependency graph.

DepGraph (Fang et al. 2023, arXiv:2301.12900) finds the layers that have to lose a channel together. Every group loses
the same fraction of its channels, the least important ones first. The result is a ``potstill_cnn``: timm's network
with the shapes that remain.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import timm
import torch
import torch.nn.functional as F
import torch_pruning
from torch import Tensor, nn

from core.compress.pruning_target import PruningTarget, least_fraction, measured
from core.compress.vit_importance import Batches
from core.compress.vit_pruning import PrunedModel, TargetUnreachable
from core.errors import ExportFailed
from core.models.built import BuiltModel
from core.models.meta_device import build_on_meta

RESIZED = "potstill_cnn"
MAX_FRACTION = 0.95  # of the channels of every layer that are removed
_NUM_BISECTIONS = 8  # a channel of 64 is a fraction of 0.016
_TOLERANCE = 1e-3  # of the logits, between the pruned network and the one that is built again

Gradients = dict[str, Tensor]
"""Gradient of the loss by parameter; empty for the criterion ``magnitude``."""


def loss_gradients(built: BuiltModel, batches: Batches, *, poll: Callable[[], None]) -> Gradients:
    """Return the sum of the gradients of the loss over ``batches``, for the criterion ``taylor``.

    The model is in evaluation mode; its weights do not change.
    """
    module = built.module
    parameters = dict(module.named_parameters())
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for images_BCHW, labels_B in batches:
        poll()
        with torch.enable_grad():
            loss = F.cross_entropy(built(images_BCHW).float(), labels_B, reduction="sum")
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient
    return total


def smallest_channels(built: BuiltModel, target: PruningTarget) -> float:
    """Return the target's measure of the smallest CNN that pruning can reach. Raises ``ExportFailed``."""
    return _measure(built, target, _prune_channels(built, {}, _max_fraction(built)))


def prune_cnn(built: BuiltModel, gradients: Gradients, target: PruningTarget) -> PrunedModel:
    """Remove the same fraction of every layer's channels, as little as reaches the target.

    Raises:
        TargetUnreachable: Not even the smallest network reaches the target.
        ExportFailed: The network has layers that cannot be pruned.
    """
    largest = _max_fraction(built)
    meta = replace(built, module=copy.deepcopy(built.module).to("meta"))

    def measure(fraction: float) -> float:
        """Measure the network without a fraction of its channels; their number does not depend on the weights."""
        return _measure(built, target, _prune_channels(meta, {}, fraction * largest))

    fraction = least_fraction(measure, target.limit, num_bisections=_NUM_BISECTIONS)
    if fraction is None:
        raise TargetUnreachable(measure(1.0))
    pruned = _prune_channels(built, gradients, fraction * largest)
    shape = {"channels_fraction": round(1 - fraction * largest, 4)}
    return PrunedModel(_resized(built, pruned), shape)


def _max_fraction(built: BuiltModel) -> float:
    """Return the largest fraction that leaves a channel in the narrowest layer; the library skips emptied layers."""
    classifier = set(built.module.get_classifier().modules())  # type: ignore[operator]
    widths = [
        part.out_channels // (1 if part.groups == part.out_channels else part.groups)
        if isinstance(part, nn.Conv2d)
        else part.out_features
        for part in built.module.modules()
        if isinstance(part, nn.Conv2d | nn.Linear) and part not in classifier
    ]
    return min(MAX_FRACTION, 1 - 1 / min(widths) - 1e-6) if widths else 0.0


def _prune_channels(built: BuiltModel, gradients: Gradients, fraction: float) -> nn.Module:
    """Return a copy of the network without a fraction of its channels."""
    module = copy.deepcopy(built.module).eval()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_()
        if gradients:
            parameter.grad = gradients[name].clone()
    classifier = module.get_classifier()  # type: ignore[operator]
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about parameters that belong to no layer, which it handles
            pruner = torch_pruning.pruner.BasePruner(
                module,
                _example(built, module),
                importance=_importance(module, gradients),
                pruning_ratio=fraction,
                ignored_layers=[part for part in classifier.modules() if isinstance(part, nn.Linear | nn.Conv2d)],
                in_channel_groups={},  # its defaults are shared by all pruners
                out_channel_groups={},
                num_heads={},
            )
            pruner.step()
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ExportFailed(f"the channels of {built.architecture} cannot be pruned: {error}") from error
    for parameter in module.parameters():
        parameter.grad = None
    return module


def _importance(module: nn.Module, gradients: Gradients) -> Callable[[Any], Tensor | None]:
    """Return the library's score of a group of channels; a constant one on the meta device."""
    if next(module.parameters()).is_meta:
        return lambda group: torch.ones(len(group[0].idxs))
    scores = torch_pruning.importance
    score: Callable[[Any], Tensor | None] = (
        scores.GroupTaylorImportance() if gradients else scores.GroupMagnitudeImportance()
    )
    return score


def _measure(built: BuiltModel, target: PruningTarget, pruned: nn.Module) -> float:
    return measured(target.measure, RESIZED, _arguments(built, pruned), built.preprocessing)


def _arguments(built: BuiltModel, pruned: nn.Module) -> dict[str, Any]:
    """Return the arguments of the ``potstill_cnn`` that a pruned copy of ``built`` is."""
    arguments = dict(built.arguments)
    outer: dict[str, Any] = {name: arguments.pop(name) for name in ("num_classes", "in_chans") if name in arguments}
    if built.architecture == RESIZED:
        base, base_arguments = arguments["base"], arguments["base_arguments"]
    else:
        base, base_arguments = built.architecture, arguments
    original = build_on_meta(base, {**base_arguments, **outer})
    own = original.state_dict()
    shapes = {
        name: list(tensor.shape) for name, tensor in pruned.state_dict().items() if tensor.shape != own[name].shape
    }
    layers = dict(original.named_modules())
    groups = {
        name: layer.groups
        for name, layer in pruned.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.groups != layers[name].groups
    }
    return {"base": base, "base_arguments": base_arguments, "shapes": shapes, "groups": groups, **outer}


def _resized(built: BuiltModel, pruned: nn.Module) -> BuiltModel:
    """Build the ``potstill_cnn`` with the weights of a pruned network, and compare their outputs."""
    arguments = _arguments(built, pruned)
    with torch.random.fork_rng(devices=[]):
        resized = timm.create_model(RESIZED, pretrained=False, **arguments).eval()
    resized.load_state_dict(pruned.state_dict(), strict=True)
    example = _example(built, pruned)
    with torch.no_grad():
        difference = (resized(example) - pruned(example)).abs().max().item()
    if not difference <= _TOLERANCE:
        raise ExportFailed(
            f"the channels of {built.architecture} cannot be pruned: the network that timm builds differs by "
            f"{difference:.2g} from the pruned one"
        )
    return BuiltModel(resized, RESIZED, arguments, built.preprocessing, built.classes)


def _example(built: BuiltModel, module: nn.Module) -> Tensor:
    """Return an input of the network: pseudo-random numbers, the same each time."""
    size = built.preprocessing.image_size
    values = torch.rand(1, built.preprocessing.channels, size, size, generator=torch.Generator().manual_seed(0))
    return values.to(next(module.parameters()).device)
