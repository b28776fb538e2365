"""Exported files of a job: each receipt is reproduced under the file's own runtime, without the code of the export."""

import hashlib
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import timm
import torch
from PIL import Image

from core import pipeline
from core.data.decoding import decode_on_demand
from core.data.stored import StoredDataset, read_dataset_info
from core.reporting import NullReporter, Workspace
from core.resolve import resolver
from core.spec import parse_job_spec
from tests.support.images import store_band_images

ROOT = Path(__file__).parents[2]
SIZE = 8
HALF = {"format": "onnx", "precision": "fp16", "preprocessing": True}
FORMATS = ["onnx", HALF, {"format": "torch_export", "preprocessing": True}, "openvino"]
SPEC = {
    "dataset": "ds_bands",
    "student": {
        "architecture": "vit_tiny_patch16_224",
        "arguments": {"patch_size": 4, "embed_dim": 64, "depth": 1, "num_heads": 2},
    },
    "method": {"name": "scratch"},
    "training": {"epochs": 6, "batch_size": 16, "learning_rate": 3e-3, "image_size": SIZE},
    "export": FORMATS,
    "compression": [
        {"name": "merge", "ratio": 0.5, "max_top1_drop": 1.0},
        {"name": "quantize", "calibration_images": 16, "max_top1_drop": 1.0},
    ],
    "resources": {"threads": 1},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return store_band_images(tmp_path_factory.mktemp("bands"), num_train=30, num_test=20)


def run(dataset, root, **more):
    spec = resolver.resolve(parse_job_spec(SPEC | more), read_dataset_info(dataset), {}, threads=1).spec
    return pipeline.run(spec, Workspace(root=root / "run", cache=root / "cache", dataset=dataset), NullReporter())


@pytest.fixture(scope="module")
def job(dataset, tmp_path_factory):
    return run(dataset, tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def student(job):
    return load(job, "config.json")


@pytest.fixture(scope="module")
def merged(job):
    """The network of the first compression step, which the second one quantizes."""
    return load(job, "merged/config.json")


def load(job, config):
    return timm.create_model(f"local-dir:{job.artifacts[config].parent}", pretrained=True).eval()


def normalized(images, student):
    config = student.pretrained_cfg
    mean, std = (np.float32(config[name]).reshape(1, -1, 1, 1) for name in ("mean", "std"))
    return (images.astype(np.float32) / 255 - mean) / std


def open_plainly(path, student):
    """Return how a user runs a file: a function of normalized images, or of pixels."""
    match path.suffix:
        case ".safetensors":
            return lambda images: student(torch.from_numpy(images)).detach().numpy()
        case ".onnx":
            session = onnxruntime.InferenceSession(path)
            return lambda images: session.run(None, {"images": images})[0]
        case ".pt2":
            program = torch.export.load(path).module()
            return lambda images: program(torch.from_numpy(images)).detach().numpy()
        case ".xml":
            model = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            return lambda images: model(images)[0]


@pytest.mark.parametrize(
    ("name", "takes_pixels", "tolerance"),
    [
        ("model.safetensors", False, 0.0),
        ("model.onnx", False, 1e-5),
        ("model.fp16.onnx", True, 2e-2),
        ("model.pt2", True, 1e-5),
        ("model.xml", False, 1e-5),
        ("merged/model.safetensors", False, 0.0),
        ("merged/model.onnx", False, 1e-5),
        ("merged/model.fp16.onnx", True, 2e-2),
        ("merged/model.pt2", True, 1e-5),
        ("merged/model.xml", False, 1e-5),
        ("model.int8.onnx", False, 1.0),
    ],
)
def test_a_receipt_is_reproduced_under_the_runtime_of_its_file(
    job, dataset, student, merged, name, takes_pixels, tolerance
):
    path, receipt = job.artifacts[name], job.receipts[name]
    student = merged if "merged" in name or "int8" in name else student
    images = np.array(decode_on_demand(dataset, "test", SIZE, threads=1))
    with StoredDataset.open(dataset) as stored:
        labels = stored.split("test").labels.copy()
    predictions = open_plainly(path, student)(images if takes_pixels else normalized(images, student)).argmax(axis=1)
    samples = np.array(decode_on_demand(dataset, "train", SIZE, threads=1))[::1][:32]
    logits = open_plainly(path, student)(samples if takes_pixels else normalized(samples, student))
    expected = student(torch.from_numpy(normalized(samples, student))).detach().numpy()

    assert receipt["top1"] == (predictions == labels).mean() > 0.5
    assert receipt["evaluated_images"] == receipt["test_images"] == len(labels)
    assert receipt["logits"]["max_difference"] == pytest.approx(np.abs(logits - expected).max(), abs=1e-6)
    assert receipt["logits"]["max_difference"] <= tolerance
    assert receipt["logits"]["mean_difference"] <= receipt["logits"]["max_difference"]
    assert receipt["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert receipt["size_bytes"] == sum(job.artifacts[file["name"]].stat().st_size for file in receipt["files"])
    assert set(receipt["latency_ms"]) == {"1", "32"}
    assert receipt["versions"]["torch"] == torch.__version__.partition("+")[0]
    report = json.loads(job.artifacts["report.json"].read_text())
    assert report["exports"][name] == receipt


def test_every_file_of_a_network_has_a_receipt(job):
    documents = {"config.json", "README.md", "report.json", "predictions.npz", "merged/config.json"}

    assert set(job.artifacts) - documents == set(job.receipts)
    assert job.artifacts["README.md"].read_text().count("| compressed: ") == 6


def test_half_precision_halves_the_file(job):
    sizes = {name: job.artifacts[name].stat().st_size for name in ("model.onnx", "model.fp16.onnx")}

    assert sizes["model.fp16.onnx"] < 0.75 * sizes["model.onnx"]


def test_no_file_names_a_folder_of_the_server_or_holds_an_image(job, dataset):
    image = np.array(decode_on_demand(dataset, "train", SIZE, threads=1)[0])
    secrets = [str(ROOT), str(Path(torch.__file__).parents[1]), "site-packages", str(Path.home()), str(dataset.parent)]
    secrets += [".py", "/tmp/"]
    for name in job.receipts:
        path = job.artifacts[name]
        content = path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                content += b"".join(archive.read(member) for member in archive.namelist())
        assert [secret for secret in secrets if secret.encode() in content] == [], name
        assert image.tobytes() not in content
        assert image.astype(np.float32).tobytes() not in content


def test_the_same_student_has_the_same_files(job, dataset, tmp_path):
    again = run(dataset, tmp_path)

    assert {name: r["sha256"] for name, r in again.receipts.items()} == {
        name: r["sha256"] for name, r in job.receipts.items()
    }


@pytest.mark.parametrize("name", ["model.onnx", "model.fp16.onnx"])
def test_the_serving_example_of_the_docs_runs(job, dataset, student, name, tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "exports.md").read_text(), flags=re.DOTALL)
    pixels = np.array(decode_on_demand(dataset, "test", SIZE, threads=1)[5])
    monkeypatch.chdir(tmp_path)
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save("image.png")
    Path("model.onnx").write_bytes(job.artifacts[name].read_bytes())

    exec(code, {})

    classes = json.loads(job.artifacts["config.json"].read_text())["pretrained_cfg"]["label_names"]
    best = student(torch.from_numpy(normalized(pixels[None], student))).argmax().item()
    assert capsys.readouterr().out == f"{classes[best]}\n"


def test_the_opset_is_that_of_the_spec(dataset, tmp_path):
    result = run(dataset, tmp_path, export=[{"format": "onnx", "opset": 18}], training=SPEC["training"] | {"epochs": 1})

    (domain,) = (entry for entry in onnx.load(result.artifacts["model.onnx"]).opset_import if entry.domain == "")
    assert domain.version == result.receipts["model.onnx"]["opset"] == 18
