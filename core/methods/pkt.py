"""Probabilistic knowledge transfer: each sample has the same neighbors in the batch as for the teacher.

Paper: Passalis and Tefas 2018, arXiv:1803.10837, with the cosine kernel, on the embeddings (the classifiers' inputs).
As in the official code, a sample is also its own neighbor, and the divergence is a mean over all pairs. The term
depends on the batch size. Nothing is added to the student.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from core.losses import probabilistic_transfer
from core.methods.base import Batch, MethodContext
from core.methods.compatibility import check_batch, embedding_width
from core.methods.feature_base import FeatureMethod
from core.models.taps import FeatureRequest, Outputs
from core.spec.methods.pkt import PktParams


class Pkt(FeatureMethod):
    """Term ``neighbours``, from embeddings."""

    def __init__(self, params: PktParams, context: MethodContext) -> None:
        super().__init__(params, context)
        self.per_sample = False
        check_batch(context, params.name)
        embedding_width(context.student_structure, "student", params.name)
        embedding_width(context.teacher_structures[0], "teachers/0", params.name)
        self.student_taps = self.teacher_taps = FeatureRequest(embedding=True)

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``neighbours``, the divergence of the neighbor distributions."""
        assert student.embedding is not None
        assert teachers[0].embedding is not None
        return {"neighbours": probabilistic_transfer(student.embedding, teachers[0].embedding)}
