"""Parameters of ``rkd``: distances and angles in the batch (Park et al. 2019)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import FeatureParams, Weight


class RkdParams(FeatureParams):
    """Match the distances and angles between the samples of a batch."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The student's embeddings of a batch have the same relations as the teacher's: distances between two "
        "samples and angles between three.",
        paper="Relational Knowledge Distillation, arXiv:1904.05068",
        year=2019,
        when="Embeddings that are compared later, as in retrieval; widths may differ. Batches of 64 or more.",
        needs=Requirements(teacher=("logits", "embedding"), student=("logits", "embedding")),
        caches=("embedding", "logits"),
    )
    name: Literal["rkd"] = Field(description="The method's name.")
    distance_weight: Weight = Field(default=25.0, description="Weight λ_D of the distances.")
    angle_weight: Weight = Field(default=50.0, description="Weight λ_A of the angles.")
    angle_samples: int = Field(
        default=128,
        ge=3,
        le=512,
        description="Number of samples, from the start of a batch, among which angles are computed; their memory grows "
        "with the cube of it.",
    )
