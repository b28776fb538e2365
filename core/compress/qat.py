"""Quantization-aware training: a network with fake quantization is fine-tuned by distillation, then written as int8.

The file holds the very integers and scales of the training: QuantizeLinear and DequantizeLinear surround each layer,
and weights are stored as integers of 8 bits. So the accuracy of the file is that of the trained network.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from core.compress.base import StepInputs
from core.compress.fake_quantization import finalize, prepare
from core.data.holdout import draw_images
from core.data.pixels import Pixels
from core.errors import ExportFailed
from core.evaluate.held_out import image_batches
from core.export.onnx_graph import remove_traces, trace
from core.export.reason import reason
from core.models.built import BuiltModel
from core.spec.compression.quantize import QuantizeParams

_BATCH_SIZE = 32
_EXAMPLES = 2  # images of the exported example batch


def train(inputs: StepInputs, params: QuantizeParams) -> BuiltModel:
    """Add fake quantization to the student, and fine-tune it. Raises as ``StepInputs.fine_tune`` does."""
    student = inputs.student
    images = draw_images(inputs.training, params.calibration_images, inputs.seed)

    def calibrate() -> None:
        for images_BCHW in image_batches(images, _BATCH_SIZE):
            inputs.poll()
            student(images_BCHW)

    prepare(student.module, calibrate)
    return inputs.fine_tune(student, params)


def to_int8(student: BuiltModel, images: Pixels, scratch: Path) -> onnx.ModelProto:
    """Convert a network with fake quantization to a graph with int8 weights. Raises ``ExportFailed``."""
    import onnx_ir

    examples_BCHW = student.preprocessing(images.batch(torch.arange(_EXAMPLES)).float() / 255)
    module: nn.Module = student.module.cpu().eval()
    finalize(module)
    try:
        traced = trace(module, examples_BCHW, scratch)
        remove_traces(traced)
        model = onnx_ir.to_proto(traced)
        fold_weights(model)
    except Exception as error:  # the exporter's errors have no common base class
        raise ExportFailed(
            f"{student.architecture} with fake quantization cannot be expressed in ONNX: {reason(error)}"
        ) from error
    return model


def fold_weights(model: onnx.ModelProto) -> None:
    """Replace each QuantizeLinear of a constant by the integers that it computes; delete what is then unused."""
    graph = model.graph
    constants = _constants(graph)
    for node in [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] in constants]:
        values, scale, zero_point = (constants[name] for name in node.input)
        axis = next((each.i for each in node.attribute if each.name == "axis"), 1) if scale.size > 1 else None
        graph.initializer.append(numpy_helper.from_array(quantize(values, scale, zero_point, axis), node.output[0]))
        graph.node.remove(node)
    for output in {name for node in graph.node for name in node.input} & constants.keys():
        if output not in {tensor.name for tensor in graph.initializer}:
            graph.initializer.append(numpy_helper.from_array(constants[output], output))
    for node in [node for node in graph.node if node.output[0] in constants]:
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Values of initializers, constants, and casts of them, by name."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Cast" and node.input[0] in found:
            kind = onnx.helper.tensor_dtype_to_np_dtype(node.attribute[0].i)
            found[node.output[0]] = found[node.input[0]].astype(kind)
    return found


def quantize(values: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, axis: int | None) -> np.ndarray:
    """Compute ONNX's QuantizeLinear: round to even, add the zero point, saturate."""
    if axis is not None:
        shape = [1] * values.ndim
        shape[axis] = -1
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    limits = np.iinfo(zero_point.dtype)
    steps = np.rint(values / scale) + zero_point.astype(np.float64)
    integers: np.ndarray = np.clip(steps, limits.min, limits.max).astype(zero_point.dtype)
    return integers
