"""Widths of a pruned ViT that meet a budget of operations, as near as can be to those that were wished for."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from core.models.pruned import VitSize

_BISECTIONS = 24


@dataclass(frozen=True, slots=True)
class BlockWish:
    """Which share of a block's heads, of each head's dimensions and of its hidden units should go.

    ``ranked``: its heads, the best first.
    """

    index: int
    ranked: tuple[int, ...]
    heads: float = 0.0
    dims: tuple[float, ...] = ()  # by head; empty: none go
    hidden: float = 0.0


@dataclass(frozen=True, slots=True)
class BlockWidths:
    """How many dimensions stay of each head that stays, and how many hidden units."""

    index: int
    dims: Mapping[int, int]
    hidden: int


def fit(
    size: VitSize, wishes: Sequence[BlockWish], num_blocks: int, *, operations: float, parts: Collection[str]
) -> tuple[BlockWidths, ...] | None:
    """Widths of the blocks that stay, in their order; None where even the least is too much.

    ``wishes`` are of all blocks, the best first; the first ``num_blocks`` should stay. What is still too much is cut
    evenly from all widths; what the wishes leave unused is given back evenly, first to blocks, then to widths.
    Every block keeps one head, dimension and hidden unit. ``parts`` (heads, dims, hidden, blocks) may be cut.
    """

    def widths(evenness: float, count: int) -> tuple[BlockWidths, ...]:
        return tuple(sorted((_widths(size, wish, evenness, parts) for wish in wishes[:count]), key=lambda b: b.index))

    def fits(evenness: float, count: int) -> bool:
        blocks = (size.block_flops(tuple(block.dims.values()), block.hidden) for block in widths(evenness, count))
        return size.ends + sum(blocks) <= operations

    count = num_blocks if "blocks" in parts else size.depth
    while count < size.depth and fits(-1.0, count + 1):
        count += 1
    while count > 1 and "blocks" in parts and not fits(1.0, count):
        count -= 1
    if not fits(1.0, count):
        return None
    if fits(-1.0, count):
        return widths(-1.0, count)
    above, within = -1.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (above + within) / 2
        above, within = (above, middle) if fits(middle, count) else (middle, within)
    return widths(within, count)


def least_share(size: VitSize, parts: Collection[str]) -> float:
    """The smallest share of its operations that a ViT of this size can come down to, for fits of any budget."""
    whole = size.ends + size.depth * sum(size.block_parts)
    least = _widths(size, BlockWish(0, tuple(range(size.heads))), 1.0, parts)
    blocks = 1 if "blocks" in parts else size.depth
    return (size.ends + blocks * size.block_flops(tuple(least.dims.values()), least.hidden)) / whole


def _widths(size: VitSize, wish: BlockWish, evenness: float, parts: Collection[str]) -> BlockWidths:
    def left(part: str, total: int, share: float) -> int:
        return _left(total, share, evenness) if part in parts else total

    heads = sorted(wish.ranked[: left("heads", size.heads, wish.heads)])
    dims = {head: left("dims", size.head_dim, wish.dims[head] if wish.dims else 0.0) for head in heads}
    return BlockWidths(wish.index, dims, left("hidden", size.hidden, wish.hidden))


def _left(total: int, share: float, evenness: float) -> int:
    """``total`` less a share of it: at evenness 0 as wished, at −1 everything, at 1 a single one."""
    gone = math.ceil(share * total - 1e-6)
    if evenness <= 0:
        return max(1, total - math.floor(gone * (1 + evenness)))
    return max(1, math.ceil((total - gone) * (1 - evenness)))
