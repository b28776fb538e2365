"""ONNX: the student as a graph with a dynamic batch, checked against torch before anybody gets it.

Input ``images``: float32 ``(batch, channels, size, size)``, normalised as the metadata says. Output
``logits``: float32 ``(batch, classes)``.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from core.data.pixels import Images
from core.errors import ExportMismatch
from core.models.built import BuiltModel
from core.system.disk import writing
from core.system.fault_injection import fault_point

if TYPE_CHECKING:
    import onnxruntime

INPUT, OUTPUT = "images", "logits"
ABSOLUTE, RELATIVE = 1e-4, 1e-3
"""Largest accepted difference of a logit: ABSOLUTE + RELATIVE times torch's value. Usual is below 1e-5."""

PARITY_IMAGES = 32
_LARGEST_BATCH = 65_536
_LOGGING_ERRORS_ONLY = 3


def export_onnx(student: BuiltModel, path: Path, *, samples_NCHW: Images, classes: Sequence[str] | None) -> float:
    """Write ``path``, whole or not at all, and return the largest difference of a logit on real pictures.

    Raises:
        StorageFailed: The disk refuses.
        ExportMismatch: torch cannot express the network in ONNX, or ONNX Runtime answers otherwise.
    """
    module = student.module.cpu().eval()
    pictures = torch.from_numpy(np.array(samples_NCHW[:PARITY_IMAGES])).float() / 255
    inputs = student.preprocessing(pictures)
    beside = path.with_name(f".{path.name}.part")
    try:
        _write(student, module, inputs, beside, classes)
        with torch.inference_mode():
            expected = module(inputs)
        difference = _check(beside, inputs, expected)
        with writing(path.name):
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            fault_point("onnx.written")
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return difference


def open_session(path: Path, *, threads: int | None = None) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU, with as many threads as torch has unless told otherwise."""
    # Its import starts a thread, and a worker forks each job from a process that has imported this module.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = _LOGGING_ERRORS_ONLY
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _write(
    student: BuiltModel, module: torch.nn.Module, inputs: Tensor, path: Path, classes: Sequence[str] | None
) -> None:
    # Two pictures: torch.export takes a batch of one for a constant.
    example = (inputs if len(inputs) > 1 else inputs.repeat(2, 1, 1, 1))[:2]
    batch = torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about its own parts
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: batch},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    except Exception as error:  # the exporter has no common base for what it cannot express
        first = str(error).strip().splitlines()
        raise ExportMismatch(
            f"{student.architecture} cannot be expressed in ONNX: {first[0] if first else type(error).__name__}; leave "
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
    with writing(path.name):
        program.save(str(path), external_data=False)


def _check(path: Path, inputs: Tensor, expected: Tensor) -> float:
    """Compare on one picture, on two and on all, so that the batch is proven dynamic."""
    session = open_session(path)
    worst = 0.0
    for count in sorted({1, min(2, len(inputs)), len(inputs)}):
        try:
            answer = torch.from_numpy(session.run([OUTPUT], {INPUT: inputs[:count].numpy()})[0])
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise ExportMismatch(f"ONNX Runtime cannot run the exported file on {count} pictures: {error}") from error
        wanted = expected[:count]
        if answer.shape != wanted.shape or not torch.allclose(answer, wanted, rtol=RELATIVE, atol=ABSOLUTE):
            gap = (answer - wanted).abs().max().item() if answer.shape == wanted.shape else float("nan")
            raise ExportMismatch(f"ONNX Runtime's logits differ from torch's by {gap:.2g} on {count} pictures.")
        worst = max(worst, (answer - wanted).abs().max().item())
    return worst
