"""The student as an ONNX graph with a dynamic batch size, checked against torch before it is published.

Input ``images``: float32 ``(batch, channels, size, size)``, normalized as the metadata describes. Output
``logits``: float32 ``(batch, classes)``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from core.data.pixels import Images
from core.errors import ExportFailed, ExportMismatch
from core.export.formats import ExportContext
from core.export.onnx_graph import CONVERTERS, INPUT, OUTPUT, Converter, remove_traces
from core.export.reason import reason
from core.models.built import BuiltModel
from core.system.disk import atomic_path, writing
from core.system.fault_injection import fault_point

if TYPE_CHECKING:
    import onnx_ir
    import onnxruntime

ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE = 1e-4, 1e-3
"""Largest accepted difference of a logit: absolute plus relative times torch's value. Usual is below 1e-5."""
_KNOWN_FAILURES = Path(__file__).with_name("onnx_failures.json")

PARITY_IMAGES = 32
MAX_BYTES = 2**31 - 2**20
"""Largest size of the weights: a protobuf message holds less than 2 GiB."""

_LOG_SEVERITY_ERROR = 3


def check(student: BuiltModel) -> None:
    """Raise ``ExportFailed`` if the weights are too large for one file, or if no exporter can express the network."""
    _require_size(sum(tensor.numel() * tensor.element_size() for tensor in student.module.state_dict().values()))
    why = _known_failures().get(student.architecture)
    if why is not None:
        raise ExportFailed(f"{student.architecture} cannot be expressed in ONNX: {why}")


def _require_size(num_bytes: int) -> None:
    if num_bytes > MAX_BYTES:
        raise ExportFailed(f"its weights of {num_bytes:,} bytes exceed the {MAX_BYTES:,} bytes of one ONNX file")


@lru_cache(maxsize=1)
def _known_failures() -> dict[str, str]:
    """Return reasons by architecture, as ``benchmarks/onnx_families.py`` found them with these versions."""
    document = json.loads(_KNOWN_FAILURES.read_text(encoding="utf-8"))
    if document["versions"] != {name: version(name) for name in document["versions"]}:
        return {}  # other versions may succeed
    reasons: dict[str, str] = document["architectures"]
    return reasons


def export(student: BuiltModel, context: ExportContext) -> dict[str, Any]:
    """Write the ONNX file, and return the result of the comparison with torch for the report."""
    exporter, difference = export_onnx(
        student, context.path, samples_NCHW=context.samples, classes=student.classes, poll=context.poll
    )
    return {
        "exporter": exporter,
        "largest_logit_difference": difference,
        "accepted": f"{ABSOLUTE_TOLERANCE} + {RELATIVE_TOLERANCE} × |logit|",
        "images": min(PARITY_IMAGES, len(context.samples)),
        "size_bytes": context.path.stat().st_size,
    }


def export_onnx(
    student: BuiltModel,
    path: Path,
    *,
    samples_NCHW: Images,
    classes: Sequence[str] | None,
    poll: Callable[[], None] | None = None,
) -> tuple[str, float]:
    """Write ``path`` atomically with the first of torch's exporters whose file agrees with torch on real images.

    Returns:
        The exporter's name, and the largest difference of a logit from torch.

    Raises:
        StorageFailed: The file cannot be written.
        ExportFailed: No exporter can express the network in ONNX.
        ExportMismatch: The outputs of ONNX Runtime differ from torch's.
    """
    inputs, expected = parity_batch(student, samples_NCHW)
    first_failure: ExportFailed | None = None
    for name, convert in CONVERTERS.items():
        if poll is not None:
            poll()
        try:
            return name, export_with(convert, student, path, inputs=inputs, expected=expected, classes=classes)
        except ExportFailed as failure:
            first_failure = first_failure or failure
    assert first_failure is not None
    raise first_failure


def parity_batch(student: BuiltModel, samples_NCHW: Images) -> tuple[Tensor, Tensor]:
    """Return preprocessed images (B, C, H, W) and torch's logits for them (B, classes), on the CPU."""
    images = torch.from_numpy(np.array(samples_NCHW[:PARITY_IMAGES])).float() / 255
    inputs = student.preprocessing(images)
    module = student.module.cpu().eval()
    with torch.inference_mode():
        return inputs, module(inputs)


def export_with(
    convert: Converter,
    student: BuiltModel,
    path: Path,
    *,
    inputs: Tensor,
    expected: Tensor,
    classes: Sequence[str] | None = None,
) -> float:
    """Write ``path`` atomically with one exporter; return the largest difference of a logit from ``expected``.

    Raises ``StorageFailed``, ``ExportFailed`` and ``ExportMismatch`` as :func:`export_onnx` does.
    """
    with writing(path.name), atomic_path(path, unique=False) as temporary:  # one job writes to the folder
        _write(student, convert, inputs, temporary, classes)
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


def _write(student: BuiltModel, convert: Converter, inputs: Tensor, path: Path, classes: Sequence[str] | None) -> None:
    # A batch of two, because torch.export treats a batch size of one as a constant.
    example = (inputs if len(inputs) > 1 else inputs.repeat(2, 1, 1, 1))[:2]
    try:
        model = convert(student.module, example, path)
        remove_traces(model)
    except Exception as error:  # the exporters' errors have no common base class
        raise ExportFailed(f"{student.architecture} cannot be expressed in ONNX: {reason(error)}") from error
    preprocessing = student.preprocessing
    model.producer_name = "potstill"
    model.metadata_props.update(
        {
            "architecture": student.architecture,
            "preprocessing": json.dumps({"scale": 1 / 255, **preprocessing.to_config()}),
            "classes": json.dumps(list(classes) if classes is not None else None, ensure_ascii=False),
        }
    )
    _save(model, path)


def _save(model: onnx_ir.Model, path: Path) -> None:
    import onnx_ir

    tensors = [value.const_value for value in model.graph.initializers.values()]
    _require_size(sum(tensor.nbytes for tensor in tensors if tensor is not None))
    onnx_ir.save(model, path)


def _check(path: Path, inputs: Tensor, expected: Tensor) -> float:
    """Compare on one, two and all images, which tests the dynamic batch size; return the largest difference."""
    try:
        session = open_session(path)
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise ExportFailed(f"ONNX Runtime cannot load the exported file: {reason(error)}") from error
    largest_difference = 0.0
    for count in sorted({1, min(2, len(inputs)), len(inputs)}):
        try:
            logits = torch.from_numpy(session.run([OUTPUT], {INPUT: inputs[:count].numpy()})[0])
        except Exception as error:  # ONNX Runtime's errors have no common base class
            raise ExportFailed(
                f"ONNX Runtime cannot run the exported file on {count} images: {reason(error)}"
            ) from error
        target = expected[:count]
        if logits.shape != target.shape or not torch.allclose(
            logits, target, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE
        ):
            difference = (logits - target).abs().max().item() if logits.shape == target.shape else float("nan")
            raise ExportMismatch(f"ONNX Runtime's logits differ from torch's by {difference:.2g} on {count} images.")
        largest_difference = max(largest_difference, (logits - target).abs().max().item())
    return largest_difference
