"""The moving average of the student, and the precision of networks next to it."""

import copy

import pytest
import torch

from core.methods.ema_teacher import EmaTeacher, precision_of


def test_precision_of_follows_the_dtype_of_the_logits():
    inputs, weights = torch.ones(2, 2), torch.ones(2, 2)

    with precision_of(torch.zeros(1, dtype=torch.bfloat16)):
        assert (inputs @ weights).dtype == torch.bfloat16
    with precision_of(torch.zeros(1)):
        assert (inputs @ weights).dtype == torch.float32


def averaged(context, momentum):
    return EmaTeacher(context.student, momentum, copy.deepcopy(context.student.module))


def test_momentum_starts_low_and_grows_to_one(context):
    average = averaged(context, 0.996)
    momenta = [average.momentum_at(step, 10_000) for step in (0, 9, 5_000, 9_999)]

    assert momenta[0] == pytest.approx(2 / 11, rel=1e-4)
    assert momenta[1] == pytest.approx(11 / 20, rel=1e-4)
    assert momenta[2] == pytest.approx(0.998)
    assert momenta[3] == pytest.approx(1.0, abs=1e-6)
    assert momenta == sorted(momenta)


def test_an_average_never_trains(context):
    average = averaged(context, 0.9).train()

    assert not average.network.training
    assert not any(parameter.requires_grad for parameter in average.parameters())


def test_an_average_resumes_bit_identically_from_its_state(context):
    first, second = averaged(context, 0.9), averaged(context, 0.9)
    generator = torch.Generator().manual_seed(0)

    def moved_student():
        module = copy.deepcopy(context.student.module)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        return module

    one, other = moved_student(), moved_student()
    first.update(one, 0, 4)
    second.load_state_dict(first.state_dict())
    first.update(other, 1, 4)
    second.update(other, 1, 4)

    assert all(first.state_dict()[name].equal(value) for name, value in second.state_dict().items())
    assert not first.network.head.weight.equal(context.student.module.head.weight)
