"""Hints: the official code's numbers, grids that differ, chosen layers."""

import pytest
import torch
import torch.nn.functional as F

from core.errors import InvalidSpec
from core.methods import Outputs
from core.methods.fitnets import ConvolutionalRegressor
from core.models.taps import Feature, FeatureRequest


def tokens(picture):
    return picture.flatten(2).transpose(1, 2)


@pytest.mark.parametrize(
    ("in_training", "value", "slope"),
    [(True, 1.0766757117049082, 0.005239747579098508), (False, 1.0795891275482963, 0.0010593679552224698)],
)
def test_the_convolutional_regressor_gives_the_value_of_the_official_code(filled, in_training, value, slope):
    torch.manual_seed(0)
    mine, guide = torch.randn(2, 6, 4, 4).requires_grad_(), torch.randn(2, 9, 4, 4)
    regressor = filled(ConvolutionalRegressor(6, 9)).train(in_training)

    loss = F.mse_loss(regressor(tokens(mine)), tokens(guide))

    assert loss.item() == pytest.approx(value, rel=1e-5)
    assert torch.autograd.grad(loss, mine)[0].norm().item() == pytest.approx(slope, rel=1e-4)


def test_a_hint_is_the_mean_squared_error_of_the_regression(lesson, batch):
    method = lesson("fitnets").method
    mine, guide = torch.randn(6, 16, 16), torch.randn(6, 16, 24)

    (hint,) = method.feature_terms(
        batch,
        Outputs(torch.zeros(6, 4), levels={3: Feature(mine, (4, 4))}),
        [Outputs(torch.zeros(6, 4), levels={5: Feature(guide, (4, 4))})],
    ).values()

    (regressor,) = method.regressors
    expected = (mine @ regressor.linear.weight.T + regressor.linear.bias - guide).square().sum() / guide.numel()
    assert hint.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_finer_grid_is_averaged_to_the_coarser_one(lesson, batch):
    method = lesson("fitnets").method
    finer, coarser = torch.randn(6, 16, 4, 4), torch.randn(6, 24, 2, 2)

    (hint,) = method.feature_terms(
        batch,
        Outputs(torch.zeros(6, 4), levels={3: Feature(tokens(finer), (4, 4))}),
        [Outputs(torch.zeros(6, 4), levels={5: Feature(tokens(coarser), (2, 2))})],
    ).values()

    expected = F.mse_loss(method.regressors[0](tokens(F.avg_pool2d(finer, 2))), tokens(coarser))
    assert hint.item() == pytest.approx(expected.item(), rel=1e-5)


def test_several_hints_are_averaged(lesson, batch):
    made = lesson("fitnets", layers=[(0, 1), (3, 5)], logits="none")
    both = made.terms(batch)["hint"].item()
    student, teacher = made.ask(batch.images), made.teachers[0](batch.images)

    alone = [
        F.mse_loss(regressor(student.levels[s].tokens), teacher.levels[t].tokens).item()
        for (s, t), regressor in zip(made.method.pairs, made.method.regressors, strict=True)
    ]

    assert made.method.student_taps == FeatureRequest(levels=(0, 3))
    assert made.method.teacher_taps == FeatureRequest(levels=(1, 5))
    assert both == pytest.approx(sum(alone) / 2, rel=1e-5)


def test_the_kind_of_regressor_is_chosen(lesson, batch):
    made = lesson("fitnets", regressor="convolutional", teachers=("cnn",))

    assert isinstance(made.method.regressors[0], ConvolutionalRegressor)
    assert made.terms(batch)["hint"].isfinite()


def test_a_level_that_is_not_there_is_refused(lesson):
    with pytest.raises(InvalidSpec, match="has levels 0 to 3, there is no 4"):
        lesson("fitnets", layers=[(4, 0)])
