"""The float ONNX graph that quantization starts from, and the finish of a quantized one.

The graph is that of ``model.onnx``, with inferred shapes and with normalizations folded into convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch

from core.data.pixels import Pixels
from core.errors import ExportFailed
from core.export.onnx_file import export_onnx
from core.export.reason import reason
from core.models.built import BuiltModel
from core.system.disk import atomic_path, writing

_PARITY_IMAGES = 32
_PRODUCER = "potstill"
EXPORTED = "exported.onnx"  # the float graph as ``model.onnx`` has it


def write_float_graph(student: BuiltModel, images: Pixels, folder: Path, poll: Callable[[], None]) -> Path:
    """Write the graph to ``folder``; ``images`` are real ones, with which its logits are compared with torch's.

    Every node has a unique name. Raises ``ExportFailed`` if the network cannot be expressed in ONNX.
    """
    # Imported here, because the import starts a thread, and workers fork jobs from a process with this module.
    from onnxruntime.quantization.shape_inference import quant_pre_process

    exported, prepared = folder / EXPORTED, folder / "float.onnx"
    samples = images.batch(torch.arange(min(_PARITY_IMAGES, len(images)))).numpy()
    export_onnx(student, exported, samples_NCHW=samples, poll=poll)
    try:
        # Symbolic inference fails on some graphs, and the exporters write shapes.
        quant_pre_process(exported, prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise ExportFailed(f"ONNX Runtime cannot prepare the graph for quantization: {reason(error)}") from error
    name_nodes(model)
    onnx.save(model, prepared)
    return prepared


def name_nodes(model: onnx.ModelProto) -> None:
    """Give each node without a name, or with the name of an earlier one, a unique name."""
    used: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in used:
            node.name = f"{node.op_type}_{index}"
        used.add(node.name)


def write_quantized(model: onnx.ModelProto, path: Path, source: Path) -> None:
    """Write a quantized graph atomically, with the metadata of the float graph ``source`` and no traces of libraries.

    Raises ``StorageFailed``.
    """
    metadata = {entry.key: entry.value for entry in onnx.load(source, load_external_data=False).metadata_props}
    for key in [key for key in metadata if key.startswith("onnx.")]:  # of the preparation
        del metadata[key]
    onnx.helper.set_model_props(model, metadata)
    model.producer_name, model.producer_version, model.doc_string = _PRODUCER, "", ""
    del model.graph.value_info[:]
    shorten_names(model)
    remove_unused_domains(model)
    with writing(path.name), atomic_path(path, unique=False) as temporary:
        onnx.save(model, temporary)


def shorten_names(model: onnx.ModelProto) -> None:
    """Replace the names of inner values by short ones, and delete those of nodes: a seventh of a small int8 file.

    A graph with subgraphs, which refer to outer values by name, stays as it is.
    """
    graph = model.graph
    if _has_subgraph(graph):
        return
    names = {value.name: value.name for value in (*graph.input, *graph.output)} | {"": ""}
    for tensor in graph.initializer:
        tensor.name = names.setdefault(tensor.name, _short_name(len(names)))
        tensor.doc_string = ""
    for node in graph.node:
        node.name, node.doc_string = "", ""
        for values in (node.input, node.output):
            values[:] = [names.setdefault(name, _short_name(len(names))) for name in values]


def remove_unused_domains(model: onnx.ModelProto) -> None:
    """Drop the versions of operator sets without a node, which the quantizer lists.

    A graph with subgraphs stays as it is.
    """
    if _has_subgraph(model.graph):
        return
    used = {node.domain for node in model.graph.node} | {""}
    versions = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(versions)


def _has_subgraph(graph: onnx.GraphProto) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute)


def _short_name(index: int) -> str:
    """Return a name that no input or output has: they are words."""
    return f"{index:x}_"


def input_batches(images: Pixels, student: BuiltModel, batch_size: int) -> list[np.ndarray]:
    """Preprocess images into batches (B, C, H, W) of float32, in order."""
    batches = []
    for start in range(0, len(images), batch_size):
        indices_B = torch.arange(start, min(start + batch_size, len(images)))
        batches.append(student.preprocessing(images.batch(indices_B).float() / 255).numpy())
    return batches
