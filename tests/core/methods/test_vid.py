"""Variational information distillation: official value and trained variances."""

import pytest
import torch

from core.methods.vid import Prediction
from core.models.taps import FeatureRequest


def tokens(image):
    return image.flatten(2).transpose(1, 2)


def test_a_prediction_matches_the_official_code(filled):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 6, 4, 4).requires_grad_(), torch.randn(2, 9, 4, 4)
    prediction = Prediction(6, 9, variance=5.0)
    filled(prediction.mean)

    loss = prediction(tokens(student), tokens(teacher))

    assert loss.item() == pytest.approx(0.9131374479919641, rel=1e-5)
    assert torch.autograd.grad(loss, student)[0].norm().item() == pytest.approx(4.11535808326875e-05, rel=1e-4)


@pytest.mark.parametrize("variance", [1e-3, 1.0, 5.0, 1e4])
def test_variances_start_at_the_given_value(variance):
    torch.testing.assert_close(Prediction(2, 3, variance=variance).variance, torch.full((3,), variance))


def test_variances_follow_the_error_of_each_channel():
    prediction = Prediction(2, 2, variance=1.0)
    guess = torch.randn(1, 8, 2)
    error = torch.tensor([0.1, 10.0])

    (gradient,) = torch.autograd.grad(prediction(guess, prediction.mean(guess) + error), prediction.scale)

    assert gradient[0] > 0 > gradient[1]  # the first channel's variance falls, the second's grows


def test_predictions_of_all_pairs_are_summed_on_the_coarser_grid(make_harness, batch):
    harness = make_harness("vid", teachers=("cnn",), layers=[(1, 1), (3, 3)])
    student, teacher = harness.student_outputs(batch.images), harness.teachers[0](batch.images)

    found = harness.terms(batch)["information"].item()

    expected = 0.0
    for (s, t), prediction in zip(harness.method.pairs, harness.method.predictions, strict=True):
        own, teacher_values = student.levels[s].map, teacher.levels[t].map
        grid = min(own.shape[2:], teacher_values.shape[2:])
        pooled = (torch.nn.functional.adaptive_avg_pool2d(image, grid) for image in (own, teacher_values))
        expected += prediction(*map(tokens, pooled)).item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_four_pairs_are_compared_by_default(make_harness):
    method = make_harness("vid").method

    assert method.student_taps == FeatureRequest(levels=(0, 1, 2, 3))
    assert method.teacher_taps == FeatureRequest(levels=(1, 2, 4, 5))
