"""ONNX Runtime's quantizer with its defaults: all operators, one scale per tensor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.compression.plan import PEER_DYNAMIC, PEER_STATIC
from core.data.holdout import draw_images
from core.data.pixels import Pixels
from core.evaluate.held_out import image_batches
from core.export.onnx_graph import INPUT
from core.models.preprocessing import Preprocessing

NUM_IMAGES = 256  # the default of the step `quantize`
_BATCH_SIZE = 32


def quantize(source: Path, train: Pixels, preprocessing: Preprocessing, folder: Path, *, seed: int) -> dict[str, Path]:
    """Quantize an ONNX file with training images as calibration; return the files by arm."""
    folder.mkdir(parents=True, exist_ok=True)
    prepared = folder / "prepared.onnx"
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    static, dynamic = folder / "static.onnx", folder / "dynamic.onnx"
    images = draw_images(train, NUM_IMAGES, seed)
    batches = (preprocessing(batch_BCHW).numpy() for batch_BCHW in image_batches(images, _BATCH_SIZE))
    quantize_static(prepared, static, _Reader(batches))
    quantize_dynamic(prepared, dynamic)
    return {PEER_STATIC: static, PEER_DYNAMIC: dynamic}


class _Reader(CalibrationDataReader):
    def __init__(self, batches: Iterator[NDArray[np.float32]]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the inputs of the next batch; None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}
