"""Int8 graphs by ONNX Runtime's quantizer: static with calibrated ranges of activations, or dynamic.

Weights have one scale per output channel. Which operators stay in float is decided by :mod:`core.compress.sensitivity`.

On x86 processors without VNNI, ONNX Runtime multiplies unsigned activations by signed weights with an instruction that
saturates, and quantizes signed activations to unsigned ones first. Products of two unsigned matrices are exact there,
so static graphs have unsigned weights. Dynamic ones have signed weights of 7 bits, which are exact and have the faster
kernel.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from core.errors import ExportFailed
from core.export.onnx_graph import INPUT
from core.export.reason import reason
from core.spec.compression.quantize import QuantizeParams

_PERCENTILE = 99.99
_DYNAMIC_OPERATORS = ("MatMul", "Gemm")  # ONNX Runtime has no dynamic kernel for convolutions with signed weights
CALIBRATION_BATCH = 32


@dataclass(frozen=True, slots=True)
class Int8Quantizer:
    """Quantizer of one float graph.

    Args:
        graph: Path of the float graph.
        ranges: Path of the calibrated ranges of activations; None quantizes dynamically.
    """

    params: QuantizeParams
    graph: Path
    ranges: Path | None = None
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", self._find_nodes())

    def _find_nodes(self) -> tuple[str, ...]:
        """Names of the nodes that can be quantized, in the order of the graph."""
        wanted = set(self.params.operators)
        if self.ranges is None:
            wanted &= set(_DYNAMIC_OPERATORS)
        model = onnx.load(self.graph, load_external_data=False)
        constants = {tensor.name for tensor in model.graph.initializer}
        return tuple(
            node.name
            for node in model.graph.node
            if node.op_type in wanted and (self.ranges is not None or node.input[1] in constants)
        )

    def quantize(self, names: Sequence[str]) -> onnx.ModelProto:
        """Return the graph with the nodes ``names`` in int8. Raises ``ExportFailed``."""
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

        output = self.graph.with_name("quantized.onnx")
        shared: dict[str, Any] = {
            "op_types_to_quantize": list(self.params.operators if self.ranges else _DYNAMIC_OPERATORS),
            "nodes_to_quantize": list(names),
            "per_channel": True,
        }
        try:
            with _quiet():
                if self.ranges is None:
                    quantize_dynamic(self.graph, output, weight_type=QuantType.QInt8, reduce_range=True, **shared)
                else:
                    quantize_static(
                        self.graph,
                        output,
                        quant_format=QuantFormat.QDQ,
                        activation_type=QuantType.QUInt8,
                        weight_type=QuantType.QUInt8,
                        calibration_cache_path=self.ranges,
                        calibrate_method=_calibration_method(self.params),
                        **shared,
                    )
            return onnx.load(output)
        except Exception as error:  # ONNX Runtime's errors have no common base class
            raise ExportFailed(f"ONNX Runtime cannot quantize the graph: {reason(error)}") from error


def calibrate(graph: Path, batches: Sequence[np.ndarray], params: QuantizeParams, poll: Callable[[], None]) -> Path:
    """Find the range of each activation of the graph over ``batches`` of inputs; write it beside the graph.

    Uses torch's number of threads. Raises ``ExportFailed``.
    """
    import onnxruntime
    from onnxruntime.quantization.calibrate import create_calibrator, save_tensors_data

    options: dict[str, Any] = {"percentile": {"symmetric": False, "percentile": _PERCENTILE}}.get(
        params.calibration, {}
    )
    path = graph.with_name("ranges.json")
    try:
        with _quiet():
            calibrator = create_calibrator(
                graph,
                list(params.operators),
                augmented_model_path=str(graph.with_name("augmented.onnx")),
                calibrate_method=_calibration_method(params),
                extra_options=options,
            )
            session_options = onnxruntime.SessionOptions()
            session_options.intra_op_num_threads = torch.get_num_threads()
            session_options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            calibrator.infer_session = onnxruntime.InferenceSession(
                calibrator.augmented_model_path, session_options, providers=["CPUExecutionProvider"]
            )
            for batch_BCHW in batches:
                poll()
                calibrator.collect_data(_Reader([batch_BCHW]))
            save_tensors_data(calibrator.compute_data(), path)
    except ValueError as error:
        raise ExportFailed(f"ONNX Runtime cannot calibrate the graph: {reason(error)}") from error
    return path


class _Reader:
    """Yields inputs, as ONNX Runtime's calibrators read them."""

    def __init__(self, batches: Sequence[np.ndarray]) -> None:
        self._batches: Iterator[np.ndarray] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def _calibration_method(params: QuantizeParams) -> Any:
    from onnxruntime.quantization import CalibrationMethod

    return {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }[params.calibration]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the quantizer's advice, which it logs with the root logger."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(level)
