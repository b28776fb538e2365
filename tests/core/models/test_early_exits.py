"""Heads that answer from inner levels: what they read, how they shrink it, and that all of them learns."""

import pytest
import torch
import torch.nn.functional as F

from core.models.early_exits import ConvExit, PatchMerging, TokenExit
from core.models.meta_device import on_meta
from core.models.taps import Feature


def feature(grid, width, prefixes=0):
    generator = torch.Generator().manual_seed(1)
    prefix = torch.randn(2, prefixes, width, generator=generator) if prefixes else None
    return Feature(torch.randn(2, grid[0] * grid[1], width, generator=generator), grid, prefix)


def tokens(grid, width, *, class_token=True, num_blocks=1):
    torch.manual_seed(0)
    return TokenExit(grid, width, 3, num_blocks=num_blocks, class_token=class_token)


@pytest.mark.parametrize(
    ("grid", "mergings"),
    [((1, 1), 0), ((7, 7), 0), ((13, 13), 0), ((14, 14), 1), ((14, 7), 0), ((28, 30), 2), ((56, 56), 3)],
)
def test_grids_are_merged_down_to_7_to_13_tokens_a_side(grid, mergings):
    assert len(tokens(grid, 8).merging) == mergings


@pytest.mark.parametrize(("grid", "after"), [((4, 6), (2, 3)), ((5, 3), (3, 2))])
def test_merging_halves_a_grid_and_keeps_its_width(grid, after):
    torch.manual_seed(0)

    assert PatchMerging(8)(torch.randn(2, 8, *grid)).shape == (2, 8, *after)


def test_merging_combines_exactly_four_neighbors():
    torch.manual_seed(0)
    image = torch.randn(1, 4, 6, 6, requires_grad=True)

    merged = PatchMerging(4)(image)[0, :, 1, 2].sum()

    seen = torch.autograd.grad(merged, image)[0].abs().sum(dim=(0, 1)) > 0
    expected = torch.zeros(6, 6, dtype=torch.bool)
    expected[2:4, 4:6] = True
    assert seen.equal(expected)


def test_without_blocks_only_the_class_token_is_classified():
    seen = feature((4, 4), 8, prefixes=2)
    head = tokens((4, 4), 8, num_blocks=0)

    torch.testing.assert_close(head(seen), F.linear(seen.prefix[:, 0], head.head.weight, head.head.bias))


@pytest.mark.parametrize(("prefixes", "class_token"), [(0, True), (2, False)])
def test_without_a_class_token_the_mean_of_the_patches_is_classified(prefixes, class_token):
    seen = feature((4, 4), 8, prefixes)
    head = tokens((4, 4), 8, class_token=class_token, num_blocks=0)

    torch.testing.assert_close(head(seen), F.linear(seen.pooled, head.head.weight, head.head.bias))


def test_the_class_token_depends_on_every_patch():
    seen = feature((14, 14), 8, prefixes=1)
    seen.tokens.requires_grad_()

    logits = tokens((14, 14), 8)(seen)

    assert (torch.autograd.grad(logits.sum(), seen.tokens)[0].abs().sum(dim=2) > 0).all()


@pytest.mark.parametrize("width", [6, 7, 9, 10])
def test_any_width_is_divided_among_heads(width):
    assert tokens((4, 4), width)(feature((4, 4), width)).shape == (2, 3)


@pytest.mark.parametrize(("halvings", "grid"), [(0, (4, 4)), (1, (4, 4)), (3, (5, 3)), (3, (1, 1))])
def test_maps_are_halved_to_the_last_width(halvings, grid):
    torch.manual_seed(0)
    head = ConvExit(4, 10, 3, num_halvings=halvings)
    shapes = []
    head.narrowing.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape)))

    assert head(feature(grid, 4)).shape == (2, 3)
    after = tuple(-(-side // 2**halvings) for side in grid)
    assert shapes == [(2, 10, *after)]


@pytest.mark.parametrize(
    "head",
    [
        lambda: tokens((14, 14), 8, num_blocks=2),
        lambda: ConvExit(8, 16, 3, num_halvings=2),
        lambda: ConvExit(8, 16, 3, num_halvings=0),
    ],
)
def test_all_weights_of_an_exit_and_its_level_have_gradients(head):
    exits, seen = head(), feature((14, 14), 8, prefixes=1)
    seen.tokens.requires_grad_()

    F.cross_entropy(exits(seen), torch.tensor([0, 2])).backward()

    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in exits.parameters())
    assert seen.tokens.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_give_float32_logits(dtype):
    half = feature((4, 4), 8, prefixes=1).map_tensors(lambda tensor: tensor.to(dtype))

    assert tokens((4, 4), 8)(half).dtype == torch.float32
    assert ConvExit(8, 8, 3, num_halvings=1)(half).dtype == torch.float32


def test_exits_can_be_built_on_the_meta_device():
    with on_meta():
        heads = [tokens((28, 28), 768), ConvExit(256, 2048, 1000, num_halvings=3)]

    assert all(tensor.is_meta for head in heads for tensor in (*head.parameters(), *head.buffers()))
