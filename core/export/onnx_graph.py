"""Convert a network to an ONNX graph with torch's two exporters.

The graph has one input ``images`` (batch, channels, size, size) and one output ``logits`` (batch, classes), with a
dynamic batch size. It holds no trace of the machine that wrote it: torch records stack traces with the folders of the
server in every node, which also make a small file a quarter larger.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from core.spec.export_options import DEFAULT_OPSET

if TYPE_CHECKING:
    import onnx_ir

INPUT, OUTPUT = "images", "logits"
_MAX_BATCH_SIZE = 65_536

Converter = Callable[[nn.Module, Tensor, Path, int], "onnx_ir.Model"]
"""Arguments: the network, an example of its input, a file to write and delete, and the opset."""


def capture(
    module: nn.Module,
    example_BCHW: Tensor,
    scratch: Path,  # noqa: ARG001 - a Converter
    opset: int = DEFAULT_OPSET,
) -> onnx_ir.Model:
    """Convert with ``torch.export``, which captures the network symbolically, control flow on shapes included."""
    batch = torch.export.Dim("batch", min=1, max=_MAX_BATCH_SIZE)
    # A fused attention kernel and its decomposition return other strides, and a view that was captured with the first
    # fails on the second.
    with _quiet(), sdpa_kernel(SDPBackend.MATH):
        program = torch.onnx.export(
            module,
            (example_BCHW,),
            dynamo=True,
            dynamic_shapes=({0: batch},),
            opset_version=opset,
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert program is not None
    return program.model


def trace(module: nn.Module, example_BCHW: Tensor, scratch: Path, opset: int = DEFAULT_OPSET) -> onnx_ir.Model:
    """Convert with TorchScript, which records one run of the network.

    Raises:
        ValueError: The network decides on the values of its images, and a record holds one decision.
    """
    import onnx_ir

    _require_no_decisions(module, example_BCHW)
    axes = {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}}
    try:
        with _quiet(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            torch.onnx.export(
                module,
                (example_BCHW,),
                str(scratch),
                dynamo=False,
                dynamic_axes=axes,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
            )
        model: onnx_ir.Model = onnx_ir.from_proto(
            onnx_ir.to_proto(onnx_ir.load(scratch))
        )  # copied, because load maps the file
    finally:
        scratch.unlink(missing_ok=True)
    return model


CONVERTERS: dict[str, Converter] = {"torchscript": trace, "torch.export": capture}
"""torch's exporters by name, in the order in which they are tried: the first is ten times faster."""


def _require_no_decisions(module: nn.Module, example_BCHW: Tensor) -> None:
    """Run the network on tensors without values, where a decision on values is an error."""
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        try:
            module(mode.from_tensor(example_BCHW))
        except DataDependentOutputException:
            raise ValueError("it decides on the values of its images") from None


def remove_traces(model: onnx_ir.Model) -> None:
    """Delete all documentation and metadata of a model, its graphs, nodes and values; names and types stay."""
    import onnx_ir

    _clear(model)
    graphs: list[onnx_ir.Graph | onnx_ir.Function] = [model.graph, *model.functions.values()]
    for graph in graphs:
        _clear(graph)
        for value in graph.inputs:
            _clear(value)
        for node in onnx_ir.traversal.RecursiveGraphIterator(graph):
            _clear(node)
            if node.graph is not None:
                _clear(node.graph)
            for value in node.outputs:
                _clear(value)
    for value in model.graph.initializers.values():
        _clear(value)
        if value.const_value is not None:
            value.const_value.metadata_props.clear()


def _clear(part: Any) -> None:
    part.metadata_props.clear()
    part.doc_string = None


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the warnings of the exporters about their own internals, and the graph that one prints when it fails."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    library: Any = torch._C  # noqa: SLF001 - it prints the graph, whatever `verbose` is
    print_graph, library._jit_onnx_log = library._jit_onnx_log, _discard  # noqa: SLF001
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        library._jit_onnx_log = print_graph  # noqa: SLF001
        logger.setLevel(level)


def _discard(*_parts: object) -> None:
    """Print nothing."""
