"""Weights of two gradients: values of the official codes of MGDA and PCGrad, drawn from seed 0, and properties."""

import pytest
import torch

from core.losses import gradient_weights

AGREEING = {
    "min_norm": [-0.6484087169740602, -0.9373469566215193, 0.17612987792495477, -0.07002170332236399],
    "projected": [-1.5393900686305682, -2.18173267690468, 0.3670658527156686, -0.19491230993897313],
}
CONFLICTING = {
    "min_norm": [-0.5703276931995457, -0.8477481398541677, 0.1821753744072501, -0.04629177493107106],
    "projected": [-1.8751415569323533, -3.763177604937702, 1.7417178891238678, 0.4892185715931052],
}
DOMINATED = {
    "min_norm": [-0.06763268709182739, -0.08479655981063844, 0.028332531452178955, 0.03967541754245758],
    "projected": [-1.1934725165367126, -1.2371567606925964, -0.22224605083465576, -0.39420339167118074],
}


def drawn(case):
    """Both gradients: randn each; in the conflicting case 3 · the second − 2.5 · the first, else scaled."""
    torch.manual_seed(0)
    size = 16 if case is DOMINATED else 24
    task, draw = torch.randn(size), torch.randn(size)
    if case is CONFLICTING:
        return task, 3 * draw - 2.5 * task
    return task, draw * (0.05 if case is DOMINATED else 1.0)


@pytest.mark.parametrize("rule", ["min_norm", "projected"])
@pytest.mark.parametrize("case", [AGREEING, CONFLICTING, DOMINATED], ids=["agreeing", "conflicting", "dominated"])
def test_the_weighted_sum_matches_the_official_code(case, rule):
    task, distillation = drawn(case)

    weights = gradient_weights(task, distillation, rule=rule)

    combined = weights[0] * task + weights[1] * distillation
    assert combined[:4].tolist() == pytest.approx(case[rule], rel=1e-5, abs=1e-6)


def test_the_weights_of_the_shortest_combination_match_the_official_code():
    for case, expected in ((AGREEING, 0.4753369183474474), (CONFLICTING, 0.8312974479255324), (DOMINATED, 0.0)):
        weights = gradient_weights(*drawn(case), rule="min_norm")

        assert [weight.item() for weight in weights] == pytest.approx([expected, 1 - expected], abs=1e-5)


@pytest.mark.parametrize("rule", ["projected", "min_norm"])
def test_a_step_never_increases_either_loss(rule):
    """To first order: the combined gradient has no negative product with either gradient."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        task, distillation = torch.randn(2, 6, generator=generator)
        weights = gradient_weights(task, distillation - task, rule=rule)
        combined = weights[0] * task + weights[1] * (distillation - task)

        assert (combined @ task).item() >= -1e-5
        assert (combined @ (distillation - task)).item() >= -1e-5


def test_equal_norm_scales_distillation_to_the_length_of_the_label_gradient_at_most_tenfold():
    task = torch.tensor([3.0, 4.0])

    for distillation, weight in (([0.0, 2.0], 2.5), ([10.0, 0.0], 0.5), ([0.0, 1e-3], 10.0)):
        weights = gradient_weights(task, torch.tensor(distillation), rule="equal_norm")

        assert [found.item() for found in weights] == pytest.approx([1.0, weight])


@pytest.mark.parametrize("rule", ["projected", "min_norm", "equal_norm"])
def test_a_gradient_of_zeros_changes_nothing(rule):
    gradient, zeros = torch.tensor([1.0, -2.0]), torch.zeros(2)

    for pair in ((gradient, zeros), (zeros, gradient), (zeros, zeros)):
        assert [weight.item() for weight in gradient_weights(*pair, rule=rule)] == [1.0, 1.0]


def test_equal_gradients_have_one_half_each():
    gradient = torch.tensor([1.0, -2.0])

    assert [weight.item() for weight in gradient_weights(gradient, gradient, rule="min_norm")] == [0.5, 0.5]


def test_gradients_of_other_shapes_are_rejected():
    for pair in ((torch.zeros(2), torch.zeros(3)), (torch.zeros(2, 2), torch.zeros(2, 2))):
        with pytest.raises(ValueError, match="must be flat, of the same size"):
            gradient_weights(*pair, rule="projected")
