"""The registry of export formats: adding a format takes one file and one line."""

import hashlib
import json
import sys
from types import ModuleType

import pytest
import torch
from pydantic import ValidationError

from core.errors import ExportFailed
from core.export.formats import check_format, exporter
from core.export.student import export_student
from core.job_failure import _reduce_export
from core.reporting import NullReporter
from core.spec import JobSpec
from core.spec.exports import EXPORT_FORMATS, REQUIRED_FORMAT, ExportFormat, media_type
from tests.core.export.conftest import SPEC


@pytest.fixture
def toy_format(monkeypatch):
    """Register a format: a module with one function, and one line in the registry."""

    def export(student, context):
        context.poll()
        context.path.write_text(student.architecture)
        return {"images": len(context.samples), "logits": {"max_difference": 0.0}}

    def open_runner(path):
        assert path.read_text()
        return lambda images: torch.nn.functional.one_hot(torch.zeros(len(images), dtype=torch.int64), 3).float()

    module = ModuleType("toy_file")
    module.export, module.open_runner = export, open_runner
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entry = ExportFormat("model.toy", "text/plain", "toy_file:export", "a toy", ("pytest",))
    monkeypatch.setitem(EXPORT_FORMATS, "toy", entry)


@pytest.mark.parametrize("name", EXPORT_FORMATS)
def test_every_implementation_can_be_imported(name):
    assert callable(exporter(name))


def test_every_artifact_has_its_own_name():
    names = [entry.file_name for entry in EXPORT_FORMATS.values()]

    assert len({*names, "config.json", "README.md", "report.json"}) == len(names) + 3


@pytest.mark.parametrize("value", ["toy", "", 3, None, ["onnx"]])
def test_an_unregistered_format_is_rejected_as_a_literal_is(value):
    with pytest.raises(ValidationError) as rejection:
        JobSpec.model_validate(SPEC | {"export": [value]})

    (error,) = rejection.value.errors()
    assert (error["type"], error["loc"]) == ("literal_error", ("export", 0, "name"))
    assert error["msg"].startswith("Input should be 'safetensors', 'onnx', ")


def test_the_schema_lists_the_formats():
    names, *objects = JobSpec.model_json_schema()["properties"]["export"]["items"]["oneOf"]

    assert names == {"enum": list(EXPORT_FORMATS), "type": "string"}
    assert [each["$ref"] for each in objects] == [
        f"#/$defs/{entry.options.__name__}" for entry in EXPORT_FORMATS.values()
    ]


def test_a_new_format_is_validated_exported_and_reported(toy_format, folder, dataset, result, inputs):
    spec = JobSpec.model_validate(SPEC | {"export": ["toy"]})
    assert spec.export == ("safetensors", "toy")

    exported = export_student(
        folder,
        spec=spec,
        dataset=dataset,
        result=result,
        details={},
        stages={},
        inputs=inputs,
        reporter=NullReporter(),
    )
    files = exported.files

    assert files["model.toy"].read_text() == "deit_tiny_distilled_patch16_224"
    assert sorted(files) == ["README.md", "config.json", "model.safetensors", "model.toy", "report.json"]
    report = json.loads(files["report.json"].read_text())
    receipt = report["exports"]["model.toy"]
    assert receipt == exported.receipts["model.toy"]
    assert receipt["images"] == 40
    assert (receipt["agreement"], receipt["top1"]) == (1.0, receipt["top1_student"])
    assert receipt["sha256"] == hashlib.sha256(b"deit_tiny_distilled_patch16_224").hexdigest()
    assert receipt["versions"]["pytest"] == pytest.__version__
    assert report["spec"]["export"] == ["safetensors", "toy"]
    assert report["versions"]["pytest"] == pytest.__version__
    assert "| a toy |" in files["README.md"].read_text()


def test_a_new_format_is_published_with_its_media_type(toy_format):
    assert media_type("model.toy") == "text/plain"
    assert media_type("README.md") == "text/markdown; charset=utf-8"
    assert media_type("report.json") == media_type("config.json") == "application/json"
    assert media_type("model.onnx") == media_type("model.safetensors") == "application/octet-stream"


def test_the_fix_for_a_failed_export_omits_optional_formats(toy_format):
    advice, fix = _reduce_export({"export": ["safetensors", "toy"]}, "export")

    assert "omits the export of toy" in advice
    assert fix == {"export": [REQUIRED_FORMAT]}


def test_a_format_may_know_networks_that_it_does_not_hold(toy_format, student, monkeypatch):
    check_format("toy", student)

    def check(network):
        raise ExportFailed(f"{network.architecture} has no toy")

    monkeypatch.setattr(sys.modules["toy_file"], "check", check, raising=False)
    with pytest.raises(ExportFailed, match="deit_tiny_distilled_patch16_224 has no toy"):
        check_format("toy", student)
