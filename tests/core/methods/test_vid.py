"""Variational information distillation: official value and trained variances."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from core.methods.vid import Prediction
from core.models.taps import FeatureRequest
from core.train.optimizer import build_optimizer


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


def test_variances_start_at_the_error_of_the_first_batch(make_harness, batch):
    harness = make_harness("vid", layers=[(1, 3)])
    student, teacher = harness.student_outputs(batch.images), harness.teachers[0](batch.images)
    (prediction,) = harness.method.predictions

    term = harness.terms(batch)["information"].item()
    first = prediction.variance.detach().clone()
    harness.terms(replace(batch, images=1 - batch.images))

    error = (prediction.mean(student.levels[1].tokens) - teacher.levels[3].tokens).square()
    expected = [sum(channel.flatten().tolist()) / channel.numel() for channel in error.unbind(dim=2)]
    assert first.tolist() == pytest.approx(expected, rel=1e-3)
    assert term == pytest.approx(sum(1 + math.log(value) for value in expected) / len(expected) / 2, abs=1e-3)
    assert prediction.variance.equal(first)  # later batches do not change it


def test_measured_variances_are_in_the_state_and_are_not_measured_again(make_harness, batch):
    first, resumed = make_harness("vid"), make_harness("vid")
    first.terms(batch)
    other = replace(batch, images=1 - batch.images)

    resumed.method.load_state_dict(first.method.state_dict())

    assert resumed.terms(other)["information"].item() == first.terms(other)["information"].item()
    assert all(
        p.variance.equal(q.variance) for p, q in zip(first.method.predictions, resumed.method.predictions, strict=True)
    )


def train(harness, optimizer, batches):
    for batch in batches:
        optimizer.zero_grad()
        sum(harness.terms(batch).values()).backward()
        optimizer.step()


def test_a_training_that_resumes_after_its_first_step_has_the_same_bits(make_harness, batch):
    batches = [replace(batch, images=batch.images.roll(shift, dims=0) ** (1 + shift)) for shift in range(3)]
    whole, first, resumed = (make_harness("vid") for _ in range(3))
    modules = [nn.ModuleList([harness.student.module, harness.method]) for harness in (whole, first, resumed)]
    optimizers = [build_optimizer([module], learning_rate=1e-2, weight_decay=0.1) for module in modules]

    train(whole, optimizers[0], batches)
    train(first, optimizers[1], batches[:1])
    modules[2].load_state_dict(modules[1].state_dict())
    optimizers[2].load_state_dict(optimizers[1].state_dict())
    train(resumed, optimizers[2], batches[1:])

    state = modules[2].state_dict()
    assert all(state[name].equal(tensor) for name, tensor in modules[0].state_dict().items())


def test_a_channel_without_variance_starts_at_a_share_of_the_others():
    prediction = Prediction(2, 4, variance=None)
    student, teacher = torch.zeros(1, 8, 2), torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(1, 8, 4)

    prediction(student, teacher)

    assert prediction.variance.tolist() == pytest.approx([0.01 * 14 / 4, 1, 4, 9], rel=1e-3)


def test_a_measured_variance_is_trained():
    prediction = Prediction(2, 2, variance=None)
    prediction(torch.ones(1, 4, 2), torch.full((1, 4, 2), 2.0))

    (gradient,) = torch.autograd.grad(prediction(torch.ones(1, 4, 2), torch.zeros(1, 4, 2)), prediction.scale)

    assert (gradient > 0).all()  # the error is smaller than at the start


def test_variances_follow_the_error_of_each_channel():
    prediction = Prediction(2, 2, variance=1.0)
    guess = torch.randn(1, 8, 2)
    error = torch.tensor([0.1, 10.0])

    (gradient,) = torch.autograd.grad(prediction(guess, prediction.mean(guess) + error), prediction.scale)

    assert gradient[0] > 0 > gradient[1]  # the first channel's variance falls, the second's grows


def test_predictions_of_all_pairs_are_summed_on_the_coarser_grid(make_harness, batch):
    harness = make_harness("vid", teachers=("cnn",), layers=[(1, 1), (3, 3)], initial_variance=5.0)
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
