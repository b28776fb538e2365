"""The stage `compress` of complete jobs: its results, files, gate, and equal bits after interruptions."""

import hashlib
import json

import numpy as np
import onnx
import pytest
import torch

from core import pipeline
from core.compress import compression
from core.compress.base import CompressionStep, StepOutput
from core.data.pixels import load_pixels
from core.data.stored import StoredDataset, read_dataset_info
from core.errors import ExportFailed, InvalidSpec
from core.export.onnx_file import open_session
from core.models.weights import load_folder
from core.reporting import Control, Interrupted, Stage, Workspace
from core.resolve import resolver
from core.spec import parse_job_spec
from tests.support.images import store_band_images
from tests.support.reporter import RecordingReporter

SIZE = 8
NUM_HELD_OUT = 9
STATIC = {"name": "quantize", "dtype": "int8", "calibration_images": 16, "max_top1_drop": 0.2}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """90 training and 30 test images of three classes, each marked by a bright band."""
    return store_band_images(tmp_path_factory.mktemp("bands"), num_train=30, num_test=10)


def document(*steps, **changes):
    sizes = {"patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}
    return {
        "dataset": "ds_bands",
        "student": {"architecture": "vit_tiny_patch16_224", "arguments": sizes},
        "method": {"name": "scratch"},
        "training": {"epochs": 8, "batch_size": 16, "learning_rate": 3e-3, "image_size": SIZE},
        "export": ["safetensors"],
        "resources": {"threads": 1},
        "compression": list(steps),
        **changes,
    }


def resolve(dataset, *steps, **changes):
    return resolver.resolve(parse_job_spec(document(*steps, **changes)), read_dataset_info(dataset), {}, threads=1)


@pytest.fixture
def attempt(dataset, tmp_path):
    """Run a spec as one attempt of a job. Attempts of one name share a folder."""

    def make(spec, name="job", **options):
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        workspace = Workspace(root=root / "run", cache=tmp_path / "cache", dataset=dataset)
        with RecordingReporter(root, **options) as reporter:
            return pipeline.run(spec, workspace, reporter), reporter

    return make


def digests(result):
    """SHA-256 of each weights file."""
    names = [name for name in result.artifacts if name.endswith((".onnx", ".safetensors"))]
    return {name: hashlib.sha256(result.artifacts[name].read_bytes()).hexdigest() for name in names}


def test_quantized_files_are_measured_as_they_are_handed_out(attempt, dataset):
    others = [{"mode": "dynamic"}, {"dtype": "fp16"}, {"dtype": "int4"}, {"mode": "qat", "epochs": 1}]
    steps = [STATIC, *({"name": "quantize", "max_top1_drop": 0.2, **params} for params in others)]
    result, reporter = attempt(resolve(dataset, *steps).spec)

    assert reporter.stages == ["prepare", "distill", "compress", "evaluate", "export"]
    assert reporter.fractions == sorted(reporter.fractions)
    assert [event for event in reporter.event_types if event.startswith("compression")] == (
        ["compression.applied"] * 4 + ["compression.fine_tuned", "compression.applied"]
    )
    entries = result.result["compressed"]
    assert [entry["artifact"] for entry in entries] == [
        "model.int8.onnx", "model.int8-2.onnx", "model.fp16.onnx", "model.int4.onnx",
        "model.int8-3.onnx",
    ]  # fmt: skip
    student = load_folder(result.artifacts["config.json"].parent)
    with StoredDataset.open(dataset) as stored:
        labels = stored.split("test").labels.copy()
    for entry in entries:
        path = result.artifacts[entry["artifact"]]
        receipt = result.receipts[entry["artifact"]]
        assert (receipt["top1"], receipt["size_bytes"]) == (entry["top1"], path.stat().st_size)
        assert receipt["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert 0 < receipt["logits"]["mean_difference"] <= receipt["logits"]["max_difference"]
        assert entry["top1"] == pytest.approx(top1(path, student, dataset, labels))
        assert entry["size_bytes"] == path.stat().st_size
        assert entry["latency_ms"] > 0
        assert entry["held_out"]["images"] == NUM_HELD_OUT
        metadata = {each.key: each.value for each in onnx.load(path).metadata_props}
        assert json.loads(metadata["preprocessing"])["mean"] == list(student.preprocessing.mean)
        assert set(metadata) == {"architecture", "preprocessing", "classes"}
    report = json.loads(result.artifacts["report.json"].read_text())
    assert report["result"]["compressed"] == entries
    assert [step["dtype"] for step in report["details"]["compression"]] == ["int8", "int8", "fp16", "int4", "int8"]
    assert report["details"]["compression"][4]["trained_top1"] == entries[4]["held_out"]["top1"]
    assert len(reporter.series["compress/4/loss"]) == 6
    assert report["details"]["compression"][0]["calibration_images"] == 16


def top1(path, student, dataset, labels):
    """Accuracy of an ONNX file on the test split, computed here from its images."""
    with StoredDataset.open(dataset) as stored:
        pixels = load_pixels(stored, "test", SIZE, path.parent)
        images = student.preprocessing(torch.from_numpy(np.array(pixels.images)).float() / 255)
    (logits,) = open_session(path).run(["logits"], {"images": images.numpy()})
    return float((logits.argmax(axis=1) == labels).mean())


def test_a_step_that_loses_too_much_is_rejected_and_the_job_succeeds(attempt, dataset, monkeypatch):
    class Ruin(CompressionStep):
        """Set all weights to zero."""

        def run(self, inputs):
            with torch.no_grad():
                for parameter in inputs.student.module.parameters():
                    parameter.zero_()
            return StepOutput(network=inputs.student, details={"ruined": True})

    monkeypatch.setattr(compression, "build_step", Ruin)
    result, reporter = attempt(resolve(dataset, STATIC).spec)

    (entry,) = result.result["compressed"]
    assert (entry["status"], entry["artifact"]) == ("rejected", None)
    assert entry["held_out"]["drop"] > 0.2
    assert "fell from" in entry["reason"]
    assert entry["top1"] < result.result["student"]["top1"]
    assert not [name for name in result.artifacts if name.startswith("model.int8")]
    assert reporter.event_types[-1] == "job.warning"
    (warning,) = reporter.warnings()
    assert (warning.code, warning.field) == ("compression_rejected", "/compression/0")


def test_a_network_is_published_in_its_folder_and_the_next_step_starts_from_it(attempt, dataset, monkeypatch):
    starts = []

    class Shift(CompressionStep):
        """Add one to all logits, which changes no decision."""

        def run(self, inputs):
            head = inputs.student.module.head
            starts.append(head.bias.sum().item())
            with torch.no_grad():
                head.bias += 1
            return StepOutput(network=inputs.student)

    monkeypatch.setattr(compression, "build_step", Shift)
    result, _ = attempt(resolve(dataset, STATIC, STATIC, export=["safetensors", "onnx"]).spec)

    assert starts[1] == pytest.approx(starts[0] + 3)
    folder = "model.int8-2.onnx"  # the name of the step whose place this one takes
    published = load_folder(result.artifacts[f"{folder}/config.json"].parent)
    assert published.module.head.bias.sum().item() == pytest.approx(starts[0] + 6, abs=1e-5)
    assert f"{folder}/model.onnx" in result.artifacts
    assert result.result["compressed"][1]["top1"] == result.result["student"]["top1"]
    student = load_folder(result.artifacts["config.json"].parent)
    assert student.module.head.bias.sum().item() == pytest.approx(starts[0])


def test_a_step_that_fails_leaves_the_job(attempt, dataset, monkeypatch):
    class Broken(CompressionStep):
        def run(self, inputs):
            raise ExportFailed("this network has no such operator.")

    monkeypatch.setattr(compression, "build_step", Broken)
    result, reporter = attempt(resolve(dataset, STATIC).spec)

    (entry,) = result.result["compressed"]
    assert (entry["status"], entry["artifact"], entry["top1"]) == ("failed", None, None)
    assert entry["reason"] == "this network has no such operator"
    assert [warning.code for warning in reporter.warnings()] == ["compression_failed"]


def test_an_interrupted_job_gives_the_same_files(attempt, dataset):
    steps = [{**STATIC, "max_top1_drop": 0.0}, {"name": "quantize", "dtype": "fp16"}]
    spec = resolve(dataset, *steps).spec
    uninterrupted, _ = attempt(spec, "uninterrupted")
    for after in (1, 5):
        with pytest.raises(Interrupted):
            attempt(spec, "interrupted", control=Control.DRAIN, stage=Stage.COMPRESS, after=after)
    with pytest.raises(Interrupted):
        attempt(spec, "interrupted", control=Control.PAUSE, stage=Stage.EVALUATE, after=1)
    again, reporter = attempt(spec, "interrupted")

    assert not [event for event in reporter.event_types if event.startswith("compression")]  # both steps are reused
    assert digests(again) == digests(uninterrupted)


def test_the_estimate_has_the_steps_and_their_warnings(dataset):
    resolution = resolve(dataset, {"name": "quantize"}, {"name": "quantize", "dtype": "fp16"})
    without = resolve(dataset)

    estimate = resolution.estimate
    assert [step["output"] for step in estimate["compression"]] == ["model.int8.onnx", "model.fp16.onnx"]
    assert estimate["seconds"] > without.estimate["seconds"]
    assert {"calibration_images_few", "held_out_images_few"} <= {each["code"] for each in estimate["warnings"]}


def test_a_student_with_two_classifiers_is_quantized(dataset):
    distilled = {"architecture": "deit_tiny_distilled_patch16_224", "arguments": {"patch_size": 4, "depth": 1}}

    assert resolve(dataset, {"name": "quantize", "dtype": "int4"}, student=distilled).spec.compression


def test_steps_that_cannot_work_are_refused(dataset):
    cnn = {"architecture": "resnet10t"}
    heads = {"name": "prune", "target": {"flops": 0.5}, "parts": ["heads"]}
    steps = [{"name": "quantize", "mode": "dynamic"}, {"name": "quantize", "dtype": "int4"}, heads]
    for step, name in zip(steps, ("/mode", "/dtype", ""), strict=True):
        with pytest.raises(InvalidSpec) as caught:
            resolve(dataset, step, student=cnn)

        assert {error.pointer for error in caught.value.errors} == {f"/compression/0{name}"}
