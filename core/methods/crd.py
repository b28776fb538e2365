"""Contrast: a sample's embedding is close to the teacher's of the same sample, and far from those of others.

Tian et al. 2020, arXiv:1910.10699, in the form of noise contrastive estimation of its code. Both embeddings are
projected to unit vectors, and both projections are trained. Two memories keep the vectors of every training
sample, the student's and the teacher's; each network's vectors are scored against the other's memory,
exp(similarity / temperature) / Z, with Z estimated on the first batch and kept. A sample's vectors enter the
memories after the step that saw it, mixed with the older ones.

Negatives are drawn anew at each step, with replacement, and never a sample itself. The official code looks up
samples of other classes; here a draw of the sample's own class, as far as classes were seen, is drawn again a
few times, which needs no list of all labels and leaves next to none. Scores are taken with the whole memory
before the draw picks its own, so that memory grows with the training split and not with negatives times width.
Projections and memories are dropped at export.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.methods.base import Batch, MethodContext, StepInfo, invalid_param
from core.methods.compatibility import embedding_width
from core.methods.feature_base import FeatureMethod
from core.models.align import TokenProjector
from core.models.taps import FeatureRequest, Outputs
from core.spec.methods.crd import CrdParams

_NEGATIVES = 16_384
_REDRAWS = 4
_FLOOR = 1e-7


class Memory(nn.Module):
    """One network's unit vectors of all N training samples, and the constant of scores against them."""

    vectors: Tensor
    constant: Tensor

    def __init__(self, num_samples: int, width: int, *, temperature: float, momentum: float) -> None:
        super().__init__()
        self.temperature, self.momentum = temperature, momentum
        bound = math.sqrt(3 / width)  # so that vectors have a length of about 1
        self.register_buffer("vectors", (2 * torch.rand(num_samples, width) - 1) * bound)
        self.register_buffer("constant", torch.full((), -1.0))  # below 0: not estimated yet

    def loss(self, others_BE: Tensor, picked_BK: Tensor) -> tuple[Tensor, Tensor]:
        """The contrast of the other network's vectors, and the constant it was computed with.

        The first column of ``picked_BK`` is each sample's own place, the rest are its negatives.
        """
        num_samples = len(self.vectors)
        scores_BK = (others_BE @ self.vectors.T).gather(1, picked_BK).div(self.temperature).exp()
        estimated = scores_BK.detach().mean() * num_samples
        constant = torch.where(self.constant < 0, estimated, self.constant)
        scores_BK = scores_BK / constant
        noise = (picked_BK.shape[1] - 1) / num_samples
        positive_B, negative_BK = scores_BK[:, 0], scores_BK[:, 1:]
        told_apart_B = (positive_B / (positive_B + noise + _FLOOR)).log()
        told_apart_B = told_apart_B + (noise / (negative_BK + noise + _FLOOR)).log().sum(dim=1)
        return -told_apart_B.mean(), constant

    @torch.no_grad()
    def remember(self, places_B: Tensor, vectors_BE: Tensor, constant: Tensor) -> None:
        """Mix the samples' new vectors into their old ones."""
        mixed_BE = self.momentum * self.vectors[places_B] + (1 - self.momentum) * vectors_BE
        self.vectors.index_copy_(0, places_B, F.normalize(mixed_BE, dim=1))
        self.constant.copy_(constant)


class Crd(FeatureMethod):
    """Two projections, two memories."""

    classes: Tensor

    def __init__(self, params: CrdParams, setting: MethodContext) -> None:
        super().__init__(params, setting)
        self.params = params
        self.per_sample = False  # the memories take in whole batches
        self.negatives = _negatives(params, setting.num_samples)
        widths = (
            embedding_width(setting.student_structure, "student", params.name),
            embedding_width(setting.teacher_structures[0], "teachers/0", params.name),
        )
        self.project_student, self.project_teacher = (TokenProjector(width, params.width) for width in widths)
        self.student_memory, self.teacher_memory = (
            Memory(
                setting.num_samples,
                params.width,
                temperature=params.contrast_temperature,
                momentum=params.momentum,
            )
            for _ in widths
        )
        self.register_buffer("classes", torch.full((setting.num_samples,), -1))  # -1: not seen yet
        self._seen: tuple[Tensor, ...] | None = None  # between a step's loss and its end
        self.student_taps = self.teacher_taps = FeatureRequest(embedding=True)

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``contrast``, of the student's vectors with the teacher's memory and the other way round."""
        assert student.embedding is not None
        assert teachers[0].embedding is not None
        mine_BE = F.normalize(self.project_student(student.embedding), dim=1)
        guide_BE = F.normalize(self.project_teacher(teachers[0].embedding), dim=1)
        places_B, labels_B = batch.indices.to(mine_BE.device), batch.hard_labels
        picked_BK = torch.cat((places_B.unsqueeze(1), self.draw(places_B, labels_B)), dim=1)
        of_student, teacher_constant = self.teacher_memory.loss(mine_BE, picked_BK)
        of_teacher, student_constant = self.student_memory.loss(guide_BE, picked_BK)
        vectors = mine_BE.detach(), guide_BE.detach()
        self._seen = (places_B, labels_B, *vectors, student_constant, teacher_constant)
        return {"contrast": of_student + of_teacher}

    def draw(self, places_B: Tensor, labels_B: Tensor) -> Tensor:
        """Places of other samples, (B, negatives)."""

        def others() -> Tensor:
            shape = (len(places_B), self.negatives)
            drawn_BK = torch.randint(len(self.classes) - 1, shape, device=places_B.device)
            return drawn_BK + (drawn_BK >= places_B.unsqueeze(1))  # all places but the sample's own

        drawn_BK = others()
        if self.params.other_classes:
            for _ in range(_REDRAWS):
                drawn_BK = torch.where(self.classes[drawn_BK] == labels_B.unsqueeze(1), others(), drawn_BK)
        return drawn_BK

    def after_step(self, student: nn.Module, moment: StepInfo) -> None:
        """The batch enters the memories."""
        if self._seen is None:
            return
        places_B, labels_B, mine_BE, guide_BE, student_constant, teacher_constant = self._seen
        self.student_memory.remember(places_B, mine_BE, student_constant)
        self.teacher_memory.remember(places_B, guide_BE, teacher_constant)
        self.classes.index_copy_(0, places_B, labels_B)
        self._seen = None


def _negatives(params: CrdParams, num_samples: int) -> int:
    if num_samples < 2:
        raise invalid_param("", "crd contrasts training samples with each other, and there is only one")
    if params.negatives is None:
        return min(_NEGATIVES, num_samples - 1)
    if params.negatives >= num_samples:
        raise invalid_param(
            "negatives",
            f"{num_samples} training samples have {num_samples - 1} others, not {params.negatives}; leave it out for "
            "all of them",
        )
    return params.negatives
