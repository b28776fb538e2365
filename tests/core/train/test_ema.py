"""Exponential moving average of weights."""

import pytest
import torch
from torch import nn

from core.train.ema import Ema


def test_the_decay_is_warmed_up():
    ema = Ema(nn.Linear(1, 1), 0.999)

    decays = []
    for _ in range(10_000):
        ema.update()
        decays.append(ema.current_decay())

    assert decays[0] == pytest.approx(2 / 11)
    assert decays[9] == pytest.approx(11 / 20)
    assert decays[-1] == 0.999
    assert decays == sorted(decays)


def test_an_update_moves_the_average_by_one_minus_the_decay():
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(0.0)
    ema = Ema(module, 0.5)
    module.weight.data.fill_(1.0)

    ema.update()  # decay 2/11

    assert ema.weights["weight"].item() == pytest.approx(9 / 11)
    assert module.weight.item() == 1.0


def test_initial_weights_have_no_effect_after_a_short_training():
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(100.0)
    ema = Ema(module, 0.9999)
    module.weight.data.fill_(1.0)

    for _ in range(100):
        ema.update()

    assert ema.weights["weight"].item() == pytest.approx(1.0, abs=1e-3)


def test_integer_buffers_are_copied_and_statistics_averaged():
    module = nn.BatchNorm1d(2)
    ema = Ema(module, 0.5)

    module(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    ema.update()

    assert ema.weights["num_batches_tracked"].item() == 1
    assert 0.0 < ema.weights["running_mean"][0].item() < module.running_mean[0].item()


def test_a_loaded_average_continues_identically():
    module = nn.Linear(2, 2)
    ema, other = Ema(module, 0.9), Ema(module, 0.9)
    module.weight.data.add_(1.0)
    ema.update()

    other.load(ema.weights, ema.num_updates)
    ema.update()
    other.update()

    assert all(other.weights[name].equal(ema.weights[name]) for name in ema.weights)
