import json
import re
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from starlette.testclient import TestClient

from core.errors import StorageFailed, WeightsMismatch
from core.export import export_student, failure_warning, onnx_file
from core.export.onnx_graph import CONVERTERS
from core.job_warnings import JobWarning
from core.reporting import NullReporter
from core.spec.exports import export_options
from tests.core.export.conftest import CLASSES

ONNX = export_options("onnx")
SERVING = Path(__file__).parents[3] / "docs" / "serving.md"


class WarningList(NullReporter):
    """A reporter that keeps warnings."""

    def __init__(self):
        self.kept = []

    def warning(self, warning):
        self.kept.append(warning)

    def warnings(self):
        return self.kept


def export(folder, spec, dataset, result, inputs, *, reporter=None, **options):
    return export_student(
        folder,
        spec=spec,
        dataset=dataset,
        result=result,
        details={},
        stages={},
        inputs=inputs,
        reporter=reporter or WarningList(),
        **options,
    ).files


def test_every_file_exists_and_the_code_of_the_card_runs(
    folder, spec, student, dataset, result, inputs, samples, monkeypatch, tmp_path_factory
):
    files = export(folder, spec, dataset, result, inputs)

    names = ["README.md", "config.json", "model.onnx", "model.safetensors", "report.json"]
    assert sorted(files) == sorted(path.name for path in folder.iterdir()) == names
    report = json.loads(files["report.json"].read_text())
    assert report["exports"]["model.onnx"]["logits"]["max_difference"] < 1e-5
    assert report["exports"]["model.onnx"]["logits"]["images"] == 32

    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    Image.fromarray(samples[0, 0]).save("image.png")
    code = re.search(r"```python\n(.*?)```", files["README.md"].read_text(), re.DOTALL)[1]
    scope = {}
    exec(code.replace("PATH_OF_THIS_FOLDER", str(folder)), scope)
    with torch.inference_mode():
        expected = student.module.eval()(student.preprocessing(torch.tensor(samples[:1]).float() / 255))
    assert torch.allclose(scope["probabilities"], expected.softmax(1), atol=1e-5)

    # The programs of docs/serving.md, one after the other.
    Path("student").symlink_to(folder)
    scope = {}
    for code in re.findall(r"```python\n(.*?)```", SERVING.read_text(), re.DOTALL):
        exec(code, scope)
    with TestClient(scope["app"]) as client:
        answer = client.post("/classify", files={"file": Path("image.png").read_bytes()})
    assert answer.json() == {"class": CLASSES[int(expected.argmax())]}
    pixels = scope["transform"](Image.open("image.png").convert("L"))[None]
    assert torch.allclose(scope["student"](pixels), expected, atol=1e-4)


def test_onnx_is_exported_only_on_request(folder, spec, dataset, result, inputs):
    without_onnx = spec.model_copy(update={"export": ("safetensors",)})

    assert "model.onnx" not in export(folder, without_onnx, dataset, result, inputs)
    assert timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes == 3


def test_a_folder_that_cannot_be_loaded_gets_no_report(folder, spec, dataset, result, inputs):
    (folder / "config.json").write_text("{}")
    with pytest.raises(WeightsMismatch):
        export(folder, spec, dataset, result, inputs)

    assert not (folder / "report.json").exists()


def test_poll_can_interrupt(folder, spec, dataset, result, inputs):
    def poll():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(folder, spec, dataset, result, inputs, poll=poll)
    assert not (folder / "model.onnx").exists()


def fail(_module, _example, scratch, _opset):
    scratch.write_bytes(b"half a file")
    raise RuntimeError("\x1b[96mThis is step 2/3\x1b[0m of /srv/app/exporter.py\nmore")


def test_a_format_that_fails_leaves_the_other_files_and_a_warning(folder, spec, dataset, result, inputs, monkeypatch):
    for name in CONVERTERS:
        monkeypatch.setitem(CONVERTERS, name, fail)
    reporter = WarningList()

    files = export(folder, spec, dataset, result, inputs, reporter=reporter)

    names = ["README.md", "config.json", "model.safetensors", "report.json"]
    assert sorted(files) == sorted(path.name for path in folder.iterdir()) == names
    why = "deit_tiny_distilled_patch16_224 cannot be expressed in ONNX: This is step 2/3 of exporter.py"
    (warning,) = reporter.kept
    assert warning == JobWarning(
        code="export_failed",
        field="/export",
        message=f"model.onnx is left out: {why}",
        fix="leave onnx out of export, or take another student; the other files are complete",
    )
    report = json.loads(files["report.json"].read_text())
    assert report["exports"]["model.onnx"] == {"failed": why}
    assert report["warnings"] == [warning.model_dump(mode="json")]
    assert "model.onnx" not in files["README.md"].read_text()


@pytest.mark.parametrize("error", [MemoryError("no room"), KeyError("op")])
def test_any_exception_of_a_format_leaves_the_other_files(error, folder, spec, dataset, result, inputs, monkeypatch):
    def export_half(student, context):
        context.path.write_bytes(b"half a file")
        raise error

    monkeypatch.setattr(onnx_file, "export", export_half)
    reporter = WarningList()

    files = export(folder, spec, dataset, result, inputs, reporter=reporter)

    assert "model.onnx" not in files
    assert not (folder / "model.onnx").exists()
    assert "onnx cannot be written: " in reporter.kept[0].message


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), StorageFailed("the disk is full")])
def test_a_disk_error_of_a_format_fails_the_job(error, folder, spec, dataset, result, inputs, monkeypatch):
    def export_nothing(student, context):
        raise error

    monkeypatch.setattr(onnx_file, "export", export_nothing)

    with pytest.raises(StorageFailed, match="the disk is full"):
        export(folder, spec, dataset, result, inputs)


def test_a_format_that_is_known_to_fail_is_not_tried_again(folder, spec, dataset, result, inputs, monkeypatch):
    def export_nothing(student, context):
        raise AssertionError

    monkeypatch.setattr(onnx_file, "export", export_nothing)
    reporter = WarningList()

    files = export(folder, spec, dataset, result, inputs, reporter=reporter, failed={ONNX: "why"})

    assert "model.onnx" not in files
    assert reporter.kept == [failure_warning({ONNX: "why"})]
