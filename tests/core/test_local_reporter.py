"""A run's folder: what it keeps, and what a later attempt finds."""

import io
import json

import pytest
from rich.console import Console

from core.local_reporter import ConsoleReporter, FolderReporter
from core.reporting import Control, Progress, SavedCheckpoint, Stage


@pytest.fixture
def reporter(tmp_path):
    with FolderReporter(tmp_path / "run", teachers=tmp_path / "teachers") as made:
        yield made


@pytest.fixture
def checkpoint(tmp_path):
    def make(step, *, track="distill", keep=False):
        folder = tmp_path / "scratch" / f"{track}-{step}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_text(f"weights of step {step}")
        return SavedCheckpoint(folder, track, step, epoch=step // 5, keep=keep)

    return make


def test_the_newest_of_each_track_is_found_and_only_two_are_kept(reporter, checkpoint):
    for step in (5, 10, 15):
        reporter.save_checkpoint(checkpoint(step))
    reporter.save_checkpoint(checkpoint(99, track="teacher-0"))

    assert reporter.newest_checkpoint("distill").name == "000000015"
    assert reporter.newest_checkpoint("teacher-0").name == "000000099"
    assert reporter.newest_checkpoint("teacher-1") is None
    assert len(list((reporter.root / "checkpoints" / "distill").iterdir())) == 2


def test_weights_to_keep_stay(reporter, checkpoint):
    reporter.save_checkpoint(checkpoint(5, keep=True))
    for step in (10, 15, 20):
        reporter.save_checkpoint(checkpoint(step))

    kept = reporter.root / "weights" / "distill-epoch-00001.safetensors"
    assert kept.read_text() == "weights of step 5"


def test_a_resumed_track_drops_the_metrics_after_its_checkpoint_and_no_others(reporter, checkpoint):
    for step in (1, 2, 3):
        reporter.metrics(step, {"train/loss": 1.0})
        reporter.metrics(step, {"teacher/0/loss": 1.0})
    reporter.save_checkpoint(checkpoint(2))
    with (reporter.root / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "train/lo')  # killed while it wrote

    reporter.newest_checkpoint("distill")

    entries = [json.loads(line) for line in (reporter.root / "metrics.jsonl").read_text().splitlines()]
    assert [e["step"] for e in entries if "train/loss" in e] == [1, 2]
    assert [e["step"] for e in entries if "teacher/0/loss" in e] == [1, 2, 3]


def test_a_kept_teacher_is_found_by_its_recipe_alone(reporter, tmp_path):
    folder = tmp_path / "teacher"
    folder.mkdir()
    (folder / "config.json").write_text("{}")

    reporter.keep_teacher("abc", folder)
    reporter.keep_teacher("abc", folder)

    assert (reporter.find_teacher("abc") / "config.json").read_text() == "{}"
    assert reporter.find_teacher("abd") is None


def test_what_was_wished_for_is_answered(reporter):
    reporter.wish = Control.STOP

    assert reporter.control() is Control.STOP


def test_the_console_shows_stage_progress_loss_and_events(tmp_path):
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=160)

    with ConsoleReporter(tmp_path / "run", teachers=tmp_path / "teachers", console=console) as reporter:
        reporter.stage_started(Stage.DISTILL)
        reporter.metrics(3, {"train/loss": 0.1234})
        reporter.progress(
            Progress(0.5, 3, 6, 1, images_per_second=1234.0, eta_seconds=61.0, stage_step=3, stage_total_steps=6)
        )
        reporter.event("teacher.reused", "there it is")

    shown = output.getvalue()
    assert all(words in shown for words in ("distill", "step 3/6", "1,234 img/s", "1:01 left", "loss 0.123"))
    assert "there it is" in shown
