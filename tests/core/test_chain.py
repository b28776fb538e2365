"""Chains in one job: an assistant between teacher and student, and a backbone that is trained first."""

import json

import pytest
from safetensors.torch import load_file

from core import pipeline
from core.data.stored import read_dataset_info
from core.errors import InvalidSpec
from core.ingest.dataset import ingest_builtin
from core.reporting import Control, Interrupted, Stage, Workspace
from core.resolve import resolver
from core.spec import parse_job_spec
from tests.support.images import store_band_images
from tests.support.reporter import RecordingReporter

SIZE = 8
STEPS = {"batch_size": 16, "learning_rate": 3e-3}


def vit(width, **more):
    sizes = {"patch_size": 4, "embed_dim": width, "depth": 1, "num_heads": 2}
    return {"architecture": "vit_tiny_patch16_224", "arguments": sizes, **more}


def distilled(width, teachers, method, training, **more):
    distillation = {"teachers": teachers, "method": method, "training": training}
    return vit(width, weights="distill", distillation=distillation, **more)


BACKBONE_METHOD = {"name": "agglomerate", "head_width": 16, "statistics_batches": 2}


def assisted(**training):
    """A job whose teacher is an assistant: distilled from a larger network, which the job trains too."""
    steps = {"epochs": 2, "batch_size": 16, "learning_rate": 3e-3, **training}
    trained = vit(24, weights="train", training=steps)
    return {
        "dataset": "ds_bands",
        "teachers": [distilled(20, [trained], {"name": "kd"}, steps)],
        "student": vit(16),
        "method": {"name": "kd"},
        "training": {"image_size": SIZE, **steps},
        "export": ["safetensors"],
        "resources": {"threads": 1, "accelerator": "cpu"},
    }


def backbone_first(**training):
    """A job whose student starts from a backbone, which is distilled without labels from the assistant."""
    job = assisted(**training)
    own = {name: value for name, value in job["training"].items() if name != "image_size"}
    student = distilled(16, job["teachers"], BACKBONE_METHOD, own)
    return {**job, "student": student, "teachers": [], "method": {"name": "scratch"}}


JOB = assisted()
# Both: the assistant also teaches the student, after it was fine-tuned.
BOTH = {
    **backbone_first(),
    "teachers": [{**JOB["teachers"][0], "training": {"epochs": 1, "batch_size": 16}}],
    "method": {"name": "kd"},
}
TRAINED = JOB["teachers"][0]["distillation"]["teachers"][0]


@pytest.fixture(scope="module")
def bands(tmp_path_factory):
    return store_band_images(tmp_path_factory.mktemp("bands"), num_train=30, num_test=10)


def resolution(dataset, document=JOB, **more):
    return resolver.resolve(parse_job_spec({**document, **more}), read_dataset_info(dataset), {}, threads=1)


@pytest.fixture
def attempt(tmp_path):
    """Run a spec as one attempt of a job. Attempts of one name share a folder; all share ``teachers`` if given."""

    def make(dataset, spec, name="job", *, teachers=None, **options):
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        workspace = Workspace(root=root / "run", cache=tmp_path / f"cache-{name}", dataset=dataset)
        with RecordingReporter(root, teachers=teachers or root / "teachers", **options) as reporter:
            return pipeline.run(spec, workspace, reporter), reporter

    return make


def weights(result):
    return load_file(result.artifacts["model.safetensors"])


def equal(first, second):
    return first.keys() == second.keys() and all(tensor.equal(second[name]) for name, tensor in first.items())


def report_of(result):
    return json.loads(result.artifacts["report.json"].read_text())


def test_an_assistant_is_distilled_before_the_student_and_reused_by_later_jobs(attempt, bands, tmp_path):
    resolved = resolution(bands)
    result, reporter = attempt(bands, resolved.spec)
    later = {**JOB, "method": {"name": "dist"}}
    _, reused = attempt(bands, resolution(bands, later).spec, "later", teachers=tmp_path / "job" / "teachers")

    assert reporter.stages == ["prepare", "teacher", "distill", "evaluate", "export"]
    assert [
        (e.type, e.data.get("model")) for e in reporter.events if e.type not in {"preflight.passed", "job.warning"}
    ] == [
        ("teacher.trained", "/teachers/0"),
        ("teacher_cache.summary", "/teachers/0"),
        ("distillation.finished", "/teachers/0"),
        ("teacher_cache.summary", None),
    ]
    series = ("teacher/0/teacher/0/loss", "teacher/0/distill/loss", "train/loss")
    assert [len(reporter.series[name]) for name in series] == [12, 12, 12]
    assert reporter.fractions == sorted(reporter.fractions)
    assert {p.step for p in reporter.progress_reports if p.fraction < 0.6} == {0}
    assert {p.total_steps for p in reporter.progress_reports} == {12}
    report = report_of(result)
    (lineage,) = report["details"]["distillations"]
    assert (lineage["model"], lineage["method"], lineage["reused"]) == ("/teachers/0", "kd", False)
    assert report["spec"]["teachers"][0]["weights"] == "distill"
    assert report["seeds"] == {"student": 0, "teacher-0-distill": 0, "teacher-0-teacher-0": 0}
    assert result.result["teachers"][0]["parameters"] == resolved.estimate["teachers"][0]["parameters"]
    assert "distilled with the method `kd` from" in result.artifacts["README.md"].read_text()
    assert "teacher" not in reused.stages
    assert reused.event_data("distillation.reused")["recipe"] == lineage["recipe"]


def test_resolving_a_chain_again_changes_nothing_and_the_estimate_has_all_costs(bands):
    resolved = resolution(bands, BOTH)
    alone = resolution(bands, teachers=[TRAINED])

    assert resolver.resolve(resolved.spec, read_dataset_info(bands), {}, threads=1).spec == resolved.spec
    assert [each["model"] for each in resolved.estimate["distillations"]] == [
        "/student",
        "/teachers/0",
        "/student/distillation/teachers/0",
    ]
    assert resolved.estimate["seconds"] > alone.estimate["seconds"] + 16
    assert alone.estimate["distillations"] == []
    fields = {warning["field"] for warning in resolved.estimate["warnings"]}
    assert "/teachers/0/distillation/training/epochs" in fields


def test_an_interrupted_chain_has_the_bits_of_an_undisturbed_one(attempt, bands):
    spec = resolution(bands, BOTH).spec
    uninterrupted, first = attempt(bands, spec, "uninterrupted")

    for stage, after in ((Stage.PREPARE, 2), (Stage.TEACHER, 20), (Stage.TEACHER, 25)):
        with pytest.raises(Interrupted):
            attempt(bands, spec, "interrupted", control=Control.PAUSE, stage=stage, after=after)
    last, _ = attempt(bands, spec, "interrupted")

    assert equal(weights(last), weights(uninterrupted))
    assert len(first.series["student/distill/loss"]) == len(first.series["student/teacher/0/distill/loss"]) == 12


def test_a_backbone_that_cannot_teach_classes_is_refused_with_the_fix(bands):
    backbone = distilled(20, [TRAINED], BACKBONE_METHOD, {"epochs": 1})

    with pytest.raises(InvalidSpec) as caught:
        resolution(bands, teachers=[backbone])

    (error,) = caught.value.errors
    assert error.pointer == "/teachers/0/weights"
    assert "give it a training" in error.detail
    fine_tuned = resolution(bands, teachers=[{**backbone, "training": {"epochs": 1}}])
    assert fine_tuned.spec.teachers[0].training.image_size == SIZE


def test_errors_of_an_inner_job_point_into_the_outer_spec(bands):
    wrong = distilled(20, [{**TRAINED, "architecture": "resnet10t", "arguments": {}}], {"name": "manifold"}, {})

    with pytest.raises(InvalidSpec) as caught:
        resolution(bands, teachers=[wrong])

    assert [error.pointer for error in caught.value.errors] == ["/teachers/0/distillation/teachers/0/architecture"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "stored"
    ingest_builtin("digits", folder)
    return folder


@pytest.mark.parametrize(
    ("make", "chained", "series"),
    [(assisted, "/teachers/0", "teacher/0/distill/loss"), (backbone_first, "/student", "student/distill/loss")],
)
def test_a_chain_runs_on_digits(attempt, digits, make, chained, series):
    result, reporter = attempt(digits, resolution(digits, make(epochs=1, batch_size=128)).spec)

    assert report_of(result)["details"]["distillations"][0]["model"] == chained
    losses = [loss for _, loss in reporter.series[series]]
    assert losses[-1] < losses[0]
    assert result.result["student"]["top1"] is not None
