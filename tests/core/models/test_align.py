"""Features resampled to another grid and projected to another width."""

import pytest
import torch

from core.models.align import TokenProjector, coarser_grid, interpolate, map_generator, resample
from core.models.taps import Feature


def feature(height, width, prefixes=0):
    generator = torch.Generator().manual_seed(1)
    prefix = torch.randn(2, prefixes, 3, generator=generator) if prefixes else None
    return Feature(torch.randn(2, height * width, 3, generator=generator), (height, width), prefix)


def test_the_same_grid_is_unchanged():
    given = feature(4, 4)

    assert resample(given, (4, 4)) is given


def test_a_coarser_grid_averages_its_area():
    given = feature(4, 6)

    found = resample(given, (2, 3))

    expected = given.map.reshape(2, 3, 2, 2, 3, 2).mean(dim=(3, 5))
    assert found.grid == (2, 3)
    torch.testing.assert_close(found.map, expected)


def test_a_grid_of_one_position_is_the_mean():
    given = feature(3, 5)

    torch.testing.assert_close(resample(given, (1, 1)).tokens[:, 0], given.pooled)


def test_a_finer_grid_is_interpolated_between_the_tokens():
    ramp = Feature(torch.tensor([[[0.0], [1.0]]]), (1, 2))

    found = resample(ramp, (2, 4))

    torch.testing.assert_close(found.map[0, 0], torch.tensor([[0.0, 0.25, 0.75, 1.0]] * 2))


@pytest.mark.parametrize("grid", [(2, 8), (8, 8), (1, 3)])
def test_a_constant_stays_constant_on_any_grid(grid):
    flat = Feature(torch.full((2, 16, 3), 0.7), (4, 4))

    torch.testing.assert_close(resample(flat, grid).tokens, torch.full((2, grid[0] * grid[1], 3), 0.7))


@pytest.mark.parametrize("grid", [(2, 2), (8, 8)])
def test_prefix_tokens_are_unchanged(grid):
    given = feature(4, 4, prefixes=2)

    assert resample(given, grid).prefix is given.prefix


def test_the_gradient_reaches_every_token():
    given = Feature(torch.randn(1, 15, 2, requires_grad=True), (3, 5))

    resample(given, (2, 2)).tokens.sum().backward()

    assert (given.tokens.grad > 0).all()


@pytest.mark.parametrize(
    ("one", "other", "expected"), [((4, 4), (7, 7), (4, 4)), ((14, 14), (7, 7), (7, 7)), ((2, 9), (4, 4), (4, 4))]
)
def test_the_coarser_grid_has_fewer_tokens(one, other, expected):
    assert coarser_grid(one, other) == coarser_grid(other, one) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_projector_is_a_linear_layer_in_single_precision(dtype):
    torch.manual_seed(0)
    projector, tokens = TokenProjector(3, 5), feature(2, 2).tokens.to(dtype)

    found = projector(tokens)

    assert found.dtype == torch.float32
    torch.testing.assert_close(found, tokens.float() @ projector.linear.weight.T + projector.linear.bias)


def test_a_map_keeps_its_shape_and_each_position_sees_its_neighbors():
    image = torch.randn(1, 3, 7, 7).requires_grad_()

    made = map_generator(3)(image)
    (slope,) = torch.autograd.grad(made[0, :, 3, 3].sum(), image)

    seen = slope.abs().sum(dim=(0, 1)) > 0
    assert made.shape == image.shape
    assert not seen[0].any()
    assert not seen[6].any()
    assert seen[1:6, 1:6].any(dim=0).all()


def test_a_grid_that_divides_the_own_one_gets_averages_of_blocks():
    given = feature(4, 6, prefixes=2)

    found = interpolate(given, (2, 3))

    assert (found.grid, found.prefix) == ((2, 3), None)
    torch.testing.assert_close(found.map, given.map.reshape(2, 3, 2, 2, 3, 2).mean(dim=(3, 5)))


def test_another_grid_is_interpolated_from_corner_to_corner():
    given = feature(4, 4)

    found = interpolate(given, (3, 3))

    torch.testing.assert_close(found.map[:, :, ::2, ::2], given.map[:, :, ::3, ::3])
    torch.testing.assert_close(found.map[:, :, 1, 1], given.map[:, :, 1:3, 1:3].mean(dim=(2, 3)))
