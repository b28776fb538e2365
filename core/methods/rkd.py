"""Relations: distances and angles between the samples of a batch are the teacher's.

Park et al. 2019, arXiv:1904.05068, on what the classifiers read. As in the official code the means include the
zeros of a sample with itself. Angles take memory with the cube of the samples, so they are taken between the
first ``angle_samples`` of a batch; its order is random. Both terms depend on the batch alone. Nothing is added
to the student.
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
    """Two relations of embeddings."""

    def __init__(self, params: RkdParams, setting: MethodContext) -> None:
        super().__init__(params, setting)
        self.params = params
        self.per_sample = False
        check_batch(setting, params.name)
        embedding_width(setting.student_structure, "student", params.name)
        embedding_width(setting.teacher_structures[0], "teachers/0", params.name)
        self.student_taps = self.teacher_taps = FeatureRequest(embedding=True)

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``distance`` and ``angle``, each with its weight."""
        mine, guide = student.embedding, teachers[0].embedding
        assert mine is not None
        assert guide is not None
        first = self.params.angle_samples
        return {
            "distance": self.params.distance_weight * relational_distance(mine, guide),
            "angle": self.params.angle_weight * relational_angle(mine[:first], guide[:first]),
        }
