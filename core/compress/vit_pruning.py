"""Structured pruning of a trained ViT: fewer heads, hidden units and blocks, and a narrower residual stream.

The result is a ``potstill_vit``; where all blocks remain equal and timm's own ViT can express it, it is that one.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from core.compress.pruning_target import PruningTarget, least_fraction, measured
from core.compress.vit_form import flexible_form, plain_form
from core.compress.vit_importance import VitImportance
from core.compress.vit_shape import VitPart, VitShape, select_shape, smallest_shape
from core.errors import InvalidSpec
from core.models.built import BuiltModel
from core.models.flexible import FLEXIBLE
from core.models.pruned import prune
from potstill_models import PotstillVit


@dataclass(frozen=True, slots=True)
class PrunedModel:
    """A pruned model, still without fine-tuning, and the sizes of its parts for the report."""

    model: BuiltModel
    shape: dict[str, Any]


class TargetUnreachable(Exception):
    """No pruning reaches the target; ``smallest`` is the measure of the smallest model."""

    def __init__(self, smallest: float) -> None:
        super().__init__(f"the smallest model has {smallest:g}")
        self.smallest = smallest


def check_prunable(built: BuiltModel, parts: Collection[VitPart]) -> BuiltModel:
    """Return :func:`flexible_form` of a ViT that can be pruned; raises ``InvalidSpec`` with a pointer of the spec."""
    flexible = flexible_form(built)
    module = flexible.module
    assert isinstance(module, PotstillVit)
    options = module.options
    if options.multiplexed:
        raise _unsupported("its blocks share their weights, and pruning one changes all; prune before sharing")
    if options.merged_tokens is not None:
        raise _unsupported("it merges tokens; prune before merging")
    if options.local_blocks or options.wide_last is not None or options.heads_per_block is not None:
        raise _unsupported("its method builds blocks of different kinds; leave out prune, or change the method")
    if "width" in parts and (options.stem != "patch" or options.lift_width is not None):
        raise _unsupported("its stem or its projection fixes the width; leave width out of parts")
    return flexible


def smallest_measure(flexible: BuiltModel, target: PruningTarget, parts: Collection[VitPart]) -> float:
    """Return the target's measure of the smallest model that pruning of ``parts`` can reach."""
    return _measure(flexible, target, smallest_shape(flexible, parts))


def prune_vit(
    built: BuiltModel, importance: VitImportance, target: PruningTarget, parts: Collection[VitPart]
) -> PrunedModel:
    """Remove the same fraction of every part, as little as reaches the target.

    ``importance`` belongs to :func:`check_prunable` of ``built``. Hidden units are restored as far as the target
    allows, because heads, blocks and width are coarse. Raises :class:`TargetUnreachable`.
    """
    flexible = check_prunable(built, parts)

    counted: dict[str, float] = {}

    def measure(shape: VitShape) -> float:
        """Count each size once: many fractions give the same."""
        key = json.dumps(shape.arguments(flexible), sort_keys=True)
        if key not in counted or target.measure == "latency_ms":
            counted[key] = _measure(flexible, target, shape)
        return counted[key]

    def shape(fraction: float, hidden: float | None = None) -> VitShape:
        fractions = dict.fromkeys(parts, fraction)
        return select_shape(importance, fractions if hidden is None else {**fractions, "hidden": hidden})

    fraction = least_fraction(lambda f: measure(shape(f)), target.limit)
    if fraction is None:
        raise TargetUnreachable(measure(shape(1.0)))
    selected = shape(fraction)
    if "hidden" in parts and target.measure != "latency_ms":
        hidden = least_fraction(lambda f: measure(shape(fraction, f * fraction)), target.limit)
        if hidden is not None:
            selected = shape(fraction, hidden * fraction)
    pruned = prune(flexible, selected.pruned_blocks(flexible), width=selected.width)
    return PrunedModel(plain_form(pruned, built), selected.to_json())


def _measure(flexible: BuiltModel, target: PruningTarget, shape: VitShape) -> float:
    return measured(target.measure, FLEXIBLE, shape.arguments(flexible), flexible.preprocessing)


def _unsupported(detail: str) -> InvalidSpec:
    return InvalidSpec.for_field("", f"this student cannot be pruned: {detail}")
