"""Relational knowledge distillation: distances and angles between the samples of a batch match the teacher's.

Paper: Park et al. 2019, arXiv:1904.05068, on the embeddings (the classifiers' inputs). As in the official code, the
means include the zeros of a sample with itself.

Deviation: the memory of angles grows with the cube of the samples, so they are computed among the first
``angle_samples`` of a batch, whose order is random. Nothing is added to the student.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from core.losses import relational_angle, relational_distance
from core.methods.base import Batch, MethodContext
from core.methods.compatibility import check_batch, embedding_width
from core.methods.feature_base import FeatureMethod
from core.models.taps import FeatureRequest, Outputs
from core.spec.methods.rkd import RkdParams


class Rkd(FeatureMethod):
    """Terms ``distance`` and ``angle``, from embeddings."""

    def __init__(self, params: RkdParams, context: MethodContext) -> None:
        super().__init__(params, context)
        self.params = params
        self.per_sample = False
        check_batch(context, params.name)
        embedding_width(context.student_structure, "student", params.name)
        embedding_width(context.teacher_structures[0], "teachers/0", params.name)
        self.student_taps = self.teacher_taps = FeatureRequest(embedding=True)

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``distance`` and ``angle``, each with its weight."""
        student_BD, teacher_BD = student.embedding, teachers[0].embedding
        assert student_BD is not None
        assert teacher_BD is not None
        count = self.params.angle_samples
        return {
            "distance": self.params.distance_weight * relational_distance(student_BD, teacher_BD),
            "angle": self.params.angle_weight * relational_angle(student_BD[:count], teacher_BD[:count]),
        }
