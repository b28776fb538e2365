"""Trainer and TrainStep: learning, reporting, control requests, checkpoints and validation."""

import time
from dataclasses import replace

import pytest
import torch

from core.errors import NonFiniteLoss
from core.methods import Outputs
from core.reporting import Control, Interrupted
from core.train.async_metrics import StepMetrics
from core.train.progress import Track
from core.train.time_plan import ProgressRange
from core.train.trainer import CheckpointPolicy, Trainer, TrainStep
from core.train.validation import ValidationCallback, ValidationSchedule

TRACK = Track(name="distill", metric_prefix="train", progress_range=ProgressRange(0.0, 1.0))


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.train_step.state.student.parameters()])


def make_trainer(setup, reporter, tmp_path, **more):
    return Trainer(setup, track=more.pop("track", TRACK), reporter=reporter, scratch_dir=tmp_path / "scratch", **more)


def test_a_student_learns_the_training_data(make_setup, training, make_reporter, tmp_path, vit):
    reporter = make_reporter()
    student = vit(drop_path_rate=0.0, proj_drop_rate=0.0)

    finished = make_trainer(
        make_setup(training(epochs=30, learning_rate=1e-2), student=student), reporter, tmp_path
    ).run()

    assert finished
    assert reporter.logged[150]["train/loss"] < 0.2 * reporter.logged[1]["train/loss"]


def test_every_step_logs_loss_terms_learning_rate_and_gradient_norm(make_setup, training, make_reporter, tmp_path):
    reporter = make_reporter()

    make_trainer(make_setup(training()), reporter, tmp_path).run()

    assert sorted(reporter.logged) == list(range(1, 21))
    assert {"train/loss", "train/label", "train/learning_rate", "train/gradient_norm"} == set(reporter.logged[7])
    assert reporter.logged[5]["train/learning_rate"] == pytest.approx(3e-3)


def test_a_constant_rate_of_the_method_follows_no_schedule(make_setup, training):
    setup = make_setup(training(learning_rate=1e-2))
    setup.method.own = torch.nn.Parameter(torch.zeros(2, 2))
    setup.method.constant_rates = {"own": 0.5}
    train_step = TrainStep(setup)

    rates = []
    for step in range(3):
        train_step.run(step)
        rates.append([group["lr"] for group in train_step.state.optimizer.param_groups])

    assert [row[-1] for row in rates] == [0.5] * 3
    assert len({row[0] for row in rates}) == 3


def test_the_loss_is_the_sum_of_the_terms(make_setup, training, make_reporter, tmp_path, pixels):
    reporter = make_reporter()

    def teacher(images):
        return Outputs(torch.linspace(0, 1, 4 * len(images)).view(-1, 4))

    make_trainer(make_setup(training(epochs=1), method="kd", teachers=(teacher,)), reporter, tmp_path).run()

    logged = reporter.logged[3]
    assert logged["train/loss"] == pytest.approx(logged["train/label"] + logged["train/distillation"], rel=1e-6)


def test_progress_ends_at_the_last_step_and_never_decreases(make_setup, training, make_reporter, tmp_path):
    reporter = make_reporter()

    make_trainer(make_setup(training()), reporter, tmp_path).run()

    fractions = reporter.fractions
    assert fractions == sorted(fractions)
    assert (reporter.latest.step, reporter.latest.total_steps, reporter.latest.epoch) == (20, 20, 4)
    assert reporter.latest.fraction == 1.0


def test_a_teachers_training_does_not_advance_the_students_steps(make_setup, training, make_reporter, tmp_path):
    reporter = make_reporter()
    track = Track(name="teacher-0", metric_prefix="teacher/0", progress_range=ProgressRange(0.1, 0.4), student_steps=99)

    make_trainer(make_setup(training()), reporter, tmp_path, track=track).run()

    last = reporter.latest
    assert (last.step, last.total_steps, last.epoch, last.stage_step, last.stage_total_steps) == (0, 99, 0, 20, 20)
    assert last.fraction == pytest.approx(0.5)
    assert "teacher/0/loss" in reporter.logged[1]


@pytest.mark.parametrize("control", [Control.PAUSE, Control.DRAIN, Control.CANCEL])
def test_an_interruption_saves_the_current_step_and_raises(control, make_setup, training, make_reporter, tmp_path):
    reporter = make_reporter(after=7, control=control)
    interrupted = make_trainer(make_setup(training()), reporter, tmp_path)

    with pytest.raises(Interrupted) as interruption:
        interrupted.run()

    assert interruption.value.control is control
    assert [c.step for c in reporter.checkpoints] == [7]
    assert interrupted.step == 7


class FakeOutputSource:
    """Teacher output source that raises ``Interrupted`` when it loads the step ``at``."""

    def __init__(self, request=Control.PAUSE, at=None):
        self.loaded = []
        self._request, self._at = request, at

    def load_step(self, step):
        if step == self._at:
            raise Interrupted(self._request)
        self.loaded.append(step)

    def for_batch(self, batch):
        return [Outputs(torch.full((len(batch.indices), 4), float(self.loaded[-1])))]


def unused_teacher(images):
    raise AssertionError("the cached outputs must be used")


def test_a_teacher_with_cached_outputs_is_not_run(make_setup, training, make_reporter, tmp_path):
    reporter, source = make_reporter(), FakeOutputSource()
    setup = replace(make_setup(training(), method="kd", teachers=(unused_teacher,)), teacher_outputs=source)

    make_trainer(setup, reporter, tmp_path).run()

    assert source.loaded == list(range(20))
    assert reporter.logged[20]["train/distillation"] > 0


def test_an_interruption_while_outputs_are_loaded_saves_the_step_and_raises(
    make_setup, training, make_reporter, tmp_path
):
    reporter = make_reporter()
    source = FakeOutputSource(Control.DRAIN, at=7)
    setup = replace(make_setup(training(), method="kd", teachers=(unused_teacher,)), teacher_outputs=source)

    with pytest.raises(Interrupted) as interruption:
        make_trainer(setup, reporter, tmp_path).run()

    assert interruption.value.control is Control.DRAIN
    assert [c.step for c in reporter.checkpoints] == [7]


def test_a_stop_while_outputs_are_loaded_ends_the_training(make_setup, training, make_reporter, tmp_path):
    reporter = make_reporter()
    source = FakeOutputSource(Control.STOP, at=7)
    setup = replace(make_setup(training(), method="kd", teachers=(unused_teacher,)), teacher_outputs=source)

    assert not make_trainer(setup, reporter, tmp_path).run()
    assert reporter.event_types == ["training.stopped"]


def test_an_interruption_before_the_first_step_saves_nothing(make_setup, training, make_reporter, tmp_path):
    reporter = make_reporter(after=0, control=Control.PAUSE)

    with pytest.raises(Interrupted):
        make_trainer(make_setup(training()), reporter, tmp_path).run()

    assert reporter.checkpoints == []


def test_a_stop_ends_the_training_with_a_checkpoint_and_no_exception(make_setup, training, make_reporter, tmp_path):
    reporter = make_reporter(after=12, control=Control.STOP)

    finished = make_trainer(make_setup(training()), reporter, tmp_path).run()

    assert finished is False
    assert [c.step for c in reporter.checkpoints] == [12]
    assert reporter.event_types == ["training.stopped"]


def test_a_non_finite_loss_stops_before_the_step_and_names_the_term(make_setup, training, make_reporter, tmp_path):
    def non_finite(images):
        return Outputs(torch.full((len(images), 4), float("nan")))

    poisoned = make_trainer(make_setup(training(), method="kd", teachers=(non_finite,)), make_reporter(), tmp_path)
    before = weights(poisoned)

    with pytest.raises(NonFiniteLoss, match=r"step 0 \(epoch 0\).*'distillation' became nan") as failure:
        poisoned.run()

    assert weights(poisoned).equal(before)
    assert failure.value.extra["terms"] == {"distillation": "nan"}


def test_a_non_finite_gradient_stops_before_the_step(make_setup, training):
    train_step = TrainStep(make_setup(training()))
    head = train_step.state.student.head.weight
    head.register_hook(lambda gradient: gradient * float("inf"))
    before = head.detach().clone()

    with pytest.raises(NonFiniteLoss, match="gradient"):
        train_step.run(0)

    assert head.equal(before)


def non_finite_from(step, **more):
    """Setup arguments with a teacher whose outputs are not finite from a step on."""
    calls = []

    def teacher(images):
        calls.append(1)
        return Outputs(torch.full((len(images), 4), float("nan") if len(calls) > step else 0.5))

    return {"method": "kd", "teachers": (teacher,), **more}


@pytest.mark.parametrize("lag", [1, 2, 5])
def test_a_metric_lag_changes_no_result(lag, make_setup, training, make_reporter, tmp_path):
    expected, recorded = make_reporter("reference"), make_reporter("lagging")
    policy = CheckpointPolicy(min_seconds=0.0)
    reference = make_trainer(make_setup(training(ema=0.9)), expected, tmp_path, checkpoint_policy=policy)
    lagging = make_trainer(make_setup(training(ema=0.9)), recorded, tmp_path, checkpoint_policy=policy, lag=lag)

    reference.run()
    lagging.run()

    assert recorded.logged == expected.logged
    assert weights(lagging).equal(weights(reference))
    assert [c.metrics for c in recorded.checkpoints] == [c.metrics for c in expected.checkpoints]


@pytest.mark.parametrize("lag", [0, 1, 2, 5])
def test_a_non_finite_step_is_never_applied_with_any_lag(lag, make_setup, training, make_reporter, tmp_path):
    reference = make_trainer(
        make_setup(training(), **non_finite_from(99)),
        make_reporter("reference", after=7, control=Control.PAUSE),
        tmp_path,
    )
    with pytest.raises(Interrupted):
        reference.run()
    reporter = make_reporter()
    poisoned = make_trainer(make_setup(training(), **non_finite_from(7)), reporter, tmp_path, lag=lag)

    with pytest.raises(NonFiniteLoss, match=r"step 7 \(epoch 1\).*'distillation' became nan") as failure:
        poisoned.run()

    assert failure.value.extra["step"] == 7
    assert weights(poisoned).equal(weights(reference))
    assert max(reporter.logged) == 7  # the last finite step, counted from 1
    assert reporter.checkpoints == []


def test_a_non_finite_loss_is_raised_before_anything_is_saved(make_setup, training, make_reporter, tmp_path):
    reporter = make_reporter(after=8, control=Control.PAUSE)
    poisoned = make_trainer(make_setup(training(), **non_finite_from(7)), reporter, tmp_path, lag=5)

    with pytest.raises(NonFiniteLoss, match="step 7 "):
        poisoned.run()

    assert reporter.checkpoints == []


def test_gradients_are_clipped_to_the_configured_norm(make_setup, training):
    train_step = TrainStep(make_setup(training(gradient_clip=1e-3)))

    measured = train_step.run(0)

    clipped = torch.cat([p.grad.flatten() for p in train_step.state.student.parameters()]).norm().item()
    assert measured["gradient_norm"] > 1e-2
    assert clipped == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_accumulated_gradients_are_those_of_the_complete_batch(parts, make_setup, training, vit):
    def train_step(count):
        student = vit(drop_path_rate=0.0, proj_drop_rate=0.0)
        return TrainStep(make_setup(training(gradient_accumulation=count, gradient_clip=None), student=student))

    complete, accumulated = train_step(1), train_step(parts)

    expected, measured = complete.run(0), accumulated.run(0)

    assert measured == pytest.approx(expected, rel=1e-5)
    gradients = [p.grad for p in accumulated.state.student.parameters()]
    for gradient, parameter in zip(gradients, complete.state.student.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)


def test_accumulation_runs_parts_of_the_batch_and_resumes_with_the_same_bits(
    make_setup, training, make_reporter, tmp_path
):
    sizes = []

    def teacher(images):
        sizes.append(len(images))
        return Outputs(images.mean(dim=(1, 2, 3))[:, None] * torch.arange(4.0))

    block = training(gradient_accumulation=3, optimizer="sgd")
    reference = make_trainer(make_setup(block, method="kd", teachers=(teacher,)), make_reporter("reference"), tmp_path)
    interrupted = make_reporter("interrupted", after=7, control=Control.PAUSE)
    reference.run()
    with pytest.raises(Interrupted):
        make_trainer(make_setup(block, method="kd", teachers=(teacher,)), interrupted, tmp_path).run()
    interrupted.control_override = Control.GO
    resumed = make_trainer(make_setup(block, method="kd", teachers=(teacher,)), interrupted, tmp_path)
    resumed.resume(interrupted.newest_checkpoint("distill"))
    resumed.run()

    assert sizes[:6] == [3, 3, 2, 3, 3, 2]
    assert weights(resumed).equal(weights(reference))
    assert resumed.train_step.state.loss_trend == reference.train_step.state.loss_trend


@pytest.mark.parametrize("optimizer", ["sgd", "lion"])
def test_every_optimizer_learns_and_never_applies_a_non_finite_step(
    optimizer, make_setup, training, make_reporter, tmp_path, vit
):
    block, reporter = training(epochs=30, optimizer=optimizer), make_reporter()
    student = vit(drop_path_rate=0.0, proj_drop_rate=0.0)
    make_trainer(make_setup(block, student=student), reporter, tmp_path).run()
    assert reporter.logged[150]["train/loss"] < 0.7 * reporter.logged[1]["train/loss"]

    poisoned = make_trainer(
        make_setup(training(optimizer=optimizer), **non_finite_from(0)), make_reporter("poisoned"), tmp_path, lag=2
    )
    before = weights(poisoned)
    with pytest.raises(NonFiniteLoss, match="step 0 "):
        poisoned.run()
    assert weights(poisoned).equal(before)


def test_the_first_step_is_reported_at_once(make_setup, training, make_reporter, tmp_path):
    reporter = make_reporter()

    make_trainer(make_setup(training()), reporter, tmp_path).run()

    assert [progress.step for progress in reporter.progress_reports][:2] == [0, 1]


def test_without_a_limit_gradients_are_unchanged(make_setup, training):
    train_step = TrainStep(make_setup(training(gradient_clip=None)))

    measured = train_step.run(0)

    norm = torch.cat([p.grad.flatten() for p in train_step.state.student.parameters()]).norm().item()
    assert norm == pytest.approx(measured["gradient_norm"], rel=1e-5)


def test_checkpoints_are_saved_by_epoch_and_weights_retained_as_configured(
    make_setup, training, make_reporter, tmp_path
):
    reporter = make_reporter()
    policy = CheckpointPolicy(every_epochs=1, keep_weights_every_epochs=2, min_seconds=0.0)

    make_trainer(make_setup(training()), reporter, tmp_path, checkpoint_policy=policy).run()

    assert [(c.step, c.epoch, c.keep) for c in reporter.checkpoints] == [
        (5, 1, False), (10, 2, True), (15, 3, False), (20, 4, True),
    ]  # fmt: skip
    names = sorted(path.name for path in (reporter.root / "weights").iterdir())
    assert names == ["distill-epoch-00002.safetensors", "distill-epoch-00004.safetensors"]


def test_short_epochs_do_not_save_more_often_than_min_seconds(make_setup, training, make_reporter, tmp_path):
    reporter = make_reporter()

    make_trainer(
        make_setup(training()), reporter, tmp_path, checkpoint_policy=CheckpointPolicy(min_seconds=3600.0)
    ).run()

    assert [c.step for c in reporter.checkpoints] == [20]


def test_long_epochs_save_by_time(make_setup, training, make_reporter, tmp_path):
    reporter = make_reporter()

    make_trainer(
        make_setup(training(epochs=1)), reporter, tmp_path, checkpoint_policy=CheckpointPolicy(every_seconds=0.0)
    ).run()

    assert [c.step for c in reporter.checkpoints] == [1, 2, 3, 4, 5]


def evaluate_at(monkeypatch, *steps):
    """Let evaluations be due after these steps, whatever the clock says."""
    monkeypatch.setattr(ValidationSchedule, "is_due", lambda schedule, step: step in steps)


@pytest.mark.parametrize("architecture", ["vit", "resnet"])
def test_points_of_validation_change_no_weights(
    architecture, make_setup, training, make_reporter, tmp_path, pixels, monkeypatch, vit, resnet
):
    def accuracy(logits):
        predictions = logits(torch.from_numpy(pixels.images) / 255.0).argmax(dim=1)
        return (predictions == pixels.labels).float().mean().item()

    make = {"vit": vit, "resnet": resnet}[architecture]
    reporter, callback = make_reporter("validated"), ValidationCallback("eval/top1", 40, accuracy)
    validated = make_trainer(make_setup(training(ema=0.9), student=make()), reporter, tmp_path, validation=callback)
    reference = make_trainer(make_setup(training(ema=0.9), student=make()), make_reporter("reference"), tmp_path)

    evaluate_at(monkeypatch, 1, 2, 7, 13)
    validated.run()
    reference.run()

    expected, actual = reference.train_step.state, validated.train_step.state
    assert all(actual.student.state_dict()[k].equal(v) for k, v in expected.student.state_dict().items())
    assert all(actual.ema.weights[k].equal(v) for k, v in expected.ema.weights.items())
    assert [step for step, values in reporter.logged.items() if "eval/top1" in values] == [1, 2, 7, 13]


def test_validation_uses_the_moving_average(make_setup, training, pixels):
    train_step = TrainStep(make_setup(training(ema=0.999)))
    images = torch.from_numpy(pixels.images[:4]) / 255.0
    for step in range(5):
        train_step.run(step)
    outputs = {}

    train_step.validate(
        ValidationCallback("eval/top1", 1, lambda logits: outputs.setdefault("average", logits(images)).sum().item())
    )
    student = train_step.state.student
    student.load_state_dict(train_step.state.ema.weights)

    assert outputs["average"].equal(student.eval()(train_step.setup.student.preprocessing(images)))


def test_frozen_parameters_do_not_change(make_setup, training, vit):
    student = vit()
    student.module.patch_embed.requires_grad_(False)
    before = student.module.patch_embed.proj.weight.clone()
    train_step = TrainStep(make_setup(training(), student=student))

    train_step.run(0)

    assert student.module.patch_embed.proj.weight.equal(before)


def test_reporting_and_control_cost_less_than_a_quarter_of_a_millisecond_per_step(
    make_reporter, make_setup, training, tmp_path
):
    run = make_trainer(make_setup(training(epochs=1000)), make_reporter(), tmp_path)
    queued = []
    run.train_step.enqueue = queued.append
    run.train_step.drain_ready = lambda: [StepMetrics(queued.pop(), {"label": 1.0}, 1.0, 1.0, 1e-3)] if queued else []

    start = time.process_time()
    run.run()
    seconds_per_step = (time.process_time() - start) / 5000

    assert seconds_per_step < 2.5e-4
