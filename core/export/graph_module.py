"""The network as a graph format holds it: optional preprocessing, one precision inside, float32 logits."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from core.models.built import BuiltModel
from core.models.preprocessing import Preprocessing
from core.spec.export_options import GraphOptions, PrecisionOptions


class GraphModule(nn.Module):
    """A network with its preprocessing, in half precision, or both.

    Input: uint8 pixels (B, C, S, S) with ``preprocessing``, else normalized float32. Output: float32 logits (B, K).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, *, preprocessing: Preprocessing | None, precision: str) -> None:
        super().__init__()
        self.has_preprocessing = preprocessing is not None
        if preprocessing is not None:
            self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, -1, 1, 1))
            self.register_buffer("std", torch.tensor(preprocessing.std).view(1, -1, 1, 1))
        self.is_half = precision == "fp16"
        self.network = copy.deepcopy(network).half() if self.is_half else network

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Map images to logits."""
        if self.has_preprocessing:
            images_BCHW = (images_BCHW.float() / 255 - self.mean) / self.std
        if self.is_half:
            images_BCHW = images_BCHW.half()
        logits: Tensor = self.network(images_BCHW)
        return logits.float() if self.is_half else logits


def with_graph_options(student: BuiltModel, options: GraphOptions) -> BuiltModel:
    """Return the student with the module to export, on the CPU and in evaluation mode."""
    module = student.module.cpu().eval()
    precision = options.precision if isinstance(options, PrecisionOptions) else "fp32"
    if options.preprocessing or precision != "fp32":
        preprocessing = student.preprocessing if options.preprocessing else None
        module = GraphModule(module, preprocessing=preprocessing, precision=precision).eval()
    return replace(student, module=module)


def example_input(student: BuiltModel, options: GraphOptions) -> Tensor:
    """Return a blank input of two images: exporters treat a batch of one as a constant, and may store the input."""
    preprocessing = student.preprocessing
    shape = (2, preprocessing.channels, preprocessing.image_size, preprocessing.image_size)
    return torch.zeros(shape, dtype=torch.uint8 if options.preprocessing else torch.float32)
