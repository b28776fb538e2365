"""What a network has that a method could tap, found on the meta device before anything is trained."""

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
from core.models.taps import Attention, Feature, FeatureRequest, Outputs, run_tapped, watch_attentions
from core.spec.methods import Family

_TROUBLE = (AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError,
            ValueError)  # fmt: skip
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
_MOST_ATTENTIONS = 1024


@dataclass(frozen=True, slots=True)
class FeatureLevel:
    """Width and grid (rows, columns) of the features at one level."""

    width: int
    grid: tuple[int, int]

    @property
    def tokens(self) -> int:
        """How many patch tokens there are."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """One self-attention: width over all heads, heads, and tokens (of a window, where it is windowed)."""

    width: int
    heads: int
    tokens: int
    windows: int  # 1: all tokens of a picture see each other
    has_weights: bool


@dataclass(frozen=True, slots=True)
class ModelStructure:
    """The places of a network that can be tapped. Empty or None: there is nothing to read."""

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
        """A stack of blocks on one grid of patch tokens, each with attention over all of them."""
        grids = {level.grid for level in self.levels}
        return self.family == "transformer" and len(grids) == 1 and len(self.levels) > 0


def structure_of(built: BuiltModel) -> ModelStructure:
    """The anatomy of a model as it is fed by its own preprocessing."""
    return inspect_structure(built.architecture, built.arguments, built.preprocessing.image_size)


def inspect_structure(architecture: str, arguments: Any, image_size: int) -> ModelStructure:
    """The anatomy of ``timm.create_model(architecture, **arguments)`` at ``image_size`` pixels a side."""
    return _examine(architecture, json.dumps(dict(arguments), sort_keys=True), image_size)


@lru_cache(maxsize=256)
def _examine(architecture: str, arguments: str, image_size: int) -> ModelStructure:
    options = json.loads(arguments)
    module = build_on_meta(architecture, options)
    pictures = torch.empty(2, int(options.get("in_chans", 3)), image_size, image_size, device="meta")
    levels = _levels(module, pictures)
    last = _try(module, pictures, FeatureRequest(last=True))
    embedding = _try(module, pictures, FeatureRequest(embedding=True))
    read = None if embedding is None else embedding.embedding
    return ModelStructure(
        architecture=architecture,
        family=catalog.family(architecture),
        levels=levels,
        last=None if last is None or last.last is None else _level(last.last),
        embedding=None if read is None else read.shape[1],
        attentions=_attention_shapes(module, pictures),
        num_prefix_tokens=int(getattr(module, "num_prefix_tokens", 0) or 0),
        has_class_token=getattr(module, "cls_token", None) is not None,
        num_batch_norms=sum(isinstance(part, _NORMS) for part in module.modules()),
    )


def _levels(module: nn.Module, pictures: torch.Tensor) -> tuple[FeatureLevel, ...]:
    try:
        _, found = module.forward_intermediates(pictures)  # type: ignore[operator]
    except _TROUBLE:  # not every architecture of timm gives its features
        return ()
    count = len(found)
    outputs = _try(module, pictures, FeatureRequest(levels=tuple(range(count))))
    return () if outputs is None else tuple(_level(outputs.levels[index]) for index in range(count))


def _attention_shapes(module: nn.Module, pictures: torch.Tensor) -> tuple[AttentionShape, ...]:
    with watch_attentions(module, range(_MOST_ATTENTIONS)) as seen:
        try:
            module(pictures)
        except _TROUBLE:
            return ()
    return tuple(_attention_shape(seen[index], len(pictures)) for index in sorted(seen))


def _attention_shape(attention: Attention, pictures: int) -> AttentionShape:
    count, tokens, width = attention.query.shape
    return AttentionShape(
        width=width,
        heads=attention.heads,
        tokens=tokens,
        windows=count // pictures,
        has_weights=attention.weights is not None,
    )


def _level(feature: Feature) -> FeatureLevel:
    return FeatureLevel(feature.tokens.shape[-1], feature.grid)


def _try(module: nn.Module, pictures: torch.Tensor, wanted: FeatureRequest) -> Outputs | None:
    try:
        return run_tapped(module, pictures, wanted)
    except _TROUBLE:
        return None
