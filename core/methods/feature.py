"""A foundation model's embeddings, matched without labels.

The student's patch features behind its last norm, resampled to the teacher's grid, and its embedding (what a
classifier reads: the class token or the mean, as its architecture has it) each go through a layer norm and a linear
layer to the teacher's width. Terms: 1 − cosine of the embeddings, and the smooth L1 distance of patch features, as in
AM-RADIO (Ranzinger et al. 2024, arXiv:2312.06709). The teacher's patch features are standardised in each channel by
running statistics, as teachers' channels differ in size by orders of magnitude. Each network sees the pictures in
its own preprocessing. Both projections are dropped at export; the student has no classifier at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.methods.base import Batch, Method, MethodContext, StepInfo, invalid_architecture
from core.models.align import TokenProjector, resampled
from core.models.structure import FeatureLevel, ModelStructure
from core.models.taps import FeatureRequest, Outputs
from core.spec.methods.feature import FoundationParams

_LEAST_SHARE = 0.01  # of a batch in the running statistics; the first batches count alike
_EPSILON = 1e-5


class FoundationFeatures(Method):
    """Terms ``embedding`` and ``patches``; one of weight 0 is left out."""

    def __init__(self, params: FoundationParams, setting: MethodContext) -> None:
        super().__init__(setting)
        self.params = params
        self.headless = setting.student.num_classes == 0
        mine, theirs = setting.student_structure, setting.teacher_structures[0]
        reads, reads_patches = params.embedding_weight > 0, params.patch_weight > 0
        if reads:
            self.embed = _projector(_embedding(mine, "student"), _embedding(theirs, "teachers/0"))
        if reads_patches:
            goal = _last(theirs, "teachers/0")
            self.translate = _projector(_last(mine, "student").width, goal.width)
            self.statistics = ChannelStatistics(goal.width)
            self.per_sample = False  # standardised by the batch
        self.student_taps = self.teacher_taps = FeatureRequest(last=reads_patches, embedding=reads)

    @property
    def reads_teacher_logits(self) -> bool:
        """Never: whose classes the teacher knows is all the same."""
        return False

    def loss(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs], moment: StepInfo) -> dict[str, Tensor]:
        """All terms, weighted; labels are not looked at."""
        (teacher,), terms = teachers, {}
        if teacher.embedding is not None:
            # A student without a classifier answers with its embedding, averaged where it has several tokens for that.
            answer_BD = student.logits if self.headless else student.embedding
            assert answer_BD is not None
            likeness_B = F.cosine_similarity(self.embed(answer_BD.float()), teacher.embedding.float())
            terms["embedding"] = self.params.embedding_weight * (1 - likeness_B).mean()
        if teacher.last is not None:
            assert student.last is not None
            guess_BND = self.translate(resampled(student.last, teacher.last.grid).tokens.float())
            goal_BND = self.statistics(teacher.last.tokens.float())
            terms["patches"] = self.params.patch_weight * F.smooth_l1_loss(guess_BND, goal_BND)
        return terms


class ChannelStatistics(nn.Module):
    """Standardises tokens by the running mean and deviation of each channel. State is kept in buffers."""

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
        """Tokens by the statistics of all batches up to this one, in training; else by those that are there."""
        if self.training:
            self.seen += 1
            share = (1 / self.seen).clamp(min=_LEAST_SHARE)
            self.mean += share * (tokens_BND.mean(dim=(0, 1)) - self.mean)
            self.square += share * (tokens_BND.square().mean(dim=(0, 1)) - self.square)
        deviation_D = (self.square - self.mean.square()).clamp(min=0).sqrt()
        return (tokens_BND - self.mean) / (deviation_D + _EPSILON)


def _projector(width: int, wanted: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), TokenProjector(width, wanted))


def _embedding(anatomy: ModelStructure, whose: str) -> int:
    if anatomy.embedding is None:
        raise invalid_architecture(
            whose,
            f"timm's {anatomy.architecture} has no embedding that can be read; use another one, or set "
            "method.embedding_weight to 0",
        )
    return anatomy.embedding


def _last(anatomy: ModelStructure, whose: str) -> FeatureLevel:
    if anatomy.last is None:
        raise invalid_architecture(
            whose,
            f"timm's {anatomy.architecture} does not give its last features; use another one, or set "
            "method.patch_weight to 0",
        )
    return anatomy.last
