"""Parameters of ``feature``: a foundation model's embeddings, without labels."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import Weight


class FoundationParams(MethodParams):
    """Match a foundation model's embeddings without labels; the student has no classifier."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The student matches the embedding and the patch features of a foundation model; labels are not read. "
        "The exported model is a backbone without a classifier.",
        paper="AM-RADIO: Agglomerative Vision Foundation Model, arXiv:2312.06709",
        year=2024,
        when="Many unlabeled images and a teacher such as DINOv2 or CLIP; the small backbone is used for search or "
        "later training.",
        needs=Requirements(
            teacher=("embedding", "last features"), student=("embedding", "last features"), labels=False, headless=True
        ),
        caches=("embedding", "last"),
        formula="embedding_weight · (1 − cosine(P(e_s), e_t)) + patch_weight · mean over patches of [(1 − "
        "smooth_l1_share) · (1 − cosine(Q(f_s), z_t)) + smooth_l1_share · smooth L1(Q(f_s), z_t)]. e are the "
        "embeddings, f the patch features after the last norm on the teacher's grid, and z_t the teacher's f_t, "
        "standardized per channel. P and Q are a layer norm and a linear layer to the teacher's width.",
        deviations=(
            (
                "The teacher's patch features are standardized by running statistics per channel. The paper compares "
                "them as they are, so that its smooth L1 is decided by the few channels with the largest values."
            ),
            "There is one teacher, and P and Q are linear. The paper has several teachers and an MLP for each.",
        ),
    )
    name: Literal["feature"] = Field(description="The method's name.")
    embedding_weight: Weight = Field(
        default=1.0,
        description="Weight of 1 − cosine of the embeddings, which are the inputs of a classifier.",
    )
    patch_weight: Weight = Field(
        default=1.0,
        description="Weight of the distance between the last patch features; the teacher's are standardized.",
    )
    smooth_l1_share: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of smooth L1 in the distance between patch features; 1 − cosine has the rest. "
        "AM-RADIO has 0.1.",
    )
    beta: float = Field(
        default=1.0, gt=0, le=100, description="Difference at which smooth L1 changes from quadratic to linear."
    )
