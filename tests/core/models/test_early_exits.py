"""Early exits: merging, classification, and gradients of all weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core.models.early_exits import ConvExit, PatchMerging, TokenExit
from core.models.meta_device import on_meta
from core.models.taps import Feature


def feature(grid, width, num_prefix=0):
    generator = torch.Generator().manual_seed(1)
    prefix = torch.randn(2, num_prefix, width, generator=generator) if num_prefix else None
    return Feature(torch.randn(2, grid[0] * grid[1], width, generator=generator), grid, prefix)


def token_exit(grid, width, *, class_token=True, num_blocks=1):
    torch.manual_seed(0)
    return TokenExit(grid, width, 3, num_blocks=num_blocks, class_token=class_token)


@pytest.mark.parametrize(
    ("grid", "mergings"),
    [((1, 1), 0), ((7, 7), 0), ((13, 13), 0), ((14, 14), 1), ((14, 7), 0), ((28, 30), 2), ((56, 56), 3)],
)
def test_grids_are_merged_down_to_7_to_13_tokens_a_side(grid, mergings):
    assert len(token_exit(grid, 8).merging) == mergings


@pytest.mark.parametrize(
    ("grid", "activations"),
    [((14, 14), [nn.GELU]), ((28, 28), [nn.GELU, nn.Identity]), ((56, 56), [nn.GELU, nn.GELU, nn.Identity])],
)
def test_the_last_of_several_mergings_has_no_activation(grid, activations):
    assert [type(merge.activation) for merge in token_exit(grid, 8).merging] == activations


def test_a_merging_is_a_norm_a_linear_layer_and_its_activation():
    torch.manual_seed(0)
    image = torch.randn(1, 4, 2, 2)
    plain, curved = PatchMerging(4, activation=nn.Identity), PatchMerging(4)
    curved.load_state_dict(plain.state_dict())

    merged = F.layer_norm(F.pixel_unshuffle(image, 2)[0, :, 0, 0], (16,)) @ plain.reduce.weight.T

    torch.testing.assert_close(plain(image)[0, :, 0, 0], merged)
    torch.testing.assert_close(curved(image)[0, :, 0, 0], F.gelu(merged))


@pytest.mark.parametrize(("grid", "after"), [((4, 6), (2, 3)), ((5, 3), (3, 2))])
def test_merging_halves_a_grid_and_keeps_its_width(grid, after):
    torch.manual_seed(0)

    assert PatchMerging(8)(torch.randn(2, 8, *grid)).shape == (2, 8, *after)


def test_merging_combines_exactly_four_neighbors():
    torch.manual_seed(0)
    image = torch.randn(1, 4, 6, 6, requires_grad=True)

    merged = PatchMerging(4)(image)[0, :, 1, 2].sum()

    has_gradient = torch.autograd.grad(merged, image)[0].abs().sum(dim=(0, 1)) > 0
    expected = torch.zeros(6, 6, dtype=torch.bool)
    expected[2:4, 4:6] = True
    assert has_gradient.equal(expected)


def test_without_blocks_only_the_class_token_is_classified():
    level = feature((4, 4), 8, num_prefix=2)
    head = token_exit((4, 4), 8, num_blocks=0)

    torch.testing.assert_close(head(level), F.linear(level.prefix[:, 0], head.head.weight, head.head.bias))


@pytest.mark.parametrize(("num_prefix", "class_token"), [(0, True), (2, False)])
def test_without_a_class_token_the_mean_of_the_patches_is_classified(num_prefix, class_token):
    level = feature((4, 4), 8, num_prefix)
    head = token_exit((4, 4), 8, class_token=class_token, num_blocks=0)

    torch.testing.assert_close(head(level), F.linear(level.pooled, head.head.weight, head.head.bias))


def test_the_class_token_depends_on_every_patch():
    level = feature((14, 14), 8, num_prefix=1)
    level.tokens.requires_grad_()

    logits = token_exit((14, 14), 8)(level)

    assert (torch.autograd.grad(logits.sum(), level.tokens)[0].abs().sum(dim=2) > 0).all()


@pytest.mark.parametrize("width", [6, 7, 9, 10])
def test_any_width_is_divided_among_heads(width):
    assert token_exit((4, 4), width)(feature((4, 4), width)).shape == (2, 3)


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
        lambda: token_exit((14, 14), 8, num_blocks=2),
        lambda: ConvExit(8, 16, 3, num_halvings=2),
        lambda: ConvExit(8, 16, 3, num_halvings=0),
    ],
)
def test_all_weights_of_an_exit_and_its_level_have_gradients(head):
    exits, level = head(), feature((14, 14), 8, num_prefix=1)
    level.tokens.requires_grad_()

    F.cross_entropy(exits(level), torch.tensor([0, 2])).backward()

    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in exits.parameters())
    assert level.tokens.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_give_float32_logits(dtype):
    half = feature((4, 4), 8, num_prefix=1).map_tensors(lambda tensor: tensor.to(dtype))

    assert token_exit((4, 4), 8)(half).dtype == torch.float32
    assert ConvExit(8, 8, 3, num_halvings=1)(half).dtype == torch.float32


def test_exits_can_be_built_on_the_meta_device():
    with on_meta():
        heads = [token_exit((28, 28), 768), ConvExit(256, 2048, 1000, num_halvings=3)]

    assert all(tensor.is_meta for head in heads for tensor in (*head.parameters(), *head.buffers()))
