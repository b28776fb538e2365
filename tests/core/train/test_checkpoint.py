"""Checkpoints: 10 steps are 5, a reload and 5, to the last bit."""

import pytest
import torch
from safetensors.torch import load_file

from core.errors import StorageFailed
from core.methods import Outputs
from core.reporting import Control, Interrupted
from core.train.checkpoint import read_checkpoint, write_checkpoint
from core.train.progress import ProgressRange, Track
from core.train.trainer import Trainer, TrainStep

TRACK = Track(name="distill", series="train", span=ProgressRange(0.0, 1.0))


def state(stepper):
    trained = stepper.trained
    weights = trained.student.state_dict() | {
        f"average {n}": t for n, t in (trained.ema.weights if trained.ema else {}).items()
    }
    moments = trained.optimizer.state_dict()["state"]
    return {n: t.clone() for n, t in weights.items()} | {
        f"{index} {name}": value for index, entry in moments.items() for name, value in entry.items()
    }


def assert_same(left, right):
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


@pytest.mark.parametrize("ema", [None, 0.99])
@pytest.mark.parametrize("augmentation", ["none", "strong"])
def test_ten_steps_are_five_a_reload_and_five(ema, augmentation, task, training, tmp_path):
    block = training(ema=ema, augmentation=augmentation)
    calm, first, second = (TrainStep(task(block)) for _ in range(3))
    for step in range(10):
        calm.run(step)
    for step in range(5):
        first.run(step)

    write_checkpoint(tmp_path / "five", first.trained, step=5)
    torch.manual_seed(12345)  # whatever happened in between
    done = read_checkpoint(tmp_path / "five", second.trained)
    for step in range(done, 10):
        second.run(step)

    assert done == 5
    assert_same(state(second), state(calm))


def test_a_run_interrupted_again_and_again_gives_the_same_bits(task, training, remembering, tmp_path):
    def attempt(reporter):
        trainer = Trainer(task(training()), track=TRACK, reporter=reporter, scratch=tmp_path / "scratch")
        trainer.resume(reporter.newest_checkpoint("distill"))
        try:
            trainer.run()
        except Interrupted:
            return None
        return state(trainer.stepper)

    calm = attempt(remembering("calm"))
    attempts = [attempt(remembering("shaken", wish_at=3, wish=Control.DRAIN)) for _ in range(6)]
    shaken = next(a for a in [*attempts, attempt(remembering("shaken"))] if a is not None)

    assert attempts[:6] == [None] * 6
    assert_same(shaken, calm)


def test_metrics_of_steps_that_come_again_are_told_once(task, training, remembering, tmp_path):
    reporter = remembering(wish_at=7)
    trainer = Trainer(task(training()), track=TRACK, reporter=reporter, scratch=tmp_path / "scratch")
    with pytest.raises(Interrupted):
        trainer.run()
    reporter.metrics(8, {"train/loss": 1.0})  # of a step that no checkpoint holds
    reporter.close()

    again = remembering()
    resumed = Trainer(task(training()), track=TRACK, reporter=again, scratch=tmp_path / "scratch")
    resumed.resume(again.newest_checkpoint("distill"))
    resumed.run()
    again.close()

    steps = [int(line.split(",")[0].split(":")[1]) for line in (again.root / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 21))
    assert again.events == ["training.resumed"]


def test_a_checkpoints_model_is_what_would_be_exported(task, training, tmp_path):
    stepper = TrainStep(task(training(ema=0.9)))
    stepper.run(0)

    write_checkpoint(tmp_path / "one", stepper.trained, step=1)

    saved = load_file(tmp_path / "one" / "model.safetensors")
    assert_same(saved, stepper.trained.ema.weights)
    assert not saved["head.weight"].equal(stepper.trained.student.head.weight)


def test_a_checkpoint_replaces_one_of_the_same_step_whole(task, training, tmp_path):
    stepper = TrainStep(task(training()))
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "left behind").touch()

    write_checkpoint(folder, stepper.trained, step=0)

    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model.safetensors", "one", "state.pt"]


@pytest.mark.parametrize("damage", ["model.safetensors", "state.pt"])
def test_a_damaged_checkpoint_is_said_to_be_one(damage, task, training, tmp_path):
    stepper = TrainStep(task(training()))
    write_checkpoint(tmp_path / "one", stepper.trained, step=0)
    (tmp_path / "one" / damage).write_bytes(b"nonsense")

    with pytest.raises(StorageFailed, match="cannot be read"):
        read_checkpoint(tmp_path / "one", stepper.trained)


def test_a_checkpoint_of_another_student_is_refused(task, training, vit, tmp_path):
    write_checkpoint(tmp_path / "one", TrainStep(task(training())).trained, step=0)
    other = TrainStep(task(training(), student=vit(embed_dim=32)))

    with pytest.raises(StorageFailed):
        read_checkpoint(tmp_path / "one", other.trained)


def test_views_used_in_turn_show_the_teacher_the_same_pictures_again(task, training):
    seen = {}

    def teacher(images):
        for index, image in zip(batches[-1].indices.tolist(), images, strict=True):
            seen.setdefault(index, []).append(image.clone())
        return Outputs(torch.zeros(len(images), 4))

    whole = task(training(views=2, augmentation="strong"), method="kd", teachers=(teacher,))
    batches = []
    original = whole.feed.batch
    whole.feed.batch = lambda step: batches.append(original(step)) or batches[-1]
    stepper = TrainStep(whole)

    for step in range(20):
        stepper.run(step)

    assert all(len(views) == 4 for views in seen.values())
    assert all(views[0].equal(views[2]) and views[1].equal(views[3]) for views in seen.values())
    assert not any(views[0].equal(views[1]) for views in seen.values())
