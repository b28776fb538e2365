"""An ONNX file under ONNX Runtime, as a function of images in 0…1: for its accuracy and latency."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from core.export.onnx_file import open_session
from core.export.onnx_graph import INPUT, OUTPUT
from core.models.preprocessing import Preprocessing

if TYPE_CHECKING:
    import onnxruntime


@dataclass(frozen=True, slots=True)
class OnnxNetwork:
    """A session with the preprocessing of its network. Input and logits are float32 on the CPU."""

    session: onnxruntime.InferenceSession
    preprocessing: Preprocessing

    @classmethod
    def open(cls, path: Path, preprocessing: Preprocessing) -> Self:
        """Open a file. Raises an exception of ONNX Runtime if it cannot be loaded."""
        return cls(open_session(path), preprocessing)

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, classes) of images in 0…1."""
        return self.run(self.preprocessing(images_BCHW))

    def run(self, inputs_BCHW: Tensor) -> Tensor:
        """Logits (B, classes) of preprocessed images."""
        (logits,) = self.session.run([OUTPUT], {INPUT: inputs_BCHW.numpy()})
        return torch.from_numpy(logits)
