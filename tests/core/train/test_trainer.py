"""The loop: it learns, tells what it does, and does at once what it is asked for."""

import time
from dataclasses import replace

import pytest
import torch

from core.errors import NonFiniteLoss
from core.methods import Outputs
from core.reporting import Control, Interrupted
from core.train.async_metrics import StepMetrics
from core.train.progress import ProgressRange, Track
from core.train.trainer import CheckpointPolicy, Trainer, TrainStep, ValidationCallback

TRACK = Track(name="distill", series="train", span=ProgressRange(0.0, 1.0))


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.stepper.trained.student.parameters()])


def trainer(task, reporter, tmp_path, **more):
    return Trainer(task, track=more.pop("track", TRACK), reporter=reporter, scratch=tmp_path / "scratch", **more)


def test_a_student_learns_the_training_data(task, training, remembering, tmp_path, vit):
    reporter = remembering()
    student = vit(drop_path_rate=0.0, proj_drop_rate=0.0)

    finished = trainer(task(training(epochs=30, learning_rate=1e-2), student=student), reporter, tmp_path).run()

    assert finished
    assert reporter.told[150]["train/loss"] < 0.2 * reporter.told[1]["train/loss"]


def test_every_step_logs_loss_terms_rate_and_gradient_norm(task, training, remembering, tmp_path):
    reporter = remembering()

    trainer(task(training()), reporter, tmp_path).run()

    assert sorted(reporter.told) == list(range(1, 21))
    assert {"train/loss", "train/label", "train/learning_rate", "train/gradient_norm"} == set(reporter.told[7])
    assert reporter.told[5]["train/learning_rate"] == pytest.approx(3e-3)


def test_the_total_is_the_sum_of_the_terms(task, training, remembering, tmp_path, pixels):
    reporter = remembering()

    def teacher(images):
        return Outputs(torch.linspace(0, 1, 4 * len(images)).view(-1, 4))

    trainer(task(training(epochs=1), method="kd", teachers=(teacher,)), reporter, tmp_path).run()

    told = reporter.told[3]
    assert told["train/loss"] == pytest.approx(told["train/label"] + told["train/distillation"], rel=1e-6)


def test_progress_ends_at_the_last_step_and_never_falls(task, training, remembering, tmp_path):
    reporter = remembering()

    trainer(task(training()), reporter, tmp_path).run()

    fractions = [p.fraction for p in reporter.progresses]
    assert fractions == sorted(fractions)
    assert (reporter.latest.step, reporter.latest.total_steps, reporter.latest.epoch) == (20, 20, 4)
    assert reporter.latest.fraction == 1.0


def test_a_teachers_training_counts_no_steps_of_the_student(task, training, remembering, tmp_path):
    reporter = remembering()
    track = Track(name="teacher-0", series="teacher/0", span=ProgressRange(0.1, 0.4), student_steps=99)

    trainer(task(training()), reporter, tmp_path, track=track).run()

    last = reporter.latest
    assert (last.step, last.total_steps, last.epoch, last.stage_step, last.stage_total_steps) == (0, 99, 0, 20, 20)
    assert last.fraction == pytest.approx(0.5)
    assert "teacher/0/loss" in reporter.told[1]


@pytest.mark.parametrize("control", [Control.PAUSE, Control.DRAIN, Control.CANCEL])
def test_an_interruption_saves_the_very_step_and_leaves(control, task, training, remembering, tmp_path):
    reporter = remembering(wish_at=7, wish=control)
    interrupted = trainer(task(training()), reporter, tmp_path)

    with pytest.raises(Interrupted) as leaving:
        interrupted.run()

    assert leaving.value.control is control
    assert [c.step for c in reporter.saved] == [7]
    assert interrupted.step == 7


class Asked:
    """Answers that are asked for elsewhere; somebody wants something while those of one step are made ready."""

    def __init__(self, wish=Control.PAUSE, at=None):
        self.readied = []
        self._wish, self._at = wish, at

    def ready(self, step):
        if step == self._at:
            raise Interrupted(self._wish)
        self.readied.append(step)

    def of(self, batch):
        return [Outputs(torch.full((len(batch.indices), 4), float(self.readied[-1])))]


def never(images):
    raise AssertionError("its answers were there")


def test_a_teacher_whose_answers_are_at_hand_is_not_asked(task, training, remembering, tmp_path):
    reporter, asked = remembering(), Asked()
    given = replace(task(training(), method="kd", teachers=(never,)), asked=asked)

    trainer(given, reporter, tmp_path).run()

    assert asked.readied == list(range(20))
    assert reporter.told[20]["train/distillation"] > 0


def test_an_interruption_while_answers_are_made_ready_saves_the_step_and_leaves(task, training, remembering, tmp_path):
    reporter = remembering()
    given = replace(task(training(), method="kd", teachers=(never,)), asked=Asked(Control.DRAIN, at=7))

    with pytest.raises(Interrupted) as leaving:
        trainer(given, reporter, tmp_path).run()

    assert leaving.value.control is Control.DRAIN
    assert [c.step for c in reporter.saved] == [7]


def test_a_stop_while_answers_are_made_ready_ends_the_training(task, training, remembering, tmp_path):
    reporter = remembering()
    given = replace(task(training(), method="kd", teachers=(never,)), asked=Asked(Control.STOP, at=7))

    assert not trainer(given, reporter, tmp_path).run()
    assert reporter.events == ["training.stopped"]


def test_an_interruption_before_the_first_step_saves_nothing(task, training, remembering, tmp_path):
    reporter = remembering(wish_at=0)

    with pytest.raises(Interrupted):
        trainer(task(training()), reporter, tmp_path).run()

    assert reporter.saved == []


def test_a_stop_ends_the_training_with_a_checkpoint_and_no_exception(task, training, remembering, tmp_path):
    reporter = remembering(wish_at=12, wish=Control.STOP)

    finished = trainer(task(training()), reporter, tmp_path).run()

    assert finished is False
    assert [c.step for c in reporter.saved] == [12]
    assert reporter.events == ["training.stopped"]


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_term(task, training, remembering, tmp_path):
    def broken(images):
        return Outputs(torch.full((len(images), 4), float("nan")))

    poisoned = trainer(task(training(), method="kd", teachers=(broken,)), remembering(), tmp_path)
    before = weights(poisoned)

    with pytest.raises(NonFiniteLoss, match=r"step 0 \(epoch 0\).*'distillation' became nan") as failure:
        poisoned.run()

    assert weights(poisoned).equal(before)
    assert failure.value.extra["terms"] == {"distillation": "nan"}


def test_a_gradient_that_is_not_finite_stops_before_the_step(task, training):
    stepper = TrainStep(task(training()))
    head = stepper.trained.student.head.weight
    head.register_hook(lambda gradient: gradient * float("inf"))
    before = head.detach().clone()

    with pytest.raises(NonFiniteLoss, match="gradient"):
        stepper.run(0)

    assert head.equal(before)


def poisoned_at(step, **more):
    """A teacher whose answers are not finite from a step on."""
    asked = []

    def teacher(images):
        asked.append(1)
        return Outputs(torch.full((len(images), 4), float("nan") if len(asked) > step else 0.5))

    return {"method": "kd", "teachers": (teacher,), **more}


@pytest.mark.parametrize("lag", [1, 2, 5])
def test_reading_later_changes_nothing_but_when_the_host_knows(lag, task, training, remembering, tmp_path):
    at_once, later = remembering("at once"), remembering("later")
    saving = CheckpointPolicy(least_seconds=0.0)
    calm = trainer(task(training(ema=0.9)), at_once, tmp_path, saving=saving)
    lagging = trainer(task(training(ema=0.9)), later, tmp_path, saving=saving, lag=lag)

    calm.run()
    lagging.run()

    assert later.told == at_once.told
    assert weights(lagging).equal(weights(calm))
    assert [c.metrics for c in later.saved] == [c.metrics for c in at_once.saved]


@pytest.mark.parametrize("lag", [0, 1, 2, 5])
def test_a_step_that_is_not_finite_is_never_applied_however_late_it_is_read(lag, task, training, remembering, tmp_path):
    calm = trainer(task(training(), **poisoned_at(99)), remembering("calm", wish_at=7), tmp_path)
    with pytest.raises(Interrupted):
        calm.run()
    reporter = remembering()
    poisoned = trainer(task(training(), **poisoned_at(7)), reporter, tmp_path, lag=lag)

    with pytest.raises(NonFiniteLoss, match=r"step 7 \(epoch 1\).*'distillation' became nan") as failure:
        poisoned.run()

    assert failure.value.extra["step"] == 7
    assert weights(poisoned).equal(weights(calm))
    assert max(reporter.told) == 7  # the last step that was finite, counted from 1
    assert reporter.saved == []


def test_what_is_not_finite_is_known_before_anything_is_saved(task, training, remembering, tmp_path):
    reporter = remembering(wish_at=8)
    poisoned = trainer(task(training(), **poisoned_at(7)), reporter, tmp_path, lag=5)

    with pytest.raises(NonFiniteLoss, match="step 7 "):
        poisoned.run()

    assert reporter.saved == []


def test_gradients_are_clipped_to_the_given_norm(task, training):
    stepper = TrainStep(task(training(gradient_clip=1e-3)))

    measured = stepper.run(0)

    clipped = torch.cat([p.grad.flatten() for p in stepper.trained.student.parameters()]).norm().item()
    assert measured["gradient_norm"] > 1e-2
    assert clipped == pytest.approx(1e-3, rel=1e-2)


def test_without_a_clip_gradients_stay_as_they_are(task, training):
    stepper = TrainStep(task(training(gradient_clip=None)))

    measured = stepper.run(0)

    whole = torch.cat([p.grad.flatten() for p in stepper.trained.student.parameters()]).norm().item()
    assert whole == pytest.approx(measured["gradient_norm"], rel=1e-5)


def test_checkpoints_come_by_epoch_and_keep_what_the_spec_asks_to_keep(task, training, remembering, tmp_path):
    reporter = remembering()
    saving = CheckpointPolicy(every_epochs=1, keep_every_epochs=2, least_seconds=0.0)

    trainer(task(training()), reporter, tmp_path, saving=saving).run()

    assert [(c.step, c.epoch, c.keep) for c in reporter.saved] == [
        (5, 1, False), (10, 2, True), (15, 3, False), (20, 4, True),
    ]  # fmt: skip
    kept = sorted(path.name for path in (reporter.root / "weights").iterdir())
    assert kept == ["distill-epoch-00002.safetensors", "distill-epoch-00004.safetensors"]


def test_tiny_epochs_do_not_save_more_often_than_the_least_time(task, training, remembering, tmp_path):
    reporter = remembering()

    trainer(task(training()), reporter, tmp_path, saving=CheckpointPolicy(least_seconds=3600.0)).run()

    assert [c.step for c in reporter.saved] == [20]


def test_long_epochs_save_by_time(task, training, remembering, tmp_path):
    reporter = remembering()

    trainer(task(training(epochs=1)), reporter, tmp_path, saving=CheckpointPolicy(every_seconds=0.0)).run()

    assert [c.step for c in reporter.saved] == [1, 2, 3, 4, 5]


def test_a_watch_looks_now_and_then_and_changes_nothing(task, training, remembering, tmp_path, pixels):
    def accuracy(logits):
        answers = logits(torch.from_numpy(pixels.images) / 255.0).argmax(dim=1)
        return (answers == pixels.labels).float().mean().item()

    watched_by, alone_by = remembering("watched"), remembering("alone")
    watched = trainer(task(training()), watched_by, tmp_path, watch=ValidationCallback("eval/top1", 2, accuracy))
    alone = trainer(task(training()), alone_by, tmp_path)

    watched.run()
    alone.run()

    assert weights(watched).equal(weights(alone))
    assert [step for step, values in watched_by.told.items() if "eval/top1" in values] == [10, 20]


def test_a_watch_sees_the_average_where_there_is_one(task, training, pixels):
    stepper = TrainStep(task(training(ema=0.999)))
    pictures = torch.from_numpy(pixels.images[:4]) / 255.0
    for step in range(5):
        stepper.run(step)
    seen = {}

    stepper.measure(
        ValidationCallback("eval/top1", 1, lambda logits: seen.setdefault("average", logits(pictures)).sum().item())
    )
    student = stepper.trained.student
    student.load_state_dict(stepper.trained.ema.weights)

    assert seen["average"].equal(student.eval()(stepper.task.student.preprocessing(pictures)))


def test_frozen_parameters_stay(task, training, vit):
    student = vit()
    student.module.patch_embed.requires_grad_(False)
    before = student.module.patch_embed.proj.weight.clone()
    stepper = TrainStep(task(training(), student=student))

    stepper.run(0)

    assert student.module.patch_embed.proj.weight.equal(before)


def test_reporting_and_control_cost_far_less_than_half_a_millisecond_a_step(remembering, task, training, tmp_path):
    run = trainer(task(training(epochs=1000)), remembering(), tmp_path)
    queued = []
    run.stepper.enqueue = queued.append
    run.stepper.drain_ready = lambda: [StepMetrics(queued.pop(), {"label": 1.0}, 1.0, 1.0, 1e-3)] if queued else []

    began = time.process_time()
    run.run()
    each = (time.process_time() - began) / 5000

    assert each < 2.5e-4
