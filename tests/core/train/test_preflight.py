"""One real step on copies."""

import pytest
import torch

from core.errors import NonFiniteLoss, SpecCannotRun
from core.methods import Outputs
from core.train.preflight import preflight


def test_a_probe_measures_and_leaves_everything_as_it_was(task, training, tmp_path):
    whole = task(training(ema=0.9))
    before = {name: tensor.clone() for name, tensor in whole.student.module.state_dict().items()}

    probed = preflight(whole, tmp_path)

    after = whole.student.module.state_dict()
    assert all(after[name].equal(tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in whole.student.module.parameters())
    assert probed.step_seconds > 0
    assert probed.memory_bytes > 50e6
    assert probed.checkpoint_bytes > sum(t.numel() * 4 for t in before.values())
    assert list(tmp_path.iterdir()) == []


def test_parts_that_do_not_fit_fail_with_the_reason(task, training, tmp_path):
    def of_other_classes(images):
        return Outputs(torch.zeros(len(images), 9))

    with pytest.raises(SpecCannotRun, match="one training step with a real batch failed"):
        preflight(task(training(), method="kd", teachers=(of_other_classes,)), tmp_path)


def test_a_first_loss_that_is_not_finite_fails_at_once(task, training, tmp_path):
    def broken(images):
        return Outputs(torch.full((len(images), 4), float("inf")))

    with pytest.raises(NonFiniteLoss):
        preflight(task(training(), method="kd", teachers=(broken,)), tmp_path)
