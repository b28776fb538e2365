"""Similarity-preserving distillation: samples that are similar for the teacher are similar for the student.

Paper: Tung and Mori 2019, arXiv:1907.09682: squared distance of the row-normalized Gram matrices of the batch, / B².

Deviation: the paper compares the last maps, flattened (``features: last``); the default is the embedding (the
classifier's input), which every network has and which a ViT with a class token is trained on. The term depends on the
batch size. Nothing is added to the student.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from core.losses import similarity_preserving
from core.methods.base import Batch, MethodContext
from core.methods.compatibility import check_batch, embedding_width, last_level
from core.methods.feature_base import FeatureMethod
from core.models.taps import FeatureRequest, Outputs
from core.spec.methods.similarity import SimilarityParams


class Similarity(FeatureMethod):
    """Term ``similarity``, from embeddings or the last features."""

    def __init__(self, params: SimilarityParams, context: MethodContext) -> None:
        super().__init__(params, context)
        self.params = params
        self.per_sample = False
        check_batch(context, params.name)
        uses_embedding = params.features == "embedding"
        structures = ("student", context.student_structure), ("teachers/0", context.teacher_structures[0])
        for model_field, structure in structures:
            if uses_embedding:
                embedding_width(structure, model_field, params.name)
            else:
                last_level(structure, model_field, params.name, fix="or set features to embedding")
        self.student_taps = self.teacher_taps = FeatureRequest(embedding=uses_embedding, last=not uses_embedding)

    def feature_terms(self, batch: Batch, student: Outputs, teachers: Sequence[Outputs]) -> dict[str, Tensor]:
        """``similarity``, the distance of the Gram matrices."""
        return {"similarity": similarity_preserving(self._features(student), self._features(teachers[0]))}

    def _features(self, outputs: Outputs) -> Tensor:
        if self.params.features == "last":
            assert outputs.last is not None
            return outputs.last.tokens.flatten(1)
        assert outputs.embedding is not None
        return outputs.embedding
