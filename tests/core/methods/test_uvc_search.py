"""The pruning make_search of UVC: budget, prices and steps."""

import pytest
import timm
import torch

from core.losses import smallest_groups
from core.methods.uvc_search import Norms, PruningSearch
from core.models.pruned import VitSize

ALL = ("heads", "dims", "hidden", "blocks")
ARGUMENTS = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 3, "embed_dim": 12, "depth": 3}


@pytest.fixture
def blocks():
    torch.manual_seed(0)
    module = timm.create_model("potstill_vit", **ARGUMENTS, num_heads=3)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.requires_grad_(False).blocks


@pytest.fixture
def make_search(blocks):
    module = timm.create_model("potstill_vit", **ARGUMENTS, num_heads=3)

    def make(budget=0.5, parts=ALL):
        return PruningSearch(VitSize.from_module(module), budget=budget, parts=parts)

    return make


def test_remaining_operations_equal_those_of_the_pruned_model(make_search):
    search = make_search()
    size = search.size
    gates = torch.tensor([[-50.0, 50.0], [50.0, -50.0], [-50.0, 50.0]])
    heads = torch.tensor([1 / 3, 0, 2 / 3])
    dims = torch.tensor([[0.5, 0.5, 0.5], [0, 0, 0], [0.25, 0.25, 0.25]])
    stays = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 1.0]])
    hidden = torch.tensor([0.5, 0, 0.75])

    left = search.flops_fraction(heads=heads, dims=dims, hidden=hidden, gates=gates, stays_LH=stays)

    counted = size.outer_flops + size.block_flops((2, 2), 24) + size.block_flops((3,), 12)
    assert left.item() == pytest.approx(counted / search.total_flops, rel=1e-5)


def test_above_the_budget_shares_and_prices_increase_and_pruned_groups_shrink(make_search, blocks):
    search = make_search(budget=0.3)
    before = Norms.from_blocks(blocks, search.size)

    for _ in range(20):
        search.update(blocks, None, num_steps=40)

    after = Norms.from_blocks(blocks, search.size)
    assert all(bool((share > 0).all()) for share in (search.heads, search.hidden))
    assert search.budget_price > 0
    assert bool((search.hidden_price > 1e-3).all())
    assert bool((search.gates[:, 1] < 1).all())
    shrunk = after.hidden / before.hidden
    least, most = before.hidden[0].argmin(), before.hidden[0].argmax()
    assert shrunk[0, least] < 0.99
    assert shrunk[0, most] == 1


def test_within_the_budget_nothing_is_pruned(make_search, blocks):
    search = make_search(budget=0.99)
    before = Norms.from_blocks(blocks, search.size)

    search.update(blocks, None, num_steps=10)

    assert not search.heads.any()
    assert not search.hidden.any()
    assert search.budget_price == 0
    assert torch.equal(Norms.from_blocks(blocks, search.size).hidden, before.hidden)


def test_a_step_matches_the_papers_formulas(make_search, blocks):
    """One step of 100 with hidden units only, at a budget price of 1.5."""
    search = make_search(parts=("hidden",))
    search.budget_price.fill_(1.5)
    search.hidden.copy_(torch.tensor([0.0, 0.5, 0.9]))
    search.hidden_price.copy_(torch.tensor([0.1, 0.2, 0.3]))
    expected, prices = [], []
    keeps = torch.softmax(torch.tensor([-1.0, 1.0]), 0)[1].item()
    for block, share, price in zip(blocks, [0.0, 0.5, 0.9], [0.1, 0.2, 0.3], strict=True):
        columns = sorted(block.mlp.fc2.weight.square().sum(dim=0).tolist())
        gone = [0, 24, 44][len(expected)]  # of 48
        pull = -3 * keeps * search.size.block_part_flops[2] / search.total_flops
        gradient = price * columns[gone] * 48 / sum(columns) + 1.5 * pull
        expected.append(min(max(share - 4.0 / 100 * gradient, 0.0), 1 - 1 / 48))
        prices.append(price + 4.0 / 100 * sum(columns[:gone]) / sum(columns))

    search.update(blocks, None, num_steps=100)

    assert search.hidden.tolist() == pytest.approx(expected, rel=1e-5)
    assert search.hidden_price.tolist() == pytest.approx(prices, rel=1e-5)
    assert not search.heads.any()


def test_the_gradient_of_the_loss_selects_the_blocks(make_search, blocks):
    search = make_search(budget=0.4, parts=("blocks",))
    gradient = torch.tensor([[0.0, 0.0], [0.5, -0.5], [-0.5, 0.5]])  # the second is needed, the third is in the way

    for _ in range(30):
        search.update(blocks, gradient, num_steps=40)
    search.finalize(blocks)

    assert search.keep.tolist() == [0.0, 1.0, 0.0]
    assert [block.index for block in search.retained_blocks()] == [1]


def test_the_groups_with_the_largest_norms_remain(make_search, blocks):
    search = make_search(budget=0.4, parts=("heads", "dims", "hidden"))

    search.finalize(blocks)

    norms = Norms.from_blocks(blocks, search.size)
    for block in search.retained_blocks():
        units = set(norms.hidden[block.index].topk(len(block.hidden)).indices.tolist())
        heads = set(norms.heads[block.index].topk(len(block.dims)).indices.tolist())
        assert set(block.hidden) == units
        assert set(block.dims) == heads
        for head, dims in block.dims.items():
            assert set(dims) == set(norms.dims[block.index, head].topk(len(dims)).indices.tolist())


def test_a_share_selects_the_smallest_groups_rounded_up(blocks, make_search):
    search = make_search()
    norms = Norms.from_blocks(blocks, search.size)

    total, following = smallest_groups(norms.heads, torch.full((3,), 1.2))

    ordered = norms.heads.sort(dim=1).values
    torch.testing.assert_close(total, ordered[:, :2].sum(dim=1))
    torch.testing.assert_close(following, ordered[:, 2])
