"""Graphs with all weights in float16, or with the weights of matrix products in int4."""

from __future__ import annotations

from pathlib import Path

import onnx

from core.errors import ExportFailed
from core.export.reason import reason


def to_float16(graph: Path) -> onnx.ModelProto:
    """Convert weights and activations to float16; inputs and logits stay float32. Raises ``ExportFailed``."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    try:
        return convert_float_to_float16(onnx.load(graph), keep_io_types=True)
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise ExportFailed(f"ONNX Runtime cannot convert the graph to float16: {reason(error)}") from error


def to_int4(graph: Path, *, block_size: int) -> onnx.ModelProto:
    """Store the weights of matrix products in 4 bits, with one scale and zero point for ``block_size`` of them.

    Activations are float32. The operator ``MatMulNBits`` is ONNX Runtime's own. Raises ``ExportFailed``.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    try:
        quantizer = MatMulNBitsQuantizer(onnx.load(graph), bits=4, block_size=block_size, is_symmetric=False)
        quantizer.process()
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise ExportFailed(f"ONNX Runtime cannot quantize the graph to int4: {reason(error)}") from error
    model: onnx.ModelProto = quantizer.model.model
    if all(node.op_type != "MatMulNBits" for node in model.graph.node):
        raise ExportFailed("the graph has no product of a matrix with weights, which int4 quantizes")
    return model
