"""The search for what can be pruned: its budget, its prices, its steps."""

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
def search(blocks):
    module = timm.create_model("potstill_vit", **ARGUMENTS, num_heads=3)

    def make(budget=0.5, parts=ALL):
        return PruningSearch(VitSize.of(module), budget=budget, parts=parts)

    return make


def test_what_is_left_is_counted_as_the_model_will_be(search):
    made = search()
    size = made.size
    gates = torch.tensor([[-50.0, 50.0], [50.0, -50.0], [-50.0, 50.0]])
    heads = torch.tensor([1 / 3, 0, 2 / 3])
    dims = torch.tensor([[0.5, 0.5, 0.5], [0, 0, 0], [0.25, 0.25, 0.25]])
    stays = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 1.0]])
    hidden = torch.tensor([0.5, 0, 0.75])

    left = made.operations(heads=heads, dims=dims, hidden=hidden, gates=gates, stays_LH=stays)

    counted = size.ends + size.block_flops((2, 2), 24) + size.block_flops((3,), 12)
    assert left.item() == pytest.approx(counted / made.whole, rel=1e-5)


def test_above_the_budget_shares_gates_and_prices_go_up_and_pruned_groups_shrink(search, blocks):
    made = search(budget=0.3)
    before = Norms.of(blocks, made.size)

    for _ in range(20):
        made.update(blocks, None, steps=40)

    after = Norms.of(blocks, made.size)
    assert all(bool((share > 0).all()) for share in (made.heads, made.hidden))
    assert made.budget_price > 0
    assert bool((made.hidden_price > 1e-3).all())
    assert bool((made.gates[:, 1] < 1).all())
    shrunk = after.hidden / before.hidden
    least, most = before.hidden[0].argmin(), before.hidden[0].argmax()
    assert shrunk[0, least] < 0.99
    assert shrunk[0, most] == 1


def test_within_the_budget_nothing_is_pruned_and_nothing_has_a_price(search, blocks):
    made = search(budget=0.99)
    before = Norms.of(blocks, made.size)

    made.update(blocks, None, steps=10)

    assert not made.heads.any()
    assert not made.hidden.any()
    assert made.budget_price == 0
    assert torch.equal(Norms.of(blocks, made.size).hidden, before.hidden)


def test_a_step_follows_the_paper_written_out_by_hand(search, blocks):
    """Hidden units alone, at a price of the budget of 1.5; one step of 100."""
    made = search(parts=("hidden",))
    made.budget_price.fill_(1.5)
    made.hidden.copy_(torch.tensor([0.0, 0.5, 0.9]))
    made.hidden_price.copy_(torch.tensor([0.1, 0.2, 0.3]))
    expected, prices = [], []
    keeps = torch.softmax(torch.tensor([-1.0, 1.0]), 0)[1].item()
    for block, share, price in zip(blocks, [0.0, 0.5, 0.9], [0.1, 0.2, 0.3], strict=True):
        columns = sorted(block.mlp.fc2.weight.square().sum(dim=0).tolist())
        gone = [0, 24, 44][len(expected)]  # of 48
        pull = -3 * keeps * made.size.block_parts[2] / made.whole
        gradient = price * columns[gone] * 48 / sum(columns) + 1.5 * pull
        expected.append(min(max(share - 4.0 / 100 * gradient, 0.0), 1 - 1 / 48))
        prices.append(price + 4.0 / 100 * sum(columns[:gone]) / sum(columns))

    made.update(blocks, None, steps=100)

    assert made.hidden.tolist() == pytest.approx(expected, rel=1e-5)
    assert made.hidden_price.tolist() == pytest.approx(prices, rel=1e-5)
    assert not made.heads.any()


def test_the_losss_gradient_decides_between_blocks(search, blocks):
    made = search(budget=0.4, parts=("blocks",))
    gradient = torch.tensor([[0.0, 0.0], [0.5, -0.5], [-0.5, 0.5]])  # the second is needed, the third is in the way

    for _ in range(30):
        made.update(blocks, gradient, steps=40)
    made.finalize(blocks)

    assert made.keep.tolist() == [0.0, 1.0, 0.0]
    assert [block.index for block in made.kept()] == [1]


def test_the_groups_with_the_largest_norms_stay(search, blocks):
    made = search(budget=0.4, parts=("heads", "dims", "hidden"))

    made.finalize(blocks)

    norms = Norms.of(blocks, made.size)
    for block in made.kept():
        units = set(norms.hidden[block.index].topk(len(block.hidden)).indices.tolist())
        heads = set(norms.heads[block.index].topk(len(block.dims)).indices.tolist())
        assert set(block.hidden) == units
        assert set(block.dims) == heads
        for head, dims in block.dims.items():
            assert set(dims) == set(norms.dims[block.index, head].topk(len(dims)).indices.tolist())


def test_a_share_stands_for_its_smallest_groups_rounded_up(blocks, search):
    made = search()
    norms = Norms.of(blocks, made.size)

    total, following = smallest_groups(norms.heads, torch.full((3,), 1.2))

    ordered = norms.heads.sort(dim=1).values
    torch.testing.assert_close(total, ordered[:, :2].sum(dim=1))
    torch.testing.assert_close(following, ordered[:, 2])
