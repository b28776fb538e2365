"""Running a teacher: frozen, in evaluation mode, with its own preprocessing."""

from __future__ import annotations

import torch
from torch import Tensor

from core.models import catalog
from core.models.built import BuiltModel
from core.models.taps import FeatureRequest, Outputs, run_tapped
from core.train.precision import ComputeConfig


class FrozenTeacher:
    """A teacher that answers and never learns."""

    def __init__(self, built: BuiltModel, arithmetic: ComputeConfig, wanted: FeatureRequest | None = None) -> None:
        self.built = built
        self._arithmetic = arithmetic
        self._wanted = wanted or FeatureRequest()
        # Convolutions of larger pictures are 5 to 13 % faster so on a CPU, and never slower; see ADR 0014.
        convolves = catalog.family(built.architecture) == "cnn"
        self._memory = torch.channels_last if convolves else torch.contiguous_format
        built.module.to(arithmetic.device).eval().requires_grad_(False)

    @torch.no_grad()  # not inference mode: autograd must be able to keep what is said for the student's backward pass
    def __call__(self, images_BCHW: Tensor) -> Outputs:
        """What the teacher says of augmented pictures in 0…1: in float32, without a gradient."""
        inputs_BCHW = self.built.preprocessing(images_BCHW).contiguous(memory_format=self._memory)
        with self._arithmetic.forward_context():
            answer = run_tapped(self.built.module, inputs_BCHW, self._wanted)
        return answer.map(Tensor.float)

    def logits(self, images_BCHW: Tensor) -> Tensor:
        """The logits alone, for evaluation."""
        with torch.inference_mode(), self._arithmetic.forward_context():
            return Outputs.of(self.built(images_BCHW)).logits.float()
