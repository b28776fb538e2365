"""The steps ``prune``, ``share`` and ``merge`` in complete jobs: smaller networks that are trained, and resumption."""

import hashlib
import json

import pytest
import timm
import torch
from safetensors.torch import load_file

from core import pipeline
from core.data.stored import read_dataset_info
from core.errors import InvalidSpec
from core.ingest.dataset import ingest_builtin
from core.models.meta_device import count_parameters
from core.models.safetensors_header import read_model_info
from core.models.weights import load_folder
from core.reporting import Control, Interrupted, Stage, Workspace
from core.resolve import resolver
from core.spec import parse_job_spec
from tests.support.images import store_band_images
from tests.support.reporter import RecordingReporter

SIZES = {"patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 4}
CNN = {"layers": [1, 1, 1, 1], "channels": [16, 16, 24, 24]}
LOOSE = {"max_top1_drop": 1.0}
PRUNE = {"name": "prune", "target": {"flops": 0.5}, "importance_images": 64, "epochs": 2, **LOOSE}


@pytest.fixture(scope="module")
def bands(tmp_path_factory):
    """90 training and 30 test images of three classes, each marked by a bright band."""
    return store_band_images(tmp_path_factory.mktemp("bands"), num_train=30, num_test=10)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "stored"
    ingest_builtin("digits", folder)
    return folder


TRAINING = {"epochs": 2, "batch_size": 128, "learning_rate": 3e-3, "image_size": 8, "augmentation": "none"}


def resolve(dataset, *steps, models=None, **changes):
    student = {"architecture": "vit_tiny_patch16_224", "arguments": SIZES}
    document = {
        "dataset": "ds_images",
        "student": student,
        "teachers": [{**student, "weights": "train", "training": {**TRAINING, "epochs": 1}}],
        "method": {"name": "kd"},
        "training": TRAINING,
        "export": ["safetensors"],
        "resources": {"threads": 1},
        "compression": list(steps),
        **changes,
    }
    infos = {name: read_model_info(folder) for name, folder in (models or {}).items()}
    return resolver.resolve(parse_job_spec(document), read_dataset_info(dataset), infos, threads=1).spec


@pytest.fixture
def attempt(tmp_path):
    """Run a spec as one attempt of a job. Attempts of one name share a folder."""

    def make(spec, dataset, name="job", *, models=None, **options):
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        workspace = Workspace(root=root / "run", cache=tmp_path / "cache", dataset=dataset, models=models or {})
        with RecordingReporter(root, **options) as reporter:
            return pipeline.run(spec, workspace, reporter), reporter

    return make


def test_a_student_is_compressed_without_further_training(attempt, digits, tmp_path):
    trained, _ = attempt(resolve(digits, training={**TRAINING, "epochs": 1}), digits, "trained")
    models = {"job_trained": trained.artifacts["config.json"].parent}
    untouched = {"student": {"weights": "job_trained"}, "training": {**TRAINING, "epochs": 0}, "models": models}
    with pytest.raises(InvalidSpec, match="trained before"):
        resolve(digits, training={**TRAINING, "epochs": 0})
    with pytest.raises(InvalidSpec, match="leave baseline out"):
        resolve(digits, **untouched, baseline=True)

    spec = resolve(digits, {**PRUNE, "epochs": 1}, **untouched)
    result, reporter = attempt(spec, digits, models=models)

    before, after = (load_file(each.artifacts["model.safetensors"]) for each in (trained, result))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert result.result["student"]["top1"] == trained.result["student"]["top1"]
    assert reporter.fractions == sorted(reporter.fractions)
    assert "without further training" in result.artifacts["README.md"].read_text()
    with pytest.raises(Interrupted):
        attempt(spec, digits, "interrupted", models=models, control=Control.PAUSE, stage=Stage.COMPRESS, after=12)
    again, second = attempt(spec, digits, "interrupted", models=models)
    assert "training.resumed" in second.event_types
    assert weights_digest(again, "pruned") == weights_digest(result, "pruned")


def test_a_job_without_epochs_and_teachers_exports_the_same_student(attempt, digits):
    trained, _ = attempt(resolve(digits, training={**TRAINING, "epochs": 1}), digits, "trained")
    models = {"job_trained": trained.artifacts["config.json"].parent}
    untouched = {"student": {"weights": "job_trained"}, "training": {**TRAINING, "epochs": 0}, "models": models}

    for method in ("scratch", "self_distillation"):  # the second one divides by the number of steps
        spec = resolve(digits, **untouched, teachers=[], method={"name": method})
        result, reporter = attempt(spec, digits, method, models=models)
        assert result.result["student"]["top1"] == trained.result["student"]["top1"]
        assert reporter.fractions[-1] == 1.0


def weights_digest(result, folder):
    return hashlib.sha256(result.artifacts[f"{folder}/model.safetensors"].read_bytes()).hexdigest()


def test_a_student_is_pruned_fine_tuned_and_merged_and_resumed_with_the_same_bits(attempt, digits):
    spec = resolve(digits, PRUNE, {"name": "merge", "ratio": 0.5, **LOOSE})
    result, reporter = attempt(spec, digits)

    student = load_folder(result.artifacts["config.json"].parent)
    pruned = load_folder(result.artifacts["pruned/config.json"].parent)
    details = json.loads(result.artifacts["report.json"].read_text())["details"]["compression"]
    assert 0.4 < details[0]["flops_fraction"] <= 0.5
    assert count_parameters(pruned.module) < 0.7 * count_parameters(student.module)
    fine_tuned = reporter.event_data("compression.fine_tuned")
    assert fine_tuned["teachers"] == 1
    assert fine_tuned["hits"] > 0  # the view that the student's training has cached
    assert details[0]["top1_before_fine_tuning"] < result.result["compressed"][0]["held_out"]["top1"]
    assert details[1]["merged_tokens"] == [4, 4]
    loaded = timm.create_model(f"local-dir:{result.artifacts['merged/config.json'].parent}", pretrained=True).eval()
    images = torch.rand(2, 1, 8, 8)
    merged = load_folder(result.artifacts["merged/config.json"].parent)
    assert torch.equal(loaded(merged.preprocessing(images)), merged(images))

    with pytest.raises(Interrupted):
        attempt(spec, digits, "interrupted", control=Control.PAUSE, stage=Stage.COMPRESS, after=20)
    again, second = attempt(spec, digits, "interrupted")
    assert "training.resumed" in second.event_types
    for folder in ("pruned", "merged"):
        assert weights_digest(again, folder) == weights_digest(result, folder)


def test_a_student_shares_weights_and_a_search_prunes(attempt, bands):
    spec = resolve(
        bands,
        {"name": "share", "repeats": 2, "epochs": 1, **LOOSE},
        {"name": "quantize", "dtype": "fp16", **LOOSE},
    )
    result, _ = attempt(spec, bands)
    shared = load_folder(result.artifacts["shared/config.json"].parent)
    student = load_folder(result.artifacts["config.json"].parent)
    assert count_parameters(shared.module) < 0.7 * count_parameters(student.module)
    assert result.artifacts["model.fp16.onnx"].stat().st_size < 2.5 * count_parameters(shared.module) + 60_000

    search = {**PRUNE, "criterion": "uvc", "parts": ["heads", "hidden"]}
    result, _ = attempt(resolve(bands, search), bands, "search")
    details = json.loads(result.artifacts["report.json"].read_text())["details"]["compression"][0]
    assert 0.35 < details["flops_fraction"] <= 0.5


def test_a_cnn_loses_channels(attempt, bands):
    student = {"architecture": "resnet18", "arguments": CNN}
    spec = resolve(bands, {**PRUNE, "epochs": 1}, student=student, teachers=[], method={"name": "scratch"})
    result, reporter = attempt(spec, bands)

    pruned = load_folder(result.artifacts["pruned/config.json"].parent)
    assert pruned.architecture == "potstill_cnn"
    assert reporter.event_data("compression.fine_tuned")["teachers"] == 1  # the network before the step


@pytest.mark.parametrize(
    ("steps", "pointer", "text"),
    [
        ([{**PRUNE, "target": {"flops": 0.001}}], "/compression/0/target/flops", "smallest network"),
        ([{**PRUNE, "target": {"parameters": 0.001}}], "/compression/0/target/parameters", "smallest network"),
        ([{"name": "share", "repeats": 3}], "/compression/0/repeats", "set repeats to 2"),
        ([{"name": "merge", "ratio": 0.01}], "/compression/0/ratio", "set ratio to at least"),
        ([{"name": "share"}, PRUNE], "/compression/1", "put prune first"),
        ([PRUNE, {"name": "share"}], "/compression/1", "set parts of prune to width or blocks"),
        ([{"name": "merge"}, {"name": "merge"}], "/compression/1", "one merge"),
        ([{**PRUNE, "criterion": "uvc", "target": {"flops": 0.02}}], "/compression/0/target/flops", "smallest network"),
    ],
)
def test_steps_that_cannot_work_are_refused(bands, steps, pointer, text):
    with pytest.raises(InvalidSpec) as caught:
        resolve(bands, *steps)

    assert {error.pointer: text in error.detail for error in caught.value.errors} == {pointer: True}


@pytest.mark.parametrize(
    ("student", "step", "text"),
    [
        ({"architecture": "resnet18", "arguments": CNN}, {"name": "merge"}, "plain ViT"),
        ({"architecture": "resnet18", "arguments": CNN}, {"name": "share"}, "plain ViT"),
        ({"architecture": "resnet18", "arguments": CNN}, {**PRUNE, "criterion": "uvc"}, "this student is a CNN"),
    ],
)
def test_students_that_do_not_fit_a_step_are_refused(bands, student, step, text):
    with pytest.raises(InvalidSpec) as caught:
        resolve(bands, step, student=student, training={"image_size": 32})

    assert any(error.pointer == "/compression/0" and text in error.detail for error in caught.value.errors)
