"""Contrastive representation distillation: a sample's embedding is close to the teacher's, far from other samples'.

Paper: Tian et al. 2020, arXiv:1910.10699, in the form of its code, noise contrastive estimation. Both embeddings are
projected to unit vectors by trained projections. Two memory banks hold the student's and the teacher's vectors of all
training samples. Each network's vectors are scored against the other's bank, exp(similarity / temperature) / Z, with Z
estimated once on the first batch. A sample's new vectors are averaged into the banks after its step.

Formula and deviations: :class:`core.spec.methods.crd.CrdParams`. Redrawing the negatives of a sample's own class a few
times needs no list of all labels and leaves almost none.

Projections and banks are dropped at export. Shapes: B samples of a batch, N of the training split, K drawn samples
(the positive first), E width of the projection.
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

_NUM_NEGATIVES = 16_384
_NUM_REDRAWS = 4
_EPSILON = 1e-7


class MemoryBank(nn.Module):
    """One network's unit vectors of all N training samples, and the normalization constant Z of scores with them."""

    vectors: Tensor
    constant: Tensor

    def __init__(self, num_samples: int, width: int, *, temperature: float, momentum: float) -> None:
        super().__init__()
        self.temperature, self.momentum = temperature, momentum
        bound = math.sqrt(3 / width)  # gives vectors of length about 1
        self.register_buffer("vectors", (2 * torch.rand(num_samples, width) - 1) * bound)
        self.register_buffer("constant", torch.full((), -1.0))  # negative until the first batch has estimated it

    def loss(self, queries_BE: Tensor, indices_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Return the contrastive loss of the other network's vectors, and the constant it was computed with.

        The first column of ``indices_BK`` is each sample's own index, the others are its negatives.
        """
        num_samples = len(self.vectors)
        scores_BK = (queries_BE @ self.vectors.T).gather(1, indices_BK).div(self.temperature).exp()
        estimated = scores_BK.detach().mean() * num_samples
        constant = torch.where(self.constant < 0, estimated, self.constant)
        scores_BK = scores_BK / constant
        noise = (indices_BK.shape[1] - 1) / num_samples
        positive_B, negative_BK = scores_BK[:, 0], scores_BK[:, 1:]
        log_likelihood_B = (positive_B / (positive_B + noise + _EPSILON)).log()
        log_likelihood_B = log_likelihood_B + (noise / (negative_BK + noise + _EPSILON)).log().sum(dim=1)
        return -log_likelihood_B.mean(), constant

    @torch.no_grad()
    def update(self, indices_B: Tensor, vectors_BE: Tensor, constant: Tensor) -> None:
        """Average the samples' new vectors into the stored ones."""
        mixed_BE = self.momentum * self.vectors[indices_B] + (1 - self.momentum) * vectors_BE
        self.vectors.index_copy_(0, indices_B, F.normalize(mixed_BE, dim=1))
        self.constant.copy_(constant)


class Crd(FeatureMethod):
    """Term ``contrast``, from two projections and two memory banks."""

    classes: Tensor

    def __init__(self, params: CrdParams, context: MethodContext) -> None:
        super().__init__(params, context)
        self.params = params
        self.per_sample = False  # the banks are updated with the entire batch
        self.num_negatives = _num_negatives(params, context.num_samples)
        widths = (
            embedding_width(context.student_structure, "student", params.name),
            embedding_width(context.teacher_structures[0], "teachers/0", params.name),
        )
        self.project_student, self.project_teacher = (TokenProjector(width, params.width) for width in widths)
        self.student_memory, self.teacher_memory = (
            MemoryBank(
                context.num_samples,
                params.width,
                temperature=params.contrast_temperature,
                momentum=params.momentum,
            )
            for _ in widths
        )
        self.register_buffer("classes", torch.full((context.num_samples,), -1))  # -1: not seen yet
        self._pending_update: tuple[Tensor, ...] | None = None  # from a step's loss to its after_step
        self.student_taps = self.teacher_taps = FeatureRequest(embedding=True)

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``contrast``: the student's vectors against the teacher's bank, plus the reverse."""
        assert student.embedding is not None
        assert teachers[0].embedding is not None
        student_BE = F.normalize(self.project_student(student.embedding), dim=1)
        teacher_BE = F.normalize(self.project_teacher(teachers[0].embedding), dim=1)
        indices_B, labels_B = batch.indices.to(student_BE.device), batch.hard_labels
        indices_BK = torch.cat((indices_B.unsqueeze(1), self.draw(indices_B, labels_B)), dim=1)
        student_loss, teacher_constant = self.teacher_memory.loss(student_BE, indices_BK)
        teacher_loss, student_constant = self.student_memory.loss(teacher_BE, indices_BK)
        vectors = student_BE.detach(), teacher_BE.detach()
        self._pending_update = (indices_B, labels_B, *vectors, student_constant, teacher_constant)
        return {"contrast": student_loss + teacher_loss}

    def draw(self, indices_B: Tensor, labels_B: Tensor) -> Tensor:
        """Draw indices of other samples as negatives, (B, num_negatives)."""

        def draw_others() -> Tensor:
            shape = (len(indices_B), self.num_negatives)
            drawn_BK = torch.randint(len(self.classes) - 1, shape, device=indices_B.device)
            return drawn_BK + (drawn_BK >= indices_B.unsqueeze(1))  # skip the sample's own index

        drawn_BK = draw_others()
        if self.params.other_classes:
            for _ in range(_NUM_REDRAWS):
                drawn_BK = torch.where(self.classes[drawn_BK] == labels_B.unsqueeze(1), draw_others(), drawn_BK)
        return drawn_BK

    def after_step(self, student: nn.Module, info: StepInfo) -> None:
        """Add the batch's vectors to the memory banks."""
        if self._pending_update is None:
            return
        indices_B, labels_B, student_BE, teacher_BE, student_constant, teacher_constant = self._pending_update
        self.student_memory.update(indices_B, student_BE, student_constant)
        self.teacher_memory.update(indices_B, teacher_BE, teacher_constant)
        self.classes.index_copy_(0, indices_B, labels_B)
        self._pending_update = None


def _num_negatives(params: CrdParams, num_samples: int) -> int:
    if num_samples < 2:
        raise invalid_param("", "crd contrasts training samples with each other, and there is only one")
    if params.negatives is None:
        return min(_NUM_NEGATIVES, num_samples - 1)
    if params.negatives >= num_samples:
        raise invalid_param(
            "negatives",
            f"with {num_samples} training samples at most {num_samples - 1} negatives are possible, not "
            f"{params.negatives}; leave it out to use all of them",
        )
    return params.negatives
