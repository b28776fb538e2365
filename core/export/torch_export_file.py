"""The student as a program of ``torch.export``, which PyTorch runs without timm. Its batch size is dynamic.

Input: float32 (B, C, S, S), normalized; with the option ``preprocessing`` uint8 pixels. Output: float32 logits (B, K).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from core.export.formats import ExportContext
from core.export.graph_module import example_input, with_graph_options
from core.export.parity import TOLERANCES, Runner, compare, file_input, parity_images, student_logits
from core.models.built import BuiltModel
from core.spec.export_options import TorchExportOptions
from core.system.disk import atomic_path

RUNTIME = "torch.export"
_MAX_BATCH_SIZE = 65_536
_TRACES = ("stack_trace", "source_fn_stack", "nn_module_stack", "torch_fn", "from_node")


def export(student: BuiltModel, context: ExportContext) -> dict[str, Any]:
    """Write the program, and return the result of the comparison with the student for the report."""
    options = context.options
    assert isinstance(options, TorchExportOptions)
    program = capture(with_graph_options(student, options).module, example_input(student, options))
    images, tolerance = parity_images(context.samples), TOLERANCES[options.precision]
    content = io.BytesIO()  # torch.export accepts no other suffix than .pt2 for a path
    torch.export.save(program, content)
    with atomic_path(context.path, unique=False) as temporary:
        temporary.write_bytes(content.getbuffer())
        difference = compare(
            open_runner(temporary),
            file_input(student, images, preprocessing=options.preprocessing),
            student_logits(student, images),
            tolerance,
            runtime=RUNTIME,
        )
    return {"runtime": RUNTIME, "logits": difference.to_json(tolerance)}


def capture(module: nn.Module, example_BCHW: Tensor, *, max_batch_size: int = _MAX_BATCH_SIZE) -> ExportedProgram:
    """Capture a network with a dynamic batch size, without traces of the server and without the example."""
    batch = torch.export.Dim("batch", min=1, max=max_batch_size)
    with torch.no_grad():
        program = torch.export.export(module, (example_BCHW,), dynamic_shapes=({0: batch},))
    for node in program.graph.nodes:
        for name in _TRACES:
            node.meta.pop(name, None)
    return program


def open_runner(path: Path) -> Runner:
    """Load a program. ``torch.export.load`` unpickles nothing but tensors."""
    with path.open("rb") as file:
        module = torch.export.load(file).module()

    def run(images_BCHW: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = module(images_BCHW)
        return logits

    return run
