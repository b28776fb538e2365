"""Feature distillation: the student matches a foundation model's embeddings and patch features, without labels.

Paper: AM-RADIO, Ranzinger et al. 2024, arXiv:2312.06709: 1 − cosine of the embeddings, plus 0.9 · (1 − cosine) + 0.1 ·
smooth L1 of patch features. The student's patch features after its last norm, resampled to the teacher's grid, and its
embedding (the classifier's input: class token or mean, depending on the architecture) are each projected to the
teacher's width by a layer norm and a linear layer. Each network applies its own preprocessing. Both projections are
dropped at export; the student has no classifier.

Deviations: the teacher's patch features are standardized per channel by running statistics, because the scales of a
teacher's channels differ by orders of magnitude. There is one teacher, and the heads are linear instead of an MLP.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.losses import embedding_match
from core.methods.base import Batch, Method, MethodContext, StepInfo, invalid_architecture
from core.methods.compatibility import last_level
from core.models.align import TokenProjector, resample
from core.models.structure import ModelStructure
from core.models.taps import FeatureRequest, Outputs
from core.spec.methods.feature import FoundationParams

_MIN_BATCH_SHARE = 0.01  # weight of a batch in the running statistics; the first 100 batches are averaged equally
_EPSILON = 1e-5
_NO_PATCHES = "or set method.patch_weight to 0"


class FoundationFeatures(Method):
    """Terms ``embedding`` and ``patches``; a term of weight 0 is left out."""

    def __init__(self, params: FoundationParams, context: MethodContext) -> None:
        super().__init__(context)
        self.params = params
        self.headless = context.student.num_classes == 0
        student, teacher = context.student_structure, context.teacher_structures[0]
        reads_embedding, reads_patches = params.embedding_weight > 0, params.patch_weight > 0
        if reads_embedding:
            self.embed = _projector(_embedding_width(student, "student"), _embedding_width(teacher, "teachers/0"))
        if reads_patches:
            target = last_level(teacher, "teachers/0", "feature", fix=_NO_PATCHES)
            self.translate = _projector(last_level(student, "student", "feature", fix=_NO_PATCHES).width, target.width)
            self.statistics = ChannelStatistics(target.width)
            self.per_sample = False  # standardized by statistics of the batch
        self.student_taps = self.teacher_taps = FeatureRequest(last=reads_patches, embedding=reads_embedding)

    @property
    def reads_teacher_logits(self) -> bool:
        """Never: the teacher's classes are irrelevant."""
        return False

    @property
    def balanceable(self) -> bool:
        """False: there is no label term."""
        return False

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], info: StepInfo) -> dict[str, Tensor]:
        """All terms, weighted; labels are not used."""
        (teacher,), terms = teachers, {}
        if teacher.embedding is not None:
            # A student without a classifier outputs its embedding, averaged where several tokens are read.
            embedding_BD = student.logits if self.headless else student.embedding
            assert embedding_BD is not None
            cosine_B = F.cosine_similarity(self.embed(embedding_BD.float()), teacher.embedding.float())
            terms["embedding"] = self.params.embedding_weight * (1 - cosine_B).mean()
        if teacher.last is not None:
            assert student.last is not None
            predicted_BND = self.translate(resample(student.last, teacher.last.grid).tokens.float())
            target_BND = self.statistics(teacher.last.tokens.float())
            share = self.params.smooth_l1_share
            terms["patches"] = self.params.patch_weight * embedding_match(
                predicted_BND, target_BND, cosine_weight=1 - share, smooth_l1_weight=share, beta=self.params.beta
            )
        return terms


class ChannelStatistics(nn.Module):
    """Standardize tokens by the running mean and standard deviation of each channel, which are buffers."""

    seen: Tensor
    mean: Tensor
    square: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("square", torch.zeros(width))

    @torch.no_grad()
    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Standardize tokens (B, N, D). In training mode the statistics include this batch; else they are fixed."""
        if self.training:
            self.seen += 1
            share = (1 / self.seen).clamp(min=_MIN_BATCH_SHARE)
            self.mean += share * (tokens_BND.mean(dim=(0, 1)) - self.mean)
            self.square += share * (tokens_BND.square().mean(dim=(0, 1)) - self.square)
        deviation_D = (self.square - self.mean.square()).clamp(min=0).sqrt()
        return (tokens_BND - self.mean) / (deviation_D + _EPSILON)


def _projector(student_width: int, teacher_width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(student_width), TokenProjector(student_width, teacher_width))


def _embedding_width(structure: ModelStructure, model_field: str) -> int:
    if structure.embedding is None:
        raise invalid_architecture(
            model_field,
            f"timm's {structure.architecture} has no embedding that can be read; use another architecture, or set "
            "method.embedding_weight to 0",
        )
    return structure.embedding
