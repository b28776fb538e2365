import json
import re

import pytest
import timm
import torch
from PIL import Image

from core.errors import WeightsMismatch
from core.export import export_student


def export(folder, spec, dataset, result, samples, **options):
    return export_student(
        folder,
        spec=spec,
        dataset=dataset,
        result=result,
        details={},
        stages={},
        samples_NCHW=samples,
        **options,
    )


def test_every_file_exists_and_the_code_of_the_card_runs(
    folder, spec, student, dataset, result, samples, monkeypatch, tmp_path_factory
):
    files = export(folder, spec, dataset, result, samples)

    names = ["README.md", "config.json", "model.onnx", "model.safetensors", "report.json"]
    assert sorted(files) == sorted(path.name for path in folder.iterdir()) == names
    report = json.loads(files["report.json"].read_text())
    assert report["details"]["onnx"]["largest_logit_difference"] < 1e-5
    assert report["details"]["onnx"]["images"] == 32

    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    Image.fromarray(samples[0, 0]).save("image.png")
    code = re.search(r"```python\n(.*?)```", files["README.md"].read_text(), re.DOTALL)[1]
    scope = {}
    exec(code.replace("PATH_OF_THIS_FOLDER", str(folder)), scope)
    with torch.inference_mode():
        expected = student.module.eval()(student.preprocessing(torch.tensor(samples[:1]).float() / 255))
    assert torch.allclose(scope["probabilities"], expected.softmax(1), atol=1e-5)


def test_onnx_is_exported_only_on_request(folder, spec, dataset, result, samples):
    without_onnx = spec.model_copy(update={"export": ("safetensors",)})

    assert "model.onnx" not in export(folder, without_onnx, dataset, result, samples)
    assert timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes == 3


def test_a_folder_that_cannot_be_loaded_gets_no_report(folder, spec, dataset, result, samples):
    (folder / "config.json").write_text("{}")
    with pytest.raises(WeightsMismatch):
        export(folder, spec, dataset, result, samples)

    assert not (folder / "report.json").exists()


def test_poll_can_interrupt(folder, spec, dataset, result, samples):
    def poll():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(folder, spec, dataset, result, samples, poll=poll)
    assert not (folder / "model.onnx").exists()
