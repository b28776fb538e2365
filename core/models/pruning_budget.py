"""Choose the widths of a pruned ViT: within a FLOP budget, as close as possible to the requested pruning."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from core.models.pruned import VitSize

_NUM_BISECTIONS = 24


@dataclass(frozen=True, slots=True)
class BlockTarget:
    """Fractions of a block's heads, of each head's dimensions and of its hidden units to remove.

    ``ranked_heads``: its heads, best first.
    """

    index: int
    ranked_heads: tuple[int, ...]
    heads: float = 0.0
    dims: tuple[float, ...] = ()  # by head; empty: remove none
    hidden: float = 0.0


@dataclass(frozen=True, slots=True)
class BlockWidths:
    """Widths of a pruned block: dimensions by head, for the remaining heads, and number of hidden units."""

    index: int
    dims: Mapping[int, int]
    hidden: int


def fit_widths(
    size: VitSize, targets: Sequence[BlockTarget], num_blocks: int, *, max_flops: float, parts: Collection[str]
) -> tuple[BlockWidths, ...] | None:
    """Return the widths of the remaining blocks in order, or None if the smallest model exceeds ``max_flops``.

    ``targets`` has all blocks, best first; the first ``num_blocks`` should remain. If the targets exceed the budget,
    all widths are reduced evenly; if they are below it, blocks are restored first and then all widths evenly. Every
    block retains at least one head, dimension and hidden unit. Only ``parts`` (heads, dims, hidden, blocks) are pruned.
    """

    def widths(strength: float, count: int) -> tuple[BlockWidths, ...]:
        pruned = (_widths(size, target, strength, parts) for target in targets[:count])
        return tuple(sorted(pruned, key=lambda block: block.index))

    def fits(strength: float, count: int) -> bool:
        blocks = (size.block_flops(tuple(block.dims.values()), block.hidden) for block in widths(strength, count))
        return size.outer_flops + sum(blocks) <= max_flops

    count = num_blocks if "blocks" in parts else size.depth
    while count < size.depth and fits(-1.0, count + 1):
        count += 1
    while count > 1 and "blocks" in parts and not fits(1.0, count):
        count -= 1
    if not fits(1.0, count):
        return None
    if fits(-1.0, count):
        return widths(-1.0, count)
    too_weak, sufficient = -1.0, 1.0
    for _ in range(_NUM_BISECTIONS):
        middle = (too_weak + sufficient) / 2
        too_weak, sufficient = (too_weak, middle) if fits(middle, count) else (middle, sufficient)
    return widths(sufficient, count)


def min_flops_fraction(size: VitSize, parts: Collection[str]) -> float:
    """Smallest fraction of a ViT's FLOPs that pruning of ``parts`` can reach; no lower budget can be met."""
    total = size.outer_flops + size.depth * sum(size.block_part_flops)
    smallest = _widths(size, BlockTarget(0, tuple(range(size.heads))), 1.0, parts)
    num_blocks = 1 if "blocks" in parts else size.depth
    return (size.outer_flops + num_blocks * size.block_flops(tuple(smallest.dims.values()), smallest.hidden)) / total


def _widths(size: VitSize, target: BlockTarget, strength: float, parts: Collection[str]) -> BlockWidths:
    def remaining(part: str, total: int, fraction: float) -> int:
        return _num_remaining(total, fraction, strength) if part in parts else total

    heads = sorted(target.ranked_heads[: remaining("heads", size.heads, target.heads)])
    dims = {head: remaining("dims", size.head_dim, target.dims[head] if target.dims else 0.0) for head in heads}
    return BlockWidths(target.index, dims, remaining("hidden", size.hidden, target.hidden))


def _num_remaining(total: int, fraction: float, strength: float) -> int:
    """Number that remains of ``total``: all at strength −1, all but the target fraction at 0, one at 1."""
    removed = math.ceil(fraction * total - 1e-6)
    if strength <= 0:
        return max(1, total - math.floor(removed * (1 + strength)))
    return max(1, math.ceil((total - removed) * (1 - strength)))
