"""Networks beside the student: their precision, and the average of its own past."""

import copy

import pytest
import torch

from core.methods.ema_teacher import EmaTeacher, precision_of


def test_a_companion_computes_in_the_precision_of_the_student():
    inputs, weights = torch.ones(2, 2), torch.ones(2, 2)

    with precision_of(torch.zeros(1, dtype=torch.bfloat16)):
        assert (inputs @ weights).dtype == torch.bfloat16
    with precision_of(torch.zeros(1)):
        assert (inputs @ weights).dtype == torch.float32


def averaged(setting, momentum):
    return EmaTeacher(setting.student, momentum, copy.deepcopy(setting.student.module))


def test_the_momentum_grows_to_one_and_forgets_first_weights_soon(setting):
    average = averaged(setting, 0.996)
    kept = [average.kept(step, 10_000) for step in (0, 9, 5_000, 9_999)]

    assert kept[0] == pytest.approx(2 / 11, rel=1e-4)
    assert kept[1] == pytest.approx(11 / 20, rel=1e-4)
    assert kept[2] == pytest.approx(0.998)
    assert kept[3] == pytest.approx(1.0, abs=1e-6)
    assert kept == sorted(kept)


def test_an_average_never_trains(setting):
    average = averaged(setting, 0.9).train()

    assert not average.network.training
    assert not any(parameter.requires_grad for parameter in average.parameters())


def test_an_average_goes_on_from_its_state_bit_by_bit(setting):
    first, second = averaged(setting, 0.9), averaged(setting, 0.9)
    generator = torch.Generator().manual_seed(0)

    def moved_student():
        module = copy.deepcopy(setting.student.module)
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
    assert not first.network.head.weight.equal(setting.student.module.head.weight)
