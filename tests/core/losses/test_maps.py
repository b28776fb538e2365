"""Losses of spatial maps: literal sums, different grids, and invariances."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from core.losses import (
    attention_transfer,
    hierarchical_context,
    masked_generation,
    neuron_selectivity,
    target_aware,
    unit_difference,
)
from tests.support.golden import draw

STEADY = settings(deadline=None, derandomize=True, max_examples=30)


def maps(*shapes):
    generator = torch.Generator().manual_seed(11)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("power", [1, 2, 3])
def test_attention_transfer_equals_the_literal_sum_over_positions(power):
    student, teacher = maps((2, 3, 2, 2), (2, 5, 2, 2))
    total = 0.0
    for b in range(2):
        units = []
        for features in (student[b], teacher[b]):
            attention = [(features[:, y, x] ** power).mean().item() for y in range(2) for x in range(2)]
            units.append([entry / math.hypot(*attention) for entry in attention])
        total += sum((s - t) ** 2 for s, t in zip(*units, strict=True))

    assert attention_transfer(student, teacher, power=power).item() == pytest.approx(total / 8, rel=1e-4)


def test_neuron_selectivity_equals_the_literal_sum_over_pairs_of_channels():
    student, teacher = maps((2, 3, 2, 2), (2, 5, 2, 2))
    s, t = (F.normalize(features.flatten(2), dim=2).double() for features in (student, teacher))

    def kernel(a, b):
        terms = [
            (a[n, i] @ b[n, j]).item() ** 2 for n in range(2) for i in range(a.shape[1]) for j in range(b.shape[1])
        ]
        return sum(terms) / len(terms)

    expected = kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)

    assert neuron_selectivity(student, teacher).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [attention_transfer, neuron_selectivity])
@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_the_larger_map_is_pooled_to_the_grid_of_the_smaller(loss, larger):
    student, teacher = maps((2, 3, 4, 4), (2, 5, 4, 4))
    if larger == "student":
        pair, pooled = (student, teacher[:, :, :2, :2]), (F.avg_pool2d(student, 2), teacher[:, :, :2, :2])
    else:
        pair, pooled = (student[:, :, :2, :2], teacher), (student[:, :, :2, :2], F.avg_pool2d(teacher, 2))

    torch.testing.assert_close(loss(*pair), loss(*pooled))


@pytest.mark.parametrize("loss", [attention_transfer, neuron_selectivity])
@STEADY
@given(scale=st.floats(0.01, 100))
def test_losses_are_invariant_to_the_scale_of_the_maps(loss, scale):
    student, teacher = maps((2, 3, 2, 2), (2, 5, 2, 2))

    assert loss(scale * student, teacher).item() == pytest.approx(loss(student, teacher).item(), rel=1e-3)


@pytest.mark.parametrize("loss", [attention_transfer, neuron_selectivity])
def test_losses_are_invariant_to_the_order_of_the_channels(loss):
    student, teacher = maps((2, 3, 2, 2), (2, 5, 2, 2))

    torch.testing.assert_close(loss(student.flip(1), teacher), loss(student, teacher))


@pytest.mark.parametrize(
    ("size", "grids"),
    [(8, {4: 0.5, 2: 0.25, 1: 0.125}), (4, {2: 0.5, 1: 0.25}), (2, {1: 0.5}), (1, {})],
)
def test_hierarchical_context_halves_the_weight_of_each_coarser_grid(size, grids):
    student, teacher = maps((2, 3, size, size), (2, 3, size, size))
    expected = F.mse_loss(student, teacher)
    for grid, weight in grids.items():
        blocks = [F.avg_pool2d(features, size // grid) for features in (student, teacher)]
        expected = expected + weight * F.mse_loss(*blocks)

    value = hierarchical_context(student, teacher)

    torch.testing.assert_close(value, expected / (1 + sum(grids.values())))


@pytest.mark.parametrize("heads", [1, 2])
def test_target_aware_equals_the_literal_attention_of_pixels(heads):
    query, key, value, target = maps(*[(2, 4, 2, 3)] * 4)
    total, width = 0.0, 4 // heads
    for b in range(2):
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            q, k, v, t = (features[b, part].flatten(1).T for features in (query, key, value, target))
            for pixel in range(6):
                weights = [math.exp((q[pixel] @ k[j]).item()) for j in range(6)]
                made = sum(w / sum(weights) * v[j] for j, w in enumerate(weights))
                total += (made - t[pixel]).square().sum().item()

    assert target_aware(query, key, value, target, heads=heads).item() == pytest.approx(total / 48, rel=1e-4)


def test_target_aware_has_gradients_only_for_query_and_value():
    tensors = [features.requires_grad_() for features in maps(*[(2, 4, 2, 2)] * 4)]
    query, key, value, target = tensors

    target_aware(query, key, value, target).backward()

    assert query.grad.norm() > 0
    assert value.grad.norm() > 0
    assert key.grad is None
    assert target.grad is None


def test_only_visible_entries_have_an_influence():
    student, teacher = maps((2, 3, 2, 2), (2, 3, 2, 2))
    keep = torch.tensor([1.0, 0.0, 1.0]).view(1, 3, 1, 1)

    value = masked_generation(student.requires_grad_(), teacher, nn.Identity(), nn.Identity(), keep, alpha=0.3)
    value.backward()

    expected = 0.3 * ((student * keep - teacher) ** 2).sum() / 2
    torch.testing.assert_close(value, expected)
    assert student.grad[:, 1].norm() == 0
    assert student.grad[:, 0].norm() > 0


def test_the_mean_of_the_generation_error_times_the_entries_of_a_map_is_its_sum():
    student, teacher = maps((2, 3, 4, 5), (2, 3, 4, 5))

    def error(reduction, alpha):
        modules = nn.Identity(), nn.Identity()
        return masked_generation(student, teacher, *modules, torch.ones(1), alpha=alpha, reduction=reduction)

    torch.testing.assert_close(error("sum", 0.2), error("mean", 0.2 * 3 * 4 * 5))


def test_a_generated_map_of_another_shape_is_rejected():
    student, teacher = maps((2, 3, 2, 2), (2, 5, 2, 2))

    with pytest.raises(ValueError, match="the teacher's shape"):
        masked_generation(student, teacher, nn.Identity(), nn.Identity(), torch.ones(1), alpha=1.0)


def test_fused_maps_of_different_widths_are_rejected():
    with pytest.raises(ValueError, match="same shape"):
        hierarchical_context(*maps((2, 3, 2, 2), (2, 5, 2, 2)))


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="do not divide"):
        target_aware(*maps(*[(2, 4, 2, 2)] * 4), heads=3)


def test_target_aware_rejects_different_grids():
    query, key = maps((2, 4, 2, 2), (2, 4, 3, 3))

    with pytest.raises(ValueError, match="same shape"):
        target_aware(query, key, query, key)


def test_unit_differences_match_the_official_code_of_scalekd():
    torch.manual_seed(0)
    tokens, teacher = draw(4, 16, 8, scale=2.0).requires_grad_(), draw(4, 8, 4, 4)
    student = tokens.mT.reshape(4, 8, 4, 4)

    direct = 0.08 * unit_difference(student, teacher)
    without_mean = 0.06 * unit_difference(student, teacher, remove_mean=True)
    (direct + without_mean).backward()

    assert direct.item() == pytest.approx(2.4613693, rel=1e-5)
    assert without_mean.item() == pytest.approx(1.8541089, rel=1e-5)
    assert tokens.grad.norm().item() == pytest.approx(0.10831165, rel=1e-5)


def test_unit_differences_without_the_mean_ignore_a_shift_of_each_channel():
    student, teacher = maps((2, 3, 2, 2), (2, 3, 2, 2))
    shift = torch.tensor([1.0, -2.0, 0.5])[:, None, None]

    shifted = unit_difference(student + shift, teacher - shift, remove_mean=True)

    assert shifted.item() == pytest.approx(unit_difference(student, teacher, remove_mean=True).item(), rel=1e-4)


def test_unit_differences_need_maps_of_the_same_shape():
    with pytest.raises(ValueError, match="the teacher's shape"):
        unit_difference(*maps((2, 3, 2, 2), (2, 4, 2, 2)))
