"""Checkpoints: 5 steps, a reload and 5 steps give the same bits as 10 steps."""

import pytest
import torch
from safetensors.torch import load_file

from core.errors import StorageFailed
from core.methods import Outputs
from core.models.weights import load_folder
from core.reporting import Control, Interrupted
from core.train.checkpoint import read_checkpoint, write_checkpoint
from core.train.progress import Track
from core.train.time_plan import ProgressRange
from core.train.trainer import Trainer, TrainStep

TRACK = Track(name="distill", metric_prefix="train", progress_range=ProgressRange(0.0, 1.0))


def snapshot(train_step):
    state = train_step.state
    weights = state.student.state_dict() | {
        f"average {n}": t for n, t in (state.ema.weights if state.ema else {}).items()
    }
    moments = state.optimizer.state_dict()["state"]
    return {n: t.clone() for n, t in weights.items()} | {
        f"{index} {name}": value for index, entry in moments.items() for name, value in entry.items()
    }


def assert_same(left, right):
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


@pytest.mark.parametrize("ema", [None, 0.99])
@pytest.mark.parametrize("augmentation", ["none", "strong"])
def test_five_steps_a_reload_and_five_steps_equal_ten_steps(ema, augmentation, make_setup, training, tmp_path):
    block = training(ema=ema, augmentation=augmentation)
    uninterrupted, first, second = (TrainStep(make_setup(block)) for _ in range(3))
    for step in range(10):
        uninterrupted.run(step)
    for step in range(5):
        first.run(step)

    write_checkpoint(tmp_path / "five", first.state, step=5)
    torch.manual_seed(12345)  # other draws in between have no effect
    done = read_checkpoint(tmp_path / "five", second.state)
    for step in range(done, 10):
        second.run(step)

    assert done == 5
    assert_same(snapshot(second), snapshot(uninterrupted))


def test_a_run_interrupted_many_times_gives_the_same_bits(make_setup, training, make_reporter, tmp_path):
    def attempt(reporter):
        trainer = Trainer(make_setup(training()), track=TRACK, reporter=reporter, scratch_dir=tmp_path / "scratch")
        trainer.resume(reporter.newest_checkpoint("distill"))
        try:
            trainer.run()
        except Interrupted:
            return None
        return snapshot(trainer.train_step)

    uninterrupted = attempt(make_reporter("uninterrupted"))
    attempts = [attempt(make_reporter("interrupted", after=3, control=Control.DRAIN)) for _ in range(6)]
    interrupted = next(a for a in [*attempts, attempt(make_reporter("interrupted"))] if a is not None)

    assert attempts[:6] == [None] * 6
    assert_same(interrupted, uninterrupted)


def test_metrics_of_repeated_steps_are_logged_once(make_setup, training, make_reporter, tmp_path):
    reporter = make_reporter(after=7, control=Control.PAUSE)
    trainer = Trainer(make_setup(training()), track=TRACK, reporter=reporter, scratch_dir=tmp_path / "scratch")
    with pytest.raises(Interrupted):
        trainer.run()
    reporter.metrics(8, {"train/loss": 1.0})  # of a step after the last checkpoint
    reporter.close()

    again = make_reporter()
    resumed = Trainer(make_setup(training()), track=TRACK, reporter=again, scratch_dir=tmp_path / "scratch")
    resumed.resume(again.newest_checkpoint("distill"))
    resumed.run()
    again.close()

    steps = [int(line.split(",")[0].split(":")[1]) for line in (again.root / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 21))
    assert again.event_types == ["training.resumed"]


def test_model_file_holds_the_weights_to_export(make_setup, training, tmp_path):
    train_step = TrainStep(make_setup(training(ema=0.9)))
    train_step.run(0)

    write_checkpoint(tmp_path / "one", train_step.state, step=1)

    saved = load_file(tmp_path / "one" / "model.safetensors")
    assert_same(saved, train_step.state.ema.weights)
    assert not saved["head.weight"].equal(train_step.state.student.head.weight)


def test_a_checkpoint_replaces_an_existing_folder_completely(make_setup, training, tmp_path):
    train_step = TrainStep(make_setup(training()))
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "leftover").touch()

    write_checkpoint(folder, train_step.state, step=0)

    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model.safetensors", "one", "state.pt"]


@pytest.mark.parametrize("damage", ["model.safetensors", "state.pt"])
def test_a_damaged_checkpoint_raises_storage_failed(damage, make_setup, training, tmp_path):
    train_step = TrainStep(make_setup(training()))
    write_checkpoint(tmp_path / "one", train_step.state, step=0)
    (tmp_path / "one" / damage).write_bytes(b"nonsense")

    with pytest.raises(StorageFailed, match="cannot be read"):
        read_checkpoint(tmp_path / "one", train_step.state)


def test_a_checkpoint_of_another_student_is_rejected(make_setup, training, vit, tmp_path):
    write_checkpoint(tmp_path / "one", TrainStep(make_setup(training())).state, step=0)
    other = TrainStep(make_setup(training(), student=vit(embed_dim=32)))

    with pytest.raises(StorageFailed):
        read_checkpoint(tmp_path / "one", other.state)


def test_cycled_views_give_the_teacher_the_same_images_again(make_setup, training):
    seen = {}

    def teacher(images):
        for index, image in zip(batches[-1].indices.tolist(), images, strict=True):
            seen.setdefault(index, []).append(image.clone())
        return Outputs(torch.zeros(len(images), 4))

    setup = make_setup(training(views=2, augmentation="strong"), method="kd", teachers=(teacher,))
    batches = []
    original = setup.loader.batch
    setup.loader.batch = lambda step: batches.append(original(step)) or batches[-1]
    train_step = TrainStep(setup)

    for step in range(20):
        train_step.run(step)

    assert all(len(views) == 4 for views in seen.values())
    assert all(views[0].equal(views[2]) and views[1].equal(views[3]) for views in seen.values())
    assert not any(views[0].equal(views[1]) for views in seen.values())


def test_a_checkpoint_is_a_model_that_another_job_can_start_from(make_setup, training, tmp_path):
    train_step = TrainStep(make_setup(training(ema=0.9)))
    train_step.run(0)
    student = train_step.setup.student

    write_checkpoint(tmp_path / "one", train_step.state, step=1, student=student)

    loaded = load_folder(tmp_path / "one")
    assert loaded.preprocessing == student.preprocessing
    assert_same(dict(loaded.module.state_dict()), dict(train_step.state.ema.weights))
