"""Attention transfer: strength of features per position, at pairs of levels."""

import math

import pytest
import torch

from core.errors import InvalidSpec
from core.losses import attention_transfer, neuron_selectivity
from core.methods import Outputs, StepInfo
from core.models.taps import Feature, FeatureRequest

ONE_PATCH = ("vit_tiny_patch16_224", {"patch_size": 16, "embed_dim": 8, "depth": 2, "num_heads": 2})


def outputs(levels):
    return Outputs(torch.zeros(2, 4), levels={index: Feature(tokens, (2, 2)) for index, tokens in levels.items()})


def attention(tokens_ND, power):
    strength = [sum(x**power for x in row) / len(row) for row in tokens_ND.tolist()]
    return [x / math.hypot(*strength) for x in strength]


@pytest.mark.parametrize("power", [1, 2])
def test_the_term_is_the_mean_over_pairs_of_the_squared_distance_of_unit_maps(make_harness, batch, power):
    method = make_harness("attention_transfer", layers=[(0, 1), (3, 2)], power=power).method
    torch.manual_seed(0)
    student, teacher = {i: torch.randn(2, 4, 3) for i in (0, 3)}, {i: torch.randn(2, 4, 5) for i in (1, 2)}

    terms = method.feature_terms(batch, outputs(student), [outputs(teacher)])

    expected = 0.0
    for s, t in ((0, 1), (3, 2)):
        for b in range(2):
            units = attention(student[s][b], power), attention(teacher[t][b], power)
            expected += sum((x - y) ** 2 for x, y in zip(*units, strict=True)) / (2 * 2)  # images, pairs
    assert list(terms) == ["attention"]
    assert terms["attention"].item() == pytest.approx(expected, rel=1e-4)


def test_selectivity_compares_channels_on_the_same_pairs(make_harness, batch):
    harness = make_harness("attention_transfer", statistic="selectivity", weight=50.0)
    student, teacher = harness.student_outputs(batch.images), harness.teachers[0](batch.images)

    found = harness.terms(batch)["selectivity"].item()

    pairs = [neuron_selectivity(student.levels[s].map, teacher.levels[t].map).item() for s, t in harness.method.pairs]
    assert found == pytest.approx(50 * sum(pairs) / len(pairs), rel=1e-4)


@pytest.mark.parametrize(
    ("params", "weight"),
    [
        ({}, 1000 * (1 / 32**2 + 1 / 16**2 + 1 / 8**2)),  # the paper's, on the grids of its CIFAR recipe
        ({"statistic": "selectivity"}, 3 * 50),
        ({"weight": 2.0}, 2),
        ({"weight": 0.0}, 0),
    ],
)
def test_the_default_weight_is_that_of_the_literature_for_each_statistic(params, weight, make_harness):
    method = make_harness("attention_transfer", **params).method

    assert method.feature_weight(StepInfo()) == pytest.approx(weight, rel=1e-3)


def test_the_larger_map_is_pooled_and_its_positions_are_those_of_the_smaller(make_harness):
    method = make_harness("attention_transfer").method
    student, teacher = torch.rand(2, 3, 4, 4), torch.rand(2, 5, 2, 2)

    found = method._distance(student, teacher)

    pooled = torch.nn.functional.avg_pool2d(student, 2)
    assert found.item() == pytest.approx(4 * attention_transfer(pooled, teacher).item(), rel=1e-5)


def test_four_pairs_are_compared_by_default(make_harness):
    method = make_harness("attention_transfer").method

    assert method.student_taps == FeatureRequest(levels=(0, 1, 2, 3))
    assert method.teacher_taps == FeatureRequest(levels=(1, 2, 4, 5))


def test_levels_of_one_position_are_left_out(make_harness, batch):
    harness = make_harness("attention_transfer", teachers=("cnn",))
    teacher = harness.teachers[0](batch.images)

    assert 0 < len(harness.method.pairs) < 4
    assert all(teacher.levels[t].tokens.shape[1] > 1 for _, t in harness.method.pairs)


def test_a_requested_level_of_one_position_is_rejected(make_harness):
    with pytest.raises(InvalidSpec, match="/method/layers: one of the levels 3 and 4 has a single position"):
        make_harness("attention_transfer", teachers=("cnn",), layers=[(0, 0), (3, 4)])


@pytest.mark.parametrize(
    ("networks", "pointer"),
    [({"student": ONE_PATCH}, "/student/architecture"), ({"teachers": (ONE_PATCH,)}, "/teachers/0/architecture")],
)
def test_a_network_of_one_position_is_rejected(make_harness, networks, pointer):
    with pytest.raises(InvalidSpec) as caught:
        make_harness("attention_transfer", **networks)

    assert [error.pointer for error in caught.value.errors] == [pointer]
