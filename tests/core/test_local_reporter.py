"""Folder and console reporters: files of a run, and what a later attempt reads."""

import io
import json

import pytest
from rich.console import Console

from core.job_warnings import JobWarning
from core.local_reporter import ConsoleReporter, FolderReporter
from core.reporting import Control, Progress, SavedCheckpoint, Stage


@pytest.fixture
def reporter(tmp_path):
    with FolderReporter(tmp_path / "run", teachers=tmp_path / "teachers") as reporter:
        yield reporter


@pytest.fixture
def checkpoint(tmp_path):
    def make(step, *, track="distill", keep=False):
        folder = tmp_path / "scratch" / f"{track}-{step}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_text(f"weights of step {step}")
        return SavedCheckpoint(folder, track, step, epoch=step // 5, keep=keep)

    return make


def test_the_newest_checkpoint_of_each_track_is_found_and_two_are_retained(reporter, checkpoint):
    for step in (5, 10, 15):
        reporter.save_checkpoint(checkpoint(step))
    reporter.save_checkpoint(checkpoint(99, track="teacher-0"))

    assert reporter.newest_checkpoint("distill").name == "000000015"
    assert reporter.newest_checkpoint("teacher-0").name == "000000099"
    assert reporter.newest_checkpoint("teacher-1") is None
    assert len(list((reporter.root / "checkpoints" / "distill").iterdir())) == 2


def test_weights_to_keep_are_not_deleted(reporter, checkpoint):
    reporter.save_checkpoint(checkpoint(5, keep=True))
    for step in (10, 15, 20):
        reporter.save_checkpoint(checkpoint(step))

    weights = reporter.root / "weights" / "distill-epoch-00001.safetensors"
    assert weights.read_text() == "weights of step 5"


def test_a_resumed_track_deletes_only_its_metrics_after_its_checkpoint(reporter, checkpoint):
    for step in (1, 2, 3):
        reporter.metrics(step, {"train/loss": 1.0})
        reporter.metrics(step, {"teacher/0/loss": 1.0})
    reporter.save_checkpoint(checkpoint(2))
    with (reporter.root / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "train/lo')  # killed during a write

    reporter.newest_checkpoint("distill")

    entries = [json.loads(line) for line in (reporter.root / "metrics.jsonl").read_text().splitlines()]
    assert [e["step"] for e in entries if "train/loss" in e] == [1, 2]
    assert [e["step"] for e in entries if "teacher/0/loss" in e] == [1, 2, 3]


def test_a_saved_teacher_is_found_by_its_fingerprint(reporter, tmp_path):
    folder = tmp_path / "teacher"
    folder.mkdir()
    (folder / "config.json").write_text("{}")

    reporter.save_teacher("abc", folder)
    reporter.save_teacher("abc", folder)

    assert (reporter.find_teacher("abc") / "config.json").read_text() == "{}"
    assert reporter.find_teacher("abd") is None


def test_control_returns_the_override(reporter):
    reporter.control_override = Control.STOP

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
        reporter.event("teacher.reused", "the event message")

    shown = output.getvalue()
    assert all(text in shown for text in ("distill", "step 3/6", "1,234 img/s", "1:01 left", "loss 0.123"))
    assert "the event message" in shown


def test_warnings_survive_a_restart_and_are_printed_once(tmp_path):
    warning = JobWarning(code="few_steps", field="/training/epochs", message="only 40 steps", fix="raise epochs")
    output = io.StringIO()
    for _ in range(2):  # the second run resumes in the same folder
        with ConsoleReporter(tmp_path / "run", teachers=tmp_path / "teachers", console=Console(file=output)) as again:
            again.warning(warning)

    assert again.warnings() == [warning]
    assert output.getvalue().count("Only 40 steps. Raise epochs.") == 1
