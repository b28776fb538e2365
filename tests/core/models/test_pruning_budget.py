"""Widths of a pruned ViT that meet a FLOP budget."""

import pytest

from core.models.pruned import VitSize
from core.models.pruning_budget import BlockTarget, fit_widths, min_flops_fraction

SIZE = VitSize(
    width=24, depth=4, heads=3, head_dim=8, hidden=96, tokens=17, patches=16, patch_inputs=16, num_classes=10
)
TOTAL_FLOPS = SIZE.outer_flops + 4 * sum(SIZE.block_part_flops)
ALL = ("heads", "dims", "hidden", "blocks")


def targets(**shares):
    return [BlockTarget(index, ranked_heads=(1, 0, 2), **shares) for index in (3, 0, 1, 2)]


def flops_fraction(blocks):
    return (SIZE.outer_flops + sum(SIZE.block_flops(tuple(b.dims.values()), b.hidden) for b in blocks)) / TOTAL_FLOPS


@pytest.mark.parametrize("parts", [ALL, ("heads",), ("dims", "hidden"), ("hidden",), ("blocks",), ("blocks", "dims")])
@pytest.mark.parametrize("budget", [0.1, 0.45, 0.8, 0.99])
@pytest.mark.parametrize("shares", [{}, {"heads": 0.5, "dims": (0.2, 0.9, 0.0), "hidden": 0.7}])
def test_any_targets_meet_the_budget_and_nearly_use_it(parts, budget, shares):
    widths = fit_widths(SIZE, targets(**shares), 3, max_flops=budget * TOTAL_FLOPS, parts=parts)

    if budget < min_flops_fraction(SIZE, parts):
        assert widths is None
        return
    assert flops_fraction(widths) <= budget
    coarse = 0.26 if {"heads", "blocks"} & set(parts) else 0.01  # heads and blocks are few
    assert flops_fraction(widths) > budget - coarse


def test_other_parts_are_not_pruned():
    widths = fit_widths(SIZE, targets(heads=0.6, hidden=0.5), 1, max_flops=0.8 * TOTAL_FLOPS, parts=("hidden",))

    assert [block.index for block in widths] == [0, 1, 2, 3]
    assert all(block.dims == {0: 8, 1: 8, 2: 8} and block.hidden < 96 for block in widths)


def test_the_best_heads_and_blocks_remain():
    enough = SIZE.outer_flops + 2 * SIZE.block_flops((8,), 96)

    widths = fit_widths(SIZE, targets(heads=2 / 3), 2, max_flops=enough, parts=("heads", "blocks"))

    assert [block.index for block in widths] == [0, 3]
    assert all(list(block.dims) == [1] for block in widths)


def test_a_budget_below_the_smallest_model_is_not_met():
    smallest = min_flops_fraction(SIZE, ("heads", "dims", "hidden"))

    assert (
        fit_widths(SIZE, targets(), 4, max_flops=(smallest - 1e-3) * TOTAL_FLOPS, parts=("heads", "dims", "hidden"))
        is None
    )
    (block, *_) = fit_widths(
        SIZE, targets(), 4, max_flops=(smallest + 1e-6) * TOTAL_FLOPS, parts=("heads", "dims", "hidden")
    )
    assert (list(block.dims.values()), block.hidden) == ([1], 1)
