"""A complete job with a baseline and held-out images: its report, its files, and an equal baseline that is found."""

import json

import numpy as np
import pytest
import torch

from core import pipeline
from core.data.stored import read_dataset_info
from core.errors import InvalidSpec
from core.evaluate.corruptions import num_corrupted
from core.models.safetensors_header import read_model_info
from core.models.weights import load_folder
from core.reporting import Control, Interrupted, Stage, Workspace
from core.resolve import resolver
from core.spec import parse_job_spec
from core.train import baseline
from tests.support.images import store_band_images
from tests.support.reporter import RecordingReporter

SIZE = 8


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return store_band_images(tmp_path_factory.mktemp("bands"), num_train=30, num_test=20)


def vit(width=16, **more):
    sizes = {"patch_size": 4, "embed_dim": width, "depth": 1, "num_heads": 2}
    return {"architecture": "vit_tiny_patch16_224", "arguments": sizes, **more}


def resolution(dataset, models=None, **more):
    training = {"epochs": 3, "batch_size": 16, "learning_rate": 3e-3, "image_size": SIZE, "hold_out": 0.2}
    document = {
        "dataset": "ds_bands",
        "teachers": [vit(24, weights="train", training={"epochs": 4, "batch_size": 16, "learning_rate": 3e-3})],
        "student": vit(),
        "method": {"name": "deit"},
        "training": training | more.pop("training", {}),
        "export": ["safetensors"],
        "resources": {"threads": 1},
        "baseline": True,
        **more,
    }
    infos = {name: read_model_info(folder) for name, folder in (models or {}).items()}
    return resolver.resolve(parse_job_spec(document), read_dataset_info(dataset), infos, threads=1)


@pytest.fixture(scope="module")
def attempt(dataset, tmp_path_factory):
    """Run a spec as one attempt of a job. All attempts share trained teachers and baselines."""
    shared = tmp_path_factory.mktemp("jobs")

    def make(spec, name, **options):
        root = shared / name
        root.mkdir(exist_ok=True)
        workspace = Workspace(root=root / "run", cache=shared / "cache", dataset=dataset)
        with RecordingReporter(root, teachers=shared / "teachers", **options) as reporter:
            return pipeline.run(spec, workspace, reporter), reporter

    return make


@pytest.fixture(scope="module")
def finished(attempt, dataset):
    """A finished job with a baseline: its spec, result, reporter and report."""
    spec = resolution(dataset).spec
    with pytest.raises(Interrupted):  # the baseline is resumed in a second attempt
        attempt(spec, "first", control=Control.DRAIN, stage=Stage.BASELINE, after=5)
    result, reporter = attempt(spec, "first")
    return spec, result, reporter, json.loads(result.artifacts["report.json"].read_text())


def test_a_job_with_a_baseline_reports_whether_the_teacher_helped(finished):
    _, result, reporter, report = finished
    own, found = result.result["baseline"], report["evaluation"]

    assert reporter.stages == ["prepare", "distill", "baseline", "evaluate", "export"]
    assert reporter.fractions == sorted(reporter.fractions)
    assert reporter.series["baseline/top1"][-1] == (reporter.series["eval/top1"][-1][0], pytest.approx(own["top1"]))
    assert own["gain"] == pytest.approx(result.result["student"]["top1"] - own["top1"])
    assert own["gain_interval"][0] <= own["gain"] <= own["gain_interval"][1]
    assert found["verdict"]["code"] in {"helped", "harmed", "not_shown"}
    assert found["num_images"] == 60
    assert sum(map(sum, found["confusion"]["matrix"])) == 60
    assert found["retention"]["top1"] == pytest.approx(
        result.result["student"]["top1"] / result.result["teachers"][0]["top1"], abs=1e-6
    )
    assert found["calibration"]["student"]["scaled"]["num_held_out"] == 18  # a fifth of 90
    assert found["calibration"]["baseline"]["scaled"]["num_held_out"] == 18
    assert found["calibration"]["teachers"][0]["scaled"] is None  # it was trained on these images
    assert found["robustness"]["num_images"] == 60
    assert found["robustness"]["clean"]["student"] == pytest.approx(result.result["student"]["top1"], abs=1e-6)
    assert report["cost"]["stages"].keys() >= {"distill", "baseline"}
    assert report["digests"]["baseline"] not in {None, *report["digests"]["teachers"]}
    card = result.artifacts["README.md"].read_text()
    assert found["verdict"]["text"] in card
    assert "| baseline (labels alone) |" in card


def test_the_saved_predictions_give_the_figures_of_the_report(finished):
    _, result, _, report = finished
    arrays = np.load(result.artifacts["predictions.npz"], allow_pickle=False)

    classes = {name: arrays[f"{name}_logits"].argmax(axis=1) for name in ("student", "teacher_0", "baseline")}
    assert np.mean(classes["student"] == arrays["labels"]) == pytest.approx(result.result["student"]["top1"])
    assert np.mean(classes["baseline"] == arrays["labels"]) == pytest.approx(result.result["baseline"]["top1"])
    assert np.mean(classes["student"] == classes["teacher_0"]) == pytest.approx(report["evaluation"]["agreement"][0])
    image = report["evaluation"]["disagreements"]["images"][0]
    assert arrays["paths"][image["image"]] == image["path"]


def test_the_baseline_is_the_student_of_a_scratch_job_bit_for_bit_and_is_found_by_it(attempt, dataset, finished):
    spec, _, _, _ = finished
    scratch = resolution(dataset, method={"name": "scratch"}, teachers=[], baseline=False).spec
    result, _ = attempt(scratch, "scratch")
    again, reporter = attempt(spec.model_copy(update={"method": spec.method.model_copy(), "name": "again"}), "again")

    student = load_folder(result.artifacts["config.json"].parent).module.state_dict()
    trained = load_folder(reporter.find_teacher(reporter.event_data("baseline.reused")["recipe"])).module.state_dict()
    assert all(torch.equal(student[name], trained[name]) for name in student | trained)
    assert "baseline" not in reporter.stages
    assert reporter.series["baseline/top1"] == [(reporter.series["eval/top1"][-1][0], again.result["baseline"]["top1"])]
    assert again.result["baseline"]["top1"] == result.result["student"]["top1"]
    # The reused baseline takes no time: after the student's last step, evaluation and export remain.
    trained = [report for report in reporter.progress_reports if report.stage_step == report.total_steps]
    assert trained[-1].eta_seconds == pytest.approx(evaluation_and_export_seconds(reporter))


def test_a_scratch_job_saves_the_baseline_of_later_jobs(attempt, dataset):
    training = {"seed": 5}
    attempt(resolution(dataset, method={"name": "scratch"}, teachers=[], baseline=False, training=training).spec, "own")
    _, reporter = attempt(resolution(dataset, training=training).spec, "later")

    assert "baseline.reused" in reporter.event_types


def test_a_student_that_was_stopped_early_has_no_baseline(attempt, dataset):
    spec = resolution(dataset, training={"seed": 6}).spec
    result, reporter = attempt(spec, "stopped", control=Control.STOP, stage=Stage.DISTILL, after=6)

    assert result.result["baseline"] is None
    assert "baseline" not in reporter.stages
    report = json.loads(result.artifacts["report.json"].read_text())
    assert "stopped early" in report["evaluation"]["verdict"]["text"]


def evaluation_and_export_seconds(reporter):
    """The expected seconds of the stages after the trainings of a job with 60 test images."""
    num_batches = -(-(60 + num_corrupted(60)) // 16)
    return 5 + num_batches * reporter.event_data("preflight.passed")["step_seconds"]


def test_a_baseline_that_is_stopped_or_diverges_does_not_fail_the_job(attempt, dataset, monkeypatch):
    spec = resolution(dataset, training={"seed": 7}).spec
    stopped, planned = attempt(spec, "stopped baseline", control=Control.STOP, stage=Stage.BASELINE, after=6)
    assert "stopped early" in json.loads(stopped.artifacts["report.json"].read_text())["evaluation"]["baseline_note"]
    first = next(report for report in planned.progress_reports if report.epoch == 0 and report.total_steps)
    student = first.total_steps * planned.event_data("preflight.passed")["step_seconds"]
    rest = evaluation_and_export_seconds(planned)
    assert first.eta_seconds > rest + 1.1 * student  # the baseline is included

    class Diverging(baseline.Trainer):
        def run(self):
            raise baseline.NonFiniteLoss("the loss is not finite")

    monkeypatch.setattr(baseline, "Trainer", Diverging)
    diverged, reporter = attempt(spec, "diverged baseline")
    assert diverged.result["baseline"] is None
    assert "baseline.diverged" in reporter.event_types


def test_the_estimate_has_the_baseline(dataset):
    without, with_baseline = resolution(dataset, baseline=False).estimate, resolution(dataset).estimate

    assert without["baseline"] is None
    assert with_baseline["baseline"]["seconds"] > 0
    assert with_baseline["seconds"] >= without["seconds"]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"method": {"name": "scratch"}, "teachers": []}, "/baseline"),
        ({"method": {"name": "proteus"}, "training": {"hold_out": 0.0}}, "/baseline"),
        ({"method": {"name": "proteus"}, "baseline": False}, "/training/hold_out"),
    ],
)
def test_a_baseline_that_cannot_be_compared_is_refused(dataset, changes, pointer):
    with pytest.raises(InvalidSpec) as refused:
        resolution(dataset, **changes)

    assert pointer in {error.pointer for error in refused.value.errors}
