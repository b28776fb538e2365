"""Networks that a method runs beside the student, in the precision that the student answered in."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from core.models.built import BuiltModel

_HALVES = (torch.bfloat16, torch.float16)
_WARMUP = 10


def precision_of(logits: Tensor) -> AbstractContextManager[object]:
    """The context in which another network computes as the one did that gave these logits."""
    if logits.dtype not in _HALVES:
        return nullcontext()
    return torch.autocast(logits.device.type, dtype=logits.dtype)


class EmaTeacher(nn.Module):
    """A network whose weights are the moving average of another's. It never trains, and is in evaluation mode always.

    The momentum grows from ``momentum`` to 1 by half a cosine over the training (Grill et al. 2020,
    arXiv:2006.07733). It begins lower, with (1 + t) / (10 + t) at update t (from 1), so that random first weights
    are forgotten however short the training is. Weights are in the state dict, so a training can go on with them.
    """

    def __init__(self, student: BuiltModel, momentum: float, copied: nn.Module) -> None:
        super().__init__()
        self.preprocessing = student.preprocessing
        self.momentum = momentum
        self.network = copied.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> EmaTeacher:  # noqa: FBT001, FBT002 - torch's signature
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits of pictures in 0…1."""
        answer = self.network(self.preprocessing(images_BCHW))
        logits: Tensor = answer if isinstance(answer, Tensor) else answer[0]
        return logits.float()

    def kept(self, step: int, total_steps: int) -> float:
        """How much of the average stays at the update after step ``step``, counted from 0."""
        first = min(self.momentum, (2 + step) / (_WARMUP + 1 + step))
        return 1 - (1 - first) * (math.cos(math.pi * step / total_steps) + 1) / 2

    @torch.no_grad()
    def update(self, student: nn.Module, step: int, total_steps: int) -> None:
        """Take in the student's weights; whole numbers are copied."""
        share = 1 - self.kept(step, total_steps)
        live = student.state_dict()
        for name, average in self.network.state_dict().items():
            if average.is_floating_point():
                average.lerp_(live[name], share)
            else:
                average.copy_(live[name])
