"""The student in OpenVINO's format: ``model.xml`` has the graph, ``model.bin`` the weights.

It is converted from the ONNX graph, so that it holds every network that ONNX does. Input ``images``: float32
(B, C, S, S), normalized; with the option ``preprocessing`` uint8 pixels. Output ``logits``: float32 (B, K).
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from core.errors import ExportFailed
from core.export import onnx_file
from core.export.formats import ExportContext
from core.export.parity import TOLERANCES, Runner, compare, file_input, parity_images, student_logits
from core.export.reason import reason
from core.models.built import BuiltModel
from core.spec.export_options import OnnxOptions, OpenvinoOptions

RUNTIME = "OpenVINO"
check = onnx_file.check


def export(student: BuiltModel, context: ExportContext) -> dict[str, Any]:
    """Write both files, and return the result of the comparison with the student for the report."""
    import openvino  # an optional package, which starts threads

    options = context.options
    assert isinstance(options, OpenvinoOptions)
    images, tolerance = parity_images(context.samples), TOLERANCES[options.precision]
    graph = OnnxOptions(format="onnx", preprocessing=options.preprocessing)
    with TemporaryDirectory(dir=context.folder, prefix="openvino-") as scratch:
        source, xml = Path(scratch) / "source.onnx", Path(scratch) / context.path.name
        onnx_file.export_onnx(student, source, samples_NCHW=context.samples, options=graph, poll=context.poll)
        context.poll()
        model = openvino.Core().read_model(source)
        _name_nodes(model)
        openvino.save_model(model, xml, compress_to_fp16=options.precision == "fp16")
        difference = compare(
            open_runner(xml),
            file_input(student, images, preprocessing=options.preprocessing),
            student_logits(student, images),
            tolerance,
            runtime=RUNTIME,
        )
        for path in reversed(context.paths):  # the weights first: the graph is complete only with them
            (Path(scratch) / path.name).replace(path)
    return {"runtime": RUNTIME, "logits": difference.to_json(tolerance)}


def _name_nodes(model: Any) -> None:
    """Number the inner nodes: OpenVINO names some by a counter of the process, so that no two files would agree."""
    for index, node in enumerate(model.get_ordered_ops()):
        if node.get_type_name() not in {"Parameter", "Result"}:
            node.set_friendly_name(f"{node.get_type_name()}_{index}")


def open_runner(path: Path) -> Runner:
    """Compile the model for the CPU, in float32 and with torch's number of threads.

    Raises:
        ExportFailed: OpenVINO refuses the file.
    """
    import openvino  # an optional package, which starts threads

    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    try:
        compiled = openvino.Core().compile_model(path, "CPU", settings)
    except Exception as error:  # OpenVINO's errors have no common base class
        raise ExportFailed(f"{RUNTIME} cannot load the exported file: {reason(error)}") from error

    def run(images_BCHW: Tensor) -> Tensor:
        return torch.from_numpy(compiled(images_BCHW.numpy())[0].copy())

    return run
