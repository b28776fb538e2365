"""Widths that meet a budget."""

import pytest

from core.models.pruned import VitSize
from core.models.pruning_budget import BlockWish, fit, least_share

SIZE = VitSize(
    width=24, depth=4, heads=3, head_dim=8, hidden=96, tokens=17, patches=16, patch_inputs=16, num_classes=10
)
WHOLE = SIZE.ends + 4 * sum(SIZE.block_parts)
ALL = ("heads", "dims", "hidden", "blocks")


def wishes(**shares):
    return [BlockWish(index, ranked=(1, 0, 2), **shares) for index in (3, 0, 1, 2)]


def share(blocks):
    return (SIZE.ends + sum(SIZE.block_flops(tuple(b.dims.values()), b.hidden) for b in blocks)) / WHOLE


@pytest.mark.parametrize("parts", [ALL, ("heads",), ("dims", "hidden"), ("hidden",), ("blocks",), ("blocks", "dims")])
@pytest.mark.parametrize("budget", [0.1, 0.45, 0.8, 0.99])
@pytest.mark.parametrize("wished", [{}, {"heads": 0.5, "dims": (0.2, 0.9, 0.0), "hidden": 0.7}])
def test_whatever_was_wished_for_the_budget_is_met_and_nearly_used(parts, budget, wished):
    found = fit(SIZE, wishes(**wished), 3, operations=budget * WHOLE, parts=parts)

    if budget < least_share(SIZE, parts):
        assert found is None
        return
    assert share(found) <= budget
    coarse = 0.26 if {"heads", "blocks"} & set(parts) else 0.01  # there are few of them
    assert share(found) > budget - coarse


def test_what_may_not_be_pruned_stays():
    found = fit(SIZE, wishes(heads=0.6, hidden=0.5), 1, operations=0.8 * WHOLE, parts=("hidden",))

    assert [block.index for block in found] == [0, 1, 2, 3]
    assert all(block.dims == {0: 8, 1: 8, 2: 8} and block.hidden < 96 for block in found)


def test_the_best_heads_and_blocks_stay():
    enough = SIZE.ends + 2 * SIZE.block_flops((8,), 96)

    found = fit(SIZE, wishes(heads=2 / 3), 2, operations=enough, parts=("heads", "blocks"))

    assert [block.index for block in found] == [0, 3]
    assert all(list(block.dims) == [1] for block in found)


def test_even_the_least_may_be_too_much():
    least = least_share(SIZE, ("heads", "dims", "hidden"))

    assert fit(SIZE, wishes(), 4, operations=(least - 1e-3) * WHOLE, parts=("heads", "dims", "hidden")) is None
    (block, *_) = fit(SIZE, wishes(), 4, operations=(least + 1e-6) * WHOLE, parts=("heads", "dims", "hidden"))
    assert (list(block.dims.values()), block.hidden) == ([1], 1)
