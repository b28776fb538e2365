"""Shapes of pruned ViTs: what remains if a fraction of the heads, hidden units, blocks or width is removed.

Shapes: L blocks, H heads, M hidden units, D width.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from core.compress.vit_importance import VitImportance
from core.models.built import BuiltModel
from core.models.pruned import PrunedBlock, value_dims

VitPart = Literal["heads", "hidden", "width", "blocks"]

_ALIGNMENTS = ((128, 8), (32, 4))
"""Sizes from which widths are multiples of a number, which matrix products are faster with."""


@dataclass(frozen=True, slots=True)
class VitShape:
    """Retained parts: heads and hidden units of each retained block, by index, and dimensions of the residual stream.

    ``width`` is None where all dimensions remain.
    """

    blocks: tuple[tuple[int, tuple[int, ...], tuple[int, ...]], ...]
    width: tuple[int, ...] | None

    def arguments(self, built: BuiltModel) -> dict[str, Any]:
        """Return the constructor arguments of the ``potstill_vit`` that ``built`` becomes."""
        module: Any = built.module
        dims = [value_dims(module.blocks[index].attn) for index, _, _ in self.blocks]
        arguments = {
            **built.arguments,
            "depth": len(self.blocks),
            "block_heads": [len(heads) for _, heads, _ in self.blocks],
            "block_dims": [[own[head] for head in heads] for own, (_, heads, _) in zip(dims, self.blocks, strict=True)],
            "block_hidden": [len(hidden) for _, _, hidden in self.blocks],
        }
        if self.width is not None:
            arguments |= {"embed_dim": len(self.width), "head_dim": module.blocks[0].attn.head_dim}
        return arguments

    def pruned_blocks(self, built: BuiltModel) -> tuple[PrunedBlock, ...]:
        """Return what to retain of each block, with all value dimensions of its heads."""
        module: Any = built.module
        blocks = []
        for index, heads, hidden in self.blocks:
            dims = value_dims(module.blocks[index].attn)
            blocks.append(PrunedBlock(index, {head: range(dims[head]) for head in heads}, hidden))
        return tuple(blocks)

    def to_json(self) -> dict[str, Any]:
        """Return the sizes, for the report."""
        return {
            "blocks": [index for index, _, _ in self.blocks],
            "heads": [len(heads) for _, heads, _ in self.blocks],
            "hidden": [len(hidden) for _, _, hidden in self.blocks],
            **({} if self.width is None else {"width": len(self.width)}),
        }


def select_shape(importance: VitImportance, fractions: dict[VitPart, float]) -> VitShape:
    """Return the shape that remains without the least important fraction of each part.

    Heads and hidden units are ranked over all remaining blocks. Each block retains at least one head and a few hidden
    units; at least one block and a few dimensions of the width remain.
    """
    depth = len(importance.blocks)
    num_blocks = max(1, depth - int(fractions.get("blocks", 0.0) * depth))
    retained = sorted(_best(importance.blocks, num_blocks))
    heads = _split([importance.heads[index] for index in retained], fractions.get("heads", 0.0), aligned=False)
    hidden = _split([importance.hidden[index] for index in retained], fractions.get("hidden", 0.0), aligned=True)
    width, total = None, len(importance.width)
    if fractions.get("width", 0.0) > 0:
        count = _aligned((1 - fractions["width"]) * total, total)
        width = None if count == total else tuple(sorted(_best(importance.width, count)))
    blocks = tuple(zip(retained, heads, hidden, strict=True))
    return VitShape(blocks, width)


def smallest_shape(built: BuiltModel, parts: Collection[VitPart]) -> VitShape:
    """Return the smallest shape that pruning of ``parts`` can reach; it does not depend on the weights."""
    module: Any = built.module
    equal = VitImportance(
        heads=tuple(torch.ones(block.attn.num_heads) for block in module.blocks),
        hidden=tuple(torch.ones(block.mlp.fc2.in_features) for block in module.blocks),
        blocks=torch.ones(len(module.blocks)),
        width=torch.ones(module.embed_dim),
    )
    return select_shape(equal, dict.fromkeys(parts, 1.0))


def _split(scores: Sequence[Tensor], fraction: float, *, aligned: bool) -> list[tuple[int, ...]]:
    """Return the retained indices of each layer: the best ``1 - fraction`` of all, at least one of each layer."""
    everything = torch.cat(list(scores))
    remaining = round((1 - fraction) * len(everything))
    best = torch.zeros(len(everything), dtype=torch.bool)
    best[_best(everything, remaining)] = True
    retained = []
    for layer, flags in zip(scores, torch.split(best, [len(layer) for layer in scores]), strict=True):
        count = int(flags.sum())
        count = _aligned(count, len(layer)) if aligned else max(1, count)
        retained.append(tuple(sorted(_best(layer, count))))
    return retained


def _best(scores: Tensor, count: int) -> list[int]:
    """Return the indices of the highest scores; of equal ones the first."""
    indices: list[int] = scores.argsort(descending=True, stable=True)[:count].tolist()
    return indices


def _aligned(count: float, total: int) -> int:
    """Round a number of units to a multiple, at least one; never above ``total``."""
    multiple = next((multiple for size, multiple in _ALIGNMENTS if total >= size), 1)
    return min(total, max(multiple, round(count / multiple) * multiple))
