"""A moving average of the student as its teacher, and the precision of networks that run next to the student."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from core.models.built import BuiltModel

_HALF_DTYPES = (torch.bfloat16, torch.float16)
_WARMUP_STEPS = 10


def precision_of(logits: Tensor) -> AbstractContextManager[object]:
    """Autocast context in which another network computes in the precision of these logits."""
    if logits.dtype not in _HALF_DTYPES:
        return nullcontext()
    return torch.autocast(logits.device.type, dtype=logits.dtype)


class EmaTeacher(nn.Module):
    """A network whose weights are the exponential moving average of the student's, always in evaluation mode.

    The momentum grows from ``momentum`` to 1 along half a cosine over the training (Grill et al. 2020,
    arXiv:2006.07733). At update t (from 1) it is at most (1 + t) / (10 + t), so that random initial weights
    are forgotten even in a short training. Weights are in the state dict, so a training can resume with them.
    ``network`` is a copy of the student's module.
    """

    def __init__(self, student: BuiltModel, momentum: float, network: nn.Module) -> None:
        super().__init__()
        self.preprocessing = student.preprocessing
        self.momentum = momentum
        self.network = network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> EmaTeacher:  # noqa: FBT001, FBT002 - torch's signature
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, C) in float32 of images in 0…1."""
        outputs = self.network(self.preprocessing(images_BCHW))
        logits: Tensor = outputs if isinstance(outputs, Tensor) else outputs[0]
        return logits.float()

    def momentum_at(self, step: int, total_steps: int) -> float:
        """Momentum of the update after step ``step``, counted from 0."""
        base = min(self.momentum, (2 + step) / (_WARMUP_STEPS + 1 + step))
        return 1 - (1 - base) * (math.cos(math.pi * step / total_steps) + 1) / 2

    @torch.no_grad()
    def update(self, student: nn.Module, step: int, total_steps: int) -> None:
        """Average in the student's weights; integer buffers are copied."""
        student_share = 1 - self.momentum_at(step, total_steps)
        student_state = student.state_dict()
        for name, average in self.network.state_dict().items():
            if average.is_floating_point():
                average.lerp_(student_state[name], student_share)
            else:
                average.copy_(student_state[name])
