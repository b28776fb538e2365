"""Preflight: one real step on copies."""

import pytest
import torch

from core.errors import NonFiniteLoss, SpecCannotRun
from core.methods import Outputs
from core.train.preflight import preflight


def test_a_preflight_measures_and_changes_nothing(make_setup, training, tmp_path):
    setup = make_setup(training(ema=0.9))
    before = {name: tensor.clone() for name, tensor in setup.student.module.state_dict().items()}

    result = preflight(setup, tmp_path)

    after = setup.student.module.state_dict()
    assert all(after[name].equal(tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in setup.student.module.parameters())
    assert result.step_seconds > 0
    assert result.memory_bytes > 50e6
    assert result.checkpoint_bytes > sum(t.numel() * 4 for t in before.values())
    assert list(tmp_path.iterdir()) == []


def test_an_incompatible_teacher_fails_with_the_reason(make_setup, training, tmp_path):
    def with_other_classes(images):
        return Outputs(torch.zeros(len(images), 9))

    with pytest.raises(SpecCannotRun, match="one training step with a real batch failed"):
        preflight(make_setup(training(), method="kd", teachers=(with_other_classes,)), tmp_path)


def test_a_non_finite_first_loss_fails(make_setup, training, tmp_path):
    def non_finite(images):
        return Outputs(torch.full((len(images), 4), float("inf")))

    with pytest.raises(NonFiniteLoss):
        preflight(make_setup(training(), method="kd", teachers=(non_finite,)), tmp_path)
