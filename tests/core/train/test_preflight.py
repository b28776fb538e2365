"""Preflight: one real step on copies."""

import pytest
import torch

from core.errors import NonFiniteLoss, SpecCannotRun
from core.methods import Outputs
from core.train import preflight as preflight_module
from core.train.preflight import preflight
from core.train.trainer import TrainStep


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


@pytest.mark.parametrize(
    ("seconds", "epochs", "steps", "expected"),
    [
        ([6.8, 1.0, 0.9, 0.9], 4, 2, 1.0),  # a slow first step does not end the measurement
        ([6.8, 0.2, 0.1, 0.3], 4, 4, 0.1),
        ([0.1, 0.3, 0.3, 0.2], 4, 3, 0.3),
        ([6.8], 1, 1, 6.8),
    ],
)
def test_the_first_step_is_not_timed(make_setup, training, tmp_path, monkeypatch, seconds, epochs, steps, expected):
    """The clock advances by a step's seconds when it runs."""
    now, runs = [0.0], []

    def run(_train_step, step):
        runs.append(step)
        now[0] += seconds[step]

    monkeypatch.setattr(TrainStep, "run", run)
    monkeypatch.setattr(preflight_module.time, "perf_counter", lambda: now[0])
    batch_size = 8 if epochs > 1 else 40

    result = preflight(make_setup(training(epochs=epochs, batch_size=batch_size)), tmp_path)

    assert result.step_seconds == pytest.approx(expected)
    assert runs == list(range(steps))


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
