import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from torch import nn

from core.errors import ExportFailed, ExportMismatch
from core.export import export_onnx, onnx_file, open_session
from core.export.onnx_file import export_with, open_runner
from core.export.onnx_graph import CONVERTERS
from core.export.parity import TOLERANCES, compare, parity_images, student_logits
from core.models.built import BuiltModel
from core.models.preprocessing import plain_preprocessing


def test_onnx_runtime_and_torch_agree_for_any_batch_size(student, samples, tmp_path):
    path = tmp_path / "model.onnx"
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        exporter, difference = export_onnx(replace(student, classes=("a", "b", "c")), path, samples_NCHW=samples)
    finally:
        torch.use_deterministic_algorithms(False)

    assert exporter == "torchscript"
    assert difference.max < 1e-5
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

    _, difference = export_onnx(cnn, tmp_path / "model.onnx", samples_NCHW=samples[:1])
    assert difference.max < 1e-4


class DataDependentBranch(nn.Module):
    def forward(self, images):
        return images.mean(dim=(2, 3)) if images.sum() > 0 else images.amax(dim=(2, 3))


def test_a_network_that_onnx_cannot_express_leaves_no_file(student, samples, tmp_path):
    with pytest.raises(ExportFailed) as failure:
        export_onnx(replace(student, module=DataDependentBranch()), tmp_path / "m.onnx", samples_NCHW=samples)

    assert "cannot be expressed in ONNX: it decides on the values of its images" in failure.value.detail
    assert list(tmp_path.iterdir()) == []


class WithoutOperator(nn.Module):
    def forward(self, images):
        return torch.special.bessel_j0(images).mean(dim=(2, 3))


def test_a_failed_export_prints_nothing(student, samples, tmp_path, capfd):
    with pytest.raises(ExportFailed, match="cannot be expressed in ONNX"):
        export_onnx(replace(student, module=WithoutOperator()), tmp_path / "m.onnx", samples_NCHW=samples)

    assert capfd.readouterr().out == ""


ATTENTION_WITH_BIAS = [
    ("beit_base_patch16_224", {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}, 32),
    ("maxvit_rmlp_pico_rw_256", {"img_size": 64, "depths": [1, 1], "embed_dim": [32, 64], "stem_width": 16}, 64),
]


@pytest.mark.parametrize(
    ("name", "arguments", "size", "exporter"),
    [
        *((*ATTENTION_WITH_BIAS[0], exporter) for exporter in CONVERTERS),
        (*ATTENTION_WITH_BIAS[1], "torchscript"),
        pytest.param(*ATTENTION_WITH_BIAS[1], "torch.export", marks=pytest.mark.slow),
    ],
)
def test_attention_with_a_bias_has_a_file_from_each_exporter(name, arguments, size, exporter, tmp_path):
    arguments = {"num_classes": 3, "in_chans": 3, **arguments}
    torch.manual_seed(0)
    built = BuiltModel(
        timm.create_model(name, **arguments), name, arguments, plain_preprocessing(image_size=size, channels=3)
    )
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, size, size), np.uint8))

    difference = export_with(
        CONVERTERS[exporter], built, tmp_path / "m.onnx", images=images, expected=student_logits(built, images)
    )

    assert difference.max < 1e-5


@pytest.mark.parametrize("exporter", CONVERTERS)
def test_the_file_has_no_trace_of_the_server(student, samples, exporter, tmp_path):
    path = tmp_path / "m.onnx"
    images = parity_images(samples)
    export_with(CONVERTERS[exporter], student, path, images=images, expected=student_logits(student, images))

    model = onnx.load(path)
    assert not [node.name for node in model.graph.node if node.metadata_props or node.doc_string]
    assert {entry.key for entry in model.metadata_props} == {"architecture", "preprocessing", "classes"}
    for secret in (str(Path(torch.__file__).parent), str(Path(timm.__file__).parent), "site-packages", ".py", "pkg."):
        assert secret.encode() not in path.read_bytes()


def test_a_second_exporter_replaces_one_that_fails(student, samples, tmp_path, monkeypatch):
    def fail(module, example, scratch, opset):
        scratch.write_text("half")
        raise RuntimeError("\x1b[96mno\x1b[0m")

    monkeypatch.setitem(CONVERTERS, "torchscript", fail)
    exporter, _ = export_onnx(student, tmp_path / "model.onnx", samples_NCHW=samples)

    assert exporter == "torch.export"
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_a_second_exporter_replaces_one_whose_file_differs(student, samples, tmp_path, monkeypatch):
    other = replace(student, module=copy.deepcopy(student.module))
    torch.nn.init.ones_(other.module.head.weight)
    convert = CONVERTERS["torchscript"]
    monkeypatch.setitem(CONVERTERS, "torchscript", lambda _module, *rest: convert(other.module.eval(), *rest))

    exporter, _ = export_onnx(student, tmp_path / "model.onnx", samples_NCHW=samples)

    assert exporter == "torch.export"


def test_the_reason_is_that_of_the_first_exporter(student, samples, tmp_path, monkeypatch):
    def fail(text):
        def convert(module, example, scratch, opset):
            raise ValueError(text)

        return convert

    monkeypatch.setitem(CONVERTERS, "torchscript", fail("first"))
    monkeypatch.setitem(CONVERTERS, "torch.export", fail("second"))

    with pytest.raises(ExportFailed, match=r"cannot be expressed in ONNX: first$"):
        export_onnx(student, tmp_path / "model.onnx", samples_NCHW=samples)


def test_known_failures_hold_for_their_versions_only(student, monkeypatch, tmp_path):
    table = tmp_path / "failures.json"
    monkeypatch.setattr(onnx_file, "_KNOWN_FAILURES", table)
    onnx_file._known_failures.cache_clear()
    try:
        table.write_text(json.dumps({"versions": {"timm": "0"}, "architectures": {student.architecture: "why"}}))
        onnx_file.check(student)
        onnx_file._known_failures.cache_clear()
        table.write_text(
            json.dumps({"versions": {"timm": timm.__version__}, "architectures": {student.architecture: "why"}})
        )
        with pytest.raises(ExportFailed, match="cannot be expressed in ONNX: why"):
            onnx_file.check(student)
    finally:
        onnx_file._known_failures.cache_clear()


def test_weights_beyond_two_gigabytes_are_known_to_fail(student):
    with torch.device("meta"):
        large = replace(student, module=nn.Linear(2**15, 2**14 + 1, bias=False))

    with pytest.raises(ExportFailed, match="2,147,614,720 bytes exceed"):
        onnx_file.check(large)


def test_differing_outputs_are_rejected(student, samples, tmp_path):
    export_onnx(student, tmp_path / "model.onnx", samples_NCHW=samples)
    inputs = student.preprocessing(torch.tensor(samples).float() / 255)
    wrong = student.module.eval()(inputs).detach() + 0.01

    with pytest.raises(ExportMismatch, match=r"differ from torch's by 0\.01"):
        compare(open_runner(tmp_path / "model.onnx"), inputs, wrong, TOLERANCES["fp32"], runtime="ONNX Runtime")
