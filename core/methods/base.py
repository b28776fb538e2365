"""What every method is: a module that turns what student and teachers said of a batch into named losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Batch:
    """One augmented batch, as every network of the step sees it before its own preprocessing.

    ``images`` (B, C, H, W) in 0…1, ``labels`` (B,) int64 or (B, classes) probabilities, ``indices`` (B,)
    int64 on the CPU: the samples' places in the training split.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one network said of a batch.

    ``logits`` (B, classes). ``token_logits``: logits of further heads, e.g. that of a distillation token.
    ``taps``: inner tensors by name, for methods that ask for them.
    """

    logits: Tensor
    token_logits: tuple[Tensor, ...] = ()
    taps: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, answer: Tensor | tuple[Tensor, ...]) -> Outputs:
        """Wrap what a timm model returned: logits, or a tuple of logits with the class head's first."""
        if isinstance(answer, Tensor):
            return cls(answer)
        return cls(answer[0], tuple(answer[1:]))


@dataclass(frozen=True, slots=True)
class Setting:
    """What a method is built into: the networks as they are before training, and what the spec says of labels."""

    student: nn.Module
    teachers: Sequence[nn.Module]
    num_classes: int
    label_smoothing: float = 0.0


class Method(nn.Module, ABC):
    """A way to teach. Its parameters are trained with the student and never exported.

    One file a method. The training loop knows methods only by this interface.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.label_smoothing = setting.label_smoothing

    @abstractmethod
    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """The weighted terms of the loss by name, float32 scalars; their sum is what is minimised."""

    def prepare_student(self, student: nn.Module) -> None:
        """Put the student into the form that this method trains, each time it was built or loaded."""

    def label_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of ``logits`` (B, C) with the batch's labels, smoothed as the spec says."""
        return F.cross_entropy(logits.float(), batch.labels, label_smoothing=self.label_smoothing)
