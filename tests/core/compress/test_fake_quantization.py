"""Fake quantization with learned scales, and its graph."""

import math

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import numpy_helper
from torch import nn

from core.compress import qat
from core.compress.fake_quantization import LearnedScale, prepare, quantized_layers
from core.data.pixels import Pixels
from core.export.onnx_file import open_session
from core.models.built import BuiltModel
from core.models.preprocessing import plain_preprocessing


@pytest.fixture
def values():
    return torch.randn(6, 50, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("is_weight", [True, False])
def test_training_and_evaluation_round_to_the_same_grid(values, is_weight):
    scale = LearnedScale.for_weight(values) if is_weight else LearnedScale.for_activation(-0.2, 2.0)
    trained = scale.train()(values)
    evaluated = scale.eval()(values)

    torch.testing.assert_close(trained, evaluated, rtol=0, atol=1e-6)
    assert len(trained.unique()) <= 256 * (6 if is_weight else 1)


def test_a_weight_is_stored_without_clipping_and_an_activation_keeps_zero(values):
    weight, activation = LearnedScale.for_weight(values), LearnedScale.for_activation(0.5, 4.0)

    assert float((weight.eval()(values) - values).abs().max()) <= float(weight.scale.detach().max()) / 2 + 1e-6
    assert float(activation.eval()(torch.zeros(1))) == 0.0
    assert int(activation.zero_point) == 0  # nonnegative values use all 256 levels
    assert float(activation(torch.tensor([4.0]))) == pytest.approx(4.0)


def test_gradients_are_those_of_lsq():
    """Equation 3 of arXiv:1902.08153: round(v/s) − v/s inside of the range, Qn or Qp outside."""
    scale = LearnedScale(torch.tensor(0.1), torch.tensor(128), is_weight=False).train()
    values = torch.tensor([0.234, -0.07, 50.0, -50.0], requires_grad=True)
    scale(values).sum().backward()

    expected = (2 - 2.34) + (-1 + 0.7) + 127 - 128
    assert values.grad.tolist() == [1, 1, 0, 0]
    assert float(scale.scale.grad) == pytest.approx(expected / math.sqrt(4 * 127), rel=1e-4)


@pytest.fixture
def network():
    """A tiny ViT and images."""
    arguments = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "in_chans": 1,
                 "num_classes": 3}  # fmt: skip
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", **arguments).eval()
    images = np.random.default_rng(0).integers(0, 256, (64, 1, 8, 8), dtype=np.uint8)
    built = BuiltModel(module, "vit_tiny_patch16_224", arguments, plain_preprocessing(image_size=8, channels=1))
    return built, Pixels(images, torch.zeros(64, dtype=torch.int64))


def test_the_graph_computes_what_was_trained_and_stores_integers(network, tmp_path):
    built, pixels = network
    inputs = built.preprocessing(torch.from_numpy(pixels.images).float() / 255)
    with torch.no_grad():
        before = built.module(inputs)
        prepare(built.module, lambda: built.module(inputs))
        for scale in (part for part in built.module.modules() if isinstance(part, LearnedScale)):
            scale.scale *= 1.07  # a learned value
        trained = built.module.eval()(inputs)
    model = qat.to_int8(built, pixels, tmp_path / "traced.onnx")
    onnx.save(model, tmp_path / "model.onnx")
    (logits,) = open_session(tmp_path / "model.onnx").run(["logits"], {"images": inputs.numpy()})

    assert not torch.equal(trained, before)
    assert float((torch.from_numpy(logits) - trained).abs().max()) < 0.1 * float((trained - before).abs().max())
    types = [numpy_helper.to_array(tensor).dtype for tensor in model.graph.initializer if len(tensor.dims) > 1]
    assert types.count(np.dtype(np.uint8)) == len(quantized_layers(built.module)) == 6
    sizes = [math.prod(t.dims) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert max(sizes) <= 16 * 5  # no float weight, only the position embedding and vectors


def test_integers_are_those_of_onnx():
    values, scale = np.array([[0.25, -0.75, 40.0], [0.5, 1.5, -900.0]], np.float32), np.array([0.5, 1.0], np.float32)

    assert qat.quantize(values, scale, np.zeros(2, np.int8), 0).tolist() == [[0, -2, 80], [0, 2, -128]]
    assert qat.quantize(values, np.float32(0.5), np.array(3, np.int8), None).tolist() == [[3, 1, 83], [4, 6, -128]]


def test_a_shared_layer_is_quantized_once():
    layer = nn.Linear(4, 4)
    module = nn.Sequential(layer, layer)
    prepare(module, lambda: module(torch.ones(2, 4)))

    assert sum(isinstance(part, LearnedScale) for part in module.modules()) == 2
