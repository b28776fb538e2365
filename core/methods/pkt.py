"""Probabilistic transfer: each sample's neighbours in the batch are the teacher's.

Passalis and Tefas 2018, arXiv:1803.10837 with the cosine kernel, on what the classifiers read. As in the
official code a sample is its own neighbour as well, and the divergence is a mean over all pairs. The term
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
    """One relation of embeddings."""

    def __init__(self, params: PktParams, setting: MethodContext) -> None:
        super().__init__(params, setting)
        self.per_sample = False
        check_batch(setting, params.name)
        embedding_width(setting.student_structure, "student", params.name)
        embedding_width(setting.teacher_structures[0], "teachers/0", params.name)
        self.student_taps = self.teacher_taps = FeatureRequest(embedding=True)

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``neighbours``."""
        assert student.embedding is not None
        assert teachers[0].embedding is not None
        return {"neighbours": probabilistic_transfer(student.embedding, teachers[0].embedding)}
