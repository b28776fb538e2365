"""Running a teacher: frozen, in evaluation mode, with its own preprocessing."""

from __future__ import annotations

import torch
from torch import Tensor

from core.methods.base import Outputs
from core.models.built import BuiltModel
from core.train.precision import Arithmetic


class FrozenTeacher:
    """A teacher that answers and never learns."""

    def __init__(self, built: BuiltModel, arithmetic: Arithmetic) -> None:
        self.built = built
        self._arithmetic = arithmetic
        built.module.to(arithmetic.device).eval().requires_grad_(False)

    def __call__(self, images_BCHW: Tensor) -> Outputs:
        """What the teacher says of augmented pictures in 0…1: float32 logits without a gradient."""
        with torch.inference_mode(), self._arithmetic.forward_context():
            answer = self.built(images_BCHW)
        logits: Tensor = answer
        # A copy made outside inference mode: what autograd saves must not be an inference tensor.
        return Outputs(logits.float() if logits.dtype != torch.float32 else logits.clone())

    def logits(self, images_BCHW: Tensor) -> Tensor:
        """The logits alone, for evaluation."""
        return self(images_BCHW).logits
