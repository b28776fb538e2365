"""Features that a method can capture from a network, determined on the meta device before training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from core.models import catalog
from core.models.built import BuiltModel
from core.models.meta_device import build_on_meta
from core.models.taps import Attention, Feature, FeatureRequest, Outputs, capture_attentions, run_tapped
from core.spec.methods import Family

_MODEL_ERRORS = (AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError,
            ValueError)  # fmt: skip
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
_MAX_ATTENTIONS = 1024


@dataclass(frozen=True, slots=True)
class FeatureLevel:
    """Width and grid (rows, columns) of the features at one level."""

    width: int
    grid: tuple[int, int]

    @property
    def tokens(self) -> int:
        """Number of patch tokens."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """One self-attention: width over all heads, number of heads, tokens (per window if windowed)."""

    width: int
    heads: int
    tokens: int
    windows: int  # 1: all tokens of an image attend to each other
    has_weights: bool


@dataclass(frozen=True, slots=True)
class ModelStructure:
    """The features that can be captured from a network; empty or None if unavailable."""

    architecture: str
    family: Family
    levels: tuple[FeatureLevel, ...]
    last: FeatureLevel | None
    embedding: int | None
    attentions: tuple[AttentionShape, ...]
    num_prefix_tokens: int
    has_class_token: bool
    num_batch_norms: int

    @property
    def is_vit(self) -> bool:
        """Whether all blocks work on one grid of patch tokens, with attention over all of them."""
        grids = {level.grid for level in self.levels}
        return self.family == "transformer" and len(grids) == 1 and len(self.levels) > 0


def structure_of(built: BuiltModel) -> ModelStructure:
    """Inspect a model at the image size of its preprocessing."""
    return inspect_structure(built.architecture, built.arguments, built.preprocessing.image_size)


def inspect_structure(architecture: str, arguments: Any, image_size: int) -> ModelStructure:
    """Inspect ``timm.create_model(architecture, **arguments)`` at ``image_size`` pixels a side."""
    return _inspect(architecture, json.dumps(dict(arguments), sort_keys=True), image_size)


@lru_cache(maxsize=256)
def _inspect(architecture: str, arguments: str, image_size: int) -> ModelStructure:
    options = json.loads(arguments)
    module = build_on_meta(architecture, options)
    images = torch.empty(2, int(options.get("in_chans", 3)), image_size, image_size, device="meta")
    levels = _levels(module, images)
    last = _try(module, images, FeatureRequest(last=True))
    embedding = _try(module, images, FeatureRequest(embedding=True))
    width = None if embedding is None or embedding.embedding is None else embedding.embedding.shape[1]
    return ModelStructure(
        architecture=architecture,
        family=catalog.family(architecture),
        levels=levels,
        last=None if last is None or last.last is None else _level(last.last),
        embedding=width,
        attentions=_attention_shapes(module, images),
        num_prefix_tokens=int(getattr(module, "num_prefix_tokens", 0) or 0),
        has_class_token=getattr(module, "cls_token", None) is not None,
        num_batch_norms=sum(isinstance(part, _NORMS) for part in module.modules()),
    )


def _levels(module: nn.Module, images: torch.Tensor) -> tuple[FeatureLevel, ...]:
    try:
        _, maps = module.forward_intermediates(images)  # type: ignore[operator]
    except _MODEL_ERRORS:  # some of timm's architectures do not return features
        return ()
    count = len(maps)
    outputs = _try(module, images, FeatureRequest(levels=tuple(range(count))))
    return () if outputs is None else tuple(_level(outputs.levels[index]) for index in range(count))


def _attention_shapes(module: nn.Module, images: torch.Tensor) -> tuple[AttentionShape, ...]:
    with capture_attentions(module, range(_MAX_ATTENTIONS)) as captured:
        try:
            module(images)
        except _MODEL_ERRORS:
            return ()
    return tuple(_attention_shape(captured[index], len(images)) for index in sorted(captured))


def _attention_shape(attention: Attention, num_images: int) -> AttentionShape:
    count, tokens, width = attention.query.shape
    return AttentionShape(
        width=width,
        heads=attention.heads,
        tokens=tokens,
        windows=count // num_images,
        has_weights=attention.weights is not None,
    )


def _level(feature: Feature) -> FeatureLevel:
    return FeatureLevel(feature.tokens.shape[-1], feature.grid)


def _try(module: nn.Module, images: torch.Tensor, request: FeatureRequest) -> Outputs | None:
    try:
        return run_tapped(module, images, request)
    except _MODEL_ERRORS:
        return None
