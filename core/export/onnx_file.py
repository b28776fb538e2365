"""The student as an ONNX graph with a dynamic batch size, checked against torch before it is published.

Input ``images``: float32 ``(batch, channels, size, size)``, normalized as the metadata describes; with the option
``preprocessing`` uint8 pixels of the same shape. Output ``logits``: float32 ``(batch, classes)``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from core.data.pixels import Images
from core.errors import ExportFailed
from core.export.formats import ExportContext
from core.export.graph_module import example_input, with_graph_options
from core.export.onnx_graph import CONVERTERS, INPUT, OUTPUT, Converter, remove_traces
from core.export.parity import (
    TOLERANCES,
    LogitDifference,
    Runner,
    compare,
    file_input,
    parity_images,
    student_logits,
)
from core.export.reason import reason
from core.models.built import BuiltModel
from core.spec.export_options import OnnxOptions
from core.system.disk import atomic_path, writing
from core.system.fault_injection import fault_point

if TYPE_CHECKING:
    import onnx_ir
    import onnxruntime

RUNTIME = "ONNX Runtime"
DEFAULTS = OnnxOptions(format="onnx")
MAX_BYTES = 2**31 - 2**20
"""Largest size of the weights: a protobuf message holds less than 2 GiB."""

_KNOWN_FAILURES = Path(__file__).with_name("onnx_failures.json")
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
    options = context.options
    assert isinstance(options, OnnxOptions)
    exporter, difference = export_onnx(
        student, context.path, samples_NCHW=context.samples, options=options, poll=context.poll
    )
    tolerance = TOLERANCES[options.precision]
    return {"runtime": RUNTIME, "exporter": exporter, "opset": options.opset, "logits": difference.to_json(tolerance)}


def export_onnx(
    student: BuiltModel,
    path: Path,
    *,
    samples_NCHW: Images,
    options: OnnxOptions = DEFAULTS,
    poll: Callable[[], None] | None = None,
) -> tuple[str, LogitDifference]:
    """Write ``path`` atomically with the first of torch's exporters whose file agrees with torch on real images.

    Returns:
        The exporter's name, and the difference of the logits from torch's.

    Raises:
        StorageFailed: The file cannot be written.
        ExportFailed: No exporter can express the network in ONNX.
        ExportMismatch: The outputs of ONNX Runtime differ from torch's.
    """
    images = parity_images(samples_NCHW)
    expected = student_logits(student, images)
    first_failure: ExportFailed | None = None
    for name, convert in CONVERTERS.items():
        if poll is not None:
            poll()
        try:
            return name, export_with(convert, student, path, images=images, expected=expected, options=options)
        except ExportFailed as failure:
            first_failure = first_failure or failure
    assert first_failure is not None
    raise first_failure


def export_with(
    convert: Converter,
    student: BuiltModel,
    path: Path,
    *,
    images: Tensor,
    expected: Tensor,
    options: OnnxOptions = DEFAULTS,
) -> LogitDifference:
    """Write ``path`` atomically with one exporter; return the difference from ``expected``, torch's logits of images.

    Raises ``StorageFailed``, ``ExportFailed`` and ``ExportMismatch`` as :func:`export_onnx` does.
    """
    with writing(path.name), atomic_path(path, unique=False) as temporary:  # one job writes to the folder
        _write(student, convert, temporary, options)
        inputs = file_input(student, images, preprocessing=options.preprocessing)
        difference = compare(open_runner(temporary), inputs, expected, TOLERANCES[options.precision], runtime=RUNTIME)
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


def open_runner(path: Path) -> Runner:
    """Open an ONNX file of this service. Raises ``ExportFailed`` if ONNX Runtime refuses it."""
    try:
        session = open_session(path)
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise ExportFailed(f"{RUNTIME} cannot load the exported file: {reason(error)}") from error

    def run(images_BCHW: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images_BCHW.numpy()})[0])

    return run


def _write(student: BuiltModel, convert: Converter, path: Path, options: OnnxOptions) -> None:
    module = with_graph_options(student, options).module
    try:
        model = convert(module, example_input(student, options), path, options.opset)
        remove_traces(model)
    except Exception as error:  # the exporters' errors have no common base class
        raise ExportFailed(f"{student.architecture} cannot be expressed in ONNX: {reason(error)}") from error
    model.producer_name = "potstill"
    model.metadata_props.update(_metadata(student, options))
    _save(model, path)


def _metadata(student: BuiltModel, options: OnnxOptions) -> dict[str, str]:
    preprocessing = {"in_graph": options.preprocessing, "scale": 1 / 255, **student.preprocessing.to_config()}
    classes = None if student.classes is None else list(student.classes)
    return {
        "architecture": student.architecture,
        "preprocessing": json.dumps(preprocessing),
        "classes": json.dumps(classes, ensure_ascii=False),
    }


def _save(model: onnx_ir.Model, path: Path) -> None:
    import onnx_ir

    tensors = [value.const_value for value in model.graph.initializers.values()]
    _require_size(sum(tensor.nbytes for tensor in tensors if tensor is not None))
    onnx_ir.save(model, path)
