"""The student as an ONNX graph with a dynamic batch size, checked against torch before it is published.

Input ``images``: float32 ``(batch, channels, size, size)``, normalized as the metadata describes. Output
``logits``: float32 ``(batch, classes)``.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from core.data.pixels import Images
from core.errors import ExportMismatch
from core.export.formats import ExportContext
from core.models.built import BuiltModel
from core.system.disk import atomic_path, writing
from core.system.fault_injection import fault_point

if TYPE_CHECKING:
    import onnxruntime

INPUT, OUTPUT = "images", "logits"
ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE = 1e-4, 1e-3
"""Largest accepted difference of a logit: absolute plus relative times torch's value. Usual is below 1e-5."""

PARITY_IMAGES = 32
_MAX_BATCH_SIZE = 65_536
_LOG_SEVERITY_ERROR = 3


def export(student: BuiltModel, context: ExportContext) -> dict[str, Any]:
    """Write the ONNX file, and return the result of the comparison with torch for the report."""
    difference = export_onnx(student, context.path, samples_NCHW=context.samples, classes=student.classes)
    return {
        "largest_logit_difference": difference,
        "accepted": f"{ABSOLUTE_TOLERANCE} + {RELATIVE_TOLERANCE} × |logit|",
        "images": min(PARITY_IMAGES, len(context.samples)),
        "size_bytes": context.path.stat().st_size,
    }


def export_onnx(student: BuiltModel, path: Path, *, samples_NCHW: Images, classes: Sequence[str] | None) -> float:
    """Write ``path`` atomically; return the largest difference of a logit from torch on real images.

    Raises:
        StorageFailed: The file cannot be written.
        ExportMismatch: torch cannot express the network in ONNX, or the outputs of ONNX Runtime differ.
    """
    module = student.module.cpu().eval()
    images = torch.from_numpy(np.array(samples_NCHW[:PARITY_IMAGES])).float() / 255
    inputs = student.preprocessing(images)
    with writing(path.name), atomic_path(path, unique=False) as temporary:  # one job writes to the folder
        _write(student, module, inputs, temporary, classes)
        with torch.inference_mode():
            expected = module(inputs)
        difference = _check(temporary, inputs, expected)
        fault_point("onnx.written")
    return difference


def open_session(path: Path, *, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Open an ONNX Runtime session on the CPU; ``threads`` defaults to torch's number of threads."""
    # Imported here, because the import starts a thread, and workers fork jobs from a process with this module.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = _LOG_SEVERITY_ERROR
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _write(
    student: BuiltModel, module: torch.nn.Module, inputs: Tensor, path: Path, classes: Sequence[str] | None
) -> None:
    # A batch of two, because torch.export treats a batch size of one as a constant.
    example = (inputs if len(inputs) > 1 else inputs.repeat(2, 1, 1, 1))[:2]
    batch = torch.export.Dim("batch", min=1, max=_MAX_BATCH_SIZE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns about its own internals
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: batch},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    except Exception as error:  # the exporter's errors have no common base class
        lines = str(error).strip().splitlines()
        raise ExportMismatch(
            f"{student.architecture} cannot be expressed in ONNX: {lines[0] if lines else type(error).__name__}; leave "
            "onnx out of export"
        ) from error
    assert program is not None
    preprocessing = student.preprocessing
    program.model.producer_name = "potstill"
    program.model.metadata_props.update(
        {
            "architecture": student.architecture,
            "preprocessing": json.dumps({"scale": 1 / 255, **preprocessing.to_config()}),
            "classes": json.dumps(list(classes) if classes is not None else None, ensure_ascii=False),
        }
    )
    program.save(str(path), external_data=False)


def _check(path: Path, inputs: Tensor, expected: Tensor) -> float:
    """Compare on one, two and all images, which tests the dynamic batch size; return the largest difference."""
    session = open_session(path)
    largest_difference = 0.0
    for count in sorted({1, min(2, len(inputs)), len(inputs)}):
        try:
            logits = torch.from_numpy(session.run([OUTPUT], {INPUT: inputs[:count].numpy()})[0])
        except Exception as error:  # ONNX Runtime's errors have no common base class
            raise ExportMismatch(f"ONNX Runtime cannot run the exported file on {count} images: {error}") from error
        target = expected[:count]
        if logits.shape != target.shape or not torch.allclose(
            logits, target, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE
        ):
            difference = (logits - target).abs().max().item() if logits.shape == target.shape else float("nan")
            raise ExportMismatch(f"ONNX Runtime's logits differ from torch's by {difference:.2g} on {count} images.")
        largest_difference = max(largest_difference, (logits - target).abs().max().item())
    return largest_difference
