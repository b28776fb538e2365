"""Similarity preservation: samples that are alike for the teacher are alike for the student.

Tung and Mori 2019, arXiv:1907.09682: squared distance of the row-normalised Gram matrices of the batch, / B².
The paper takes the last maps, flattened (``features: last``); the default is what the classifier reads, which
every network has and which a ViT with a class token is trained on. The term depends on the batch size. Nothing
is added to the student.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from core.losses import similarity_preserving
from core.methods.base import Batch, MethodContext, invalid_architecture
from core.methods.compatibility import check_batch, embedding_width
from core.methods.feature_base import FeatureMethod
from core.models.taps import FeatureRequest, Outputs
from core.spec.methods.similarity import SimilarityParams


class Similarity(FeatureMethod):
    """One relation of the last features."""

    def __init__(self, params: SimilarityParams, setting: MethodContext) -> None:
        super().__init__(params, setting)
        self.params = params
        self.per_sample = False
        check_batch(setting, params.name)
        for whose, anatomy in ("student", setting.student_structure), ("teachers/0", setting.teacher_structures[0]):
            if params.features == "embedding":
                embedding_width(anatomy, whose, params.name)
            elif anatomy.last is None:
                raise invalid_architecture(
                    whose, f"timm's {anatomy.architecture} does not show its last features; use features: embedding"
                )
        on_embedding = params.features == "embedding"
        self.student_taps = self.teacher_taps = FeatureRequest(embedding=on_embedding, last=not on_embedding)

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``similarity``."""
        return {"similarity": similarity_preserving(self._read(student), self._read(teachers[0]))}

    def _read(self, outputs: Outputs) -> Tensor:
        if self.params.features == "last":
            assert outputs.last is not None
            return outputs.last.tokens.flatten(1)
        assert outputs.embedding is not None
        return outputs.embedding
