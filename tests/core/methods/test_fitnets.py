"""FitNets hints: official values, different grids, chosen layers."""

import pytest
import torch
import torch.nn.functional as F

from core.errors import InvalidSpec
from core.methods import Outputs
from core.methods.fitnets import ConvolutionalRegressor
from core.models.taps import Feature, FeatureRequest


def tokens(image):
    return image.flatten(2).transpose(1, 2)


@pytest.mark.parametrize(
    ("in_training", "value", "gradient"),
    [(True, 1.0766757117049082, 0.005239747579098508), (False, 1.0795891275482963, 0.0010593679552224698)],
)
def test_the_convolutional_regressor_matches_the_official_code(filled, in_training, value, gradient):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 6, 4, 4).requires_grad_(), torch.randn(2, 9, 4, 4)
    regressor = filled(ConvolutionalRegressor(6, 9)).train(in_training)

    loss = F.mse_loss(regressor(tokens(student)), tokens(teacher))

    assert loss.item() == pytest.approx(value, rel=1e-5)
    assert torch.autograd.grad(loss, student)[0].norm().item() == pytest.approx(gradient, rel=1e-4)


def test_a_hint_is_the_mean_squared_error_of_the_regression(make_harness, batch):
    method = make_harness("fitnets").method
    student, teacher = torch.randn(6, 16, 16), torch.randn(6, 16, 24)

    (hint,) = method.feature_terms(
        batch,
        Outputs(torch.zeros(6, 4), levels={1: Feature(student, (4, 4))}),
        [Outputs(torch.zeros(6, 4), levels={2: Feature(teacher, (4, 4))})],
    ).values()

    (regressor,) = method.regressors
    expected = (student @ regressor.linear.weight.T + regressor.linear.bias - teacher).square().sum() / teacher.numel()
    assert hint.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_finer_grid_is_averaged_to_the_coarser_one(make_harness, batch):
    method = make_harness("fitnets").method
    finer, coarser = torch.randn(6, 16, 4, 4), torch.randn(6, 24, 2, 2)

    (hint,) = method.feature_terms(
        batch,
        Outputs(torch.zeros(6, 4), levels={1: Feature(tokens(finer), (4, 4))}),
        [Outputs(torch.zeros(6, 4), levels={2: Feature(tokens(coarser), (2, 2))})],
    ).values()

    expected = F.mse_loss(method.regressors[0](tokens(F.avg_pool2d(finer, 2))), tokens(coarser))
    assert hint.item() == pytest.approx(expected.item(), rel=1e-5)


def test_several_hints_are_averaged(make_harness, batch):
    harness = make_harness("fitnets", layers=[(0, 1), (3, 5)], logits="none")
    both = harness.terms(batch)["hint"].item()
    student, teacher = harness.student_outputs(batch.images), harness.teachers[0](batch.images)

    alone = [
        F.mse_loss(regressor(student.levels[s].tokens), teacher.levels[t].tokens).item()
        for (s, t), regressor in zip(harness.method.pairs, harness.method.regressors, strict=True)
    ]

    assert harness.method.student_taps == FeatureRequest(levels=(0, 3))
    assert harness.method.teacher_taps == FeatureRequest(levels=(1, 5))
    assert both == pytest.approx(sum(alone) / 2, rel=1e-5)


def test_the_middle_levels_are_paired_by_default(make_harness):
    method = make_harness("fitnets").method

    assert method.pairs == ((1, 2),)  # of 4 and 6 blocks
    assert (method.student_taps.levels, method.teacher_taps.levels) == ((1,), (2,))


def test_the_regressor_is_selected_by_its_parameter(make_harness, batch):
    harness = make_harness("fitnets", regressor="convolutional", teachers=("cnn",))

    assert isinstance(harness.method.regressors[0], ConvolutionalRegressor)
    assert harness.terms(batch)["hint"].isfinite()


def test_a_missing_level_is_rejected(make_harness):
    with pytest.raises(InvalidSpec, match="has levels 0 to 3; level 4 does not exist"):
        make_harness("fitnets", layers=[(4, 0)])
