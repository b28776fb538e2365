import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import timm
import torch
from torch import nn

from core.errors import ExportMismatch
from core.export import export_onnx, open_session
from core.export.onnx_file import _check
from core.models.built import BuiltModel
from core.models.preprocessing import plain_preprocessing


def test_onnx_runtime_and_torch_agree_for_any_batch_size(student, samples, tmp_path):
    path = tmp_path / "model.onnx"
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        difference = export_onnx(student, path, samples_NCHW=samples, classes=("a", "b", "c"))
    finally:
        torch.use_deterministic_algorithms(False)

    assert difference < 1e-5
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    session = open_session(path, threads=1)
    (graph_input,), (graph_output,) = session.get_inputs(), session.get_outputs()
    assert (graph_input.name, graph_input.shape, graph_input.type) == ("images", ["batch", 1, 8, 8], "tensor(float)")
    assert graph_output.name == "logits"
    student.module.eval()
    for count in (1, 7, 40):
        inputs = student.preprocessing(torch.tensor(samples[:count]).float() / 255)
        (logits,) = session.run(["logits"], {"images": inputs.numpy()})
        assert np.allclose(logits, student.module(inputs).detach().numpy(), atol=1e-5)
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert metadata["architecture"] == "deit_tiny_distilled_patch16_224"
    assert json.loads(metadata["classes"]) == ["a", "b", "c"]
    assert json.loads(metadata["preprocessing"])["mean"] == [0.5]


def test_a_network_with_batch_norm_exports_with_a_single_sample(samples, tmp_path):
    arguments = {"num_classes": 3, "in_chans": 1, "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
    cnn = BuiltModel(
        timm.create_model("resnet18", **arguments).train(),
        "resnet18",
        arguments,
        plain_preprocessing(image_size=8, channels=1),
    )

    assert export_onnx(cnn, tmp_path / "model.onnx", samples_NCHW=samples[:1], classes=None) < 1e-4


class DataDependentBranch(nn.Module):
    def forward(self, images):
        return images.mean(dim=(2, 3)) if images.sum() > 0 else images.amax(dim=(2, 3))


def test_a_network_that_onnx_cannot_express_leaves_no_file(student, samples, tmp_path):
    with pytest.raises(ExportMismatch, match="leave onnx out of export"):
        export_onnx(
            replace(student, module=DataDependentBranch()), tmp_path / "m.onnx", samples_NCHW=samples, classes=None
        )

    assert list(tmp_path.iterdir()) == []


def test_differing_outputs_are_rejected(student, samples, tmp_path):
    export_onnx(student, tmp_path / "model.onnx", samples_NCHW=samples, classes=None)
    inputs = student.preprocessing(torch.tensor(samples).float() / 255)
    wrong = student.module.eval()(inputs).detach() + 0.01

    with pytest.raises(ExportMismatch, match=r"differ from torch's by 0\.01"):
        _check(tmp_path / "model.onnx", inputs, wrong)
