"""Parameters of ``agglomerate``: several foundation models into one small backbone, without labels."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import Weight

Level = Annotated[int, Field(ge=0, le=1000)]


class AgglomerateParams(MethodParams):
    """Match the summaries and patch features of one to eight foundation models; the student has no classifier."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The student matches the summary (class token or pooled embedding) and the patch features of one to "
        "eight foundation models, by a head for each; labels are not read. The exported model is a backbone without a "
        "classifier.",
        paper="PHI-S: Distribution Balancing for Label-Free Multi-Teacher Distillation, arXiv:2410.01680",
        year=2024,
        when="Many unlabeled images, and one or several teachers such as DINOv2, DINOv3, SigLIP or C-RADIO; the small "
        "backbone is used for search or is fine-tuned later.",
        needs=Requirements(
            max_teachers=8,
            teacher=("embedding", "last features"),
            student=("embedding", "last features"),
            labels=False,
            headless=True,
            matched_grids=True,
        ),
        caches=("embedding", "last"),
        formula="For an image b and a teacher i, l = summary_weight · (1 − cos(h(s), t)) + patch_weight · mean over "
        "patches of (1 − w) (1 − cos(h(s), n(t))) + w · smooth L1(h(s), n(t)), with a head h for each term, the "
        "normalization n and w = `smooth_l1_share`. The loss is Σ weight(i, b) · l(i, b), with weights of sum 1. With "
        "normalization `channel`, summaries have the loss of patches.",
        deviations=(
            "Statistics are estimated once, before the first step; the official codes move targets in the training.",
            "Heads are trained, which TAO's code omits, and read features behind the final norm, which UNIC omits.",
            "Loss and heads follow AM-RADIO and TAO, teacher dropping and the ladder follow UNIC.",
        ),
    )
    name: Literal["agglomerate"] = Field(description="The method's name.")
    summary_weight: Weight = Field(default=1.0, description="Weight of the distance of the summaries.")
    patch_weight: Weight = Field(default=1.0, description="Weight of the distance of the last patch features.")
    normalization: Literal["phi_s", "channel", "none"] = Field(
        default="phi_s",
        description="Standardization of the teachers' features. `phi_s`: one scale and a rotation of patch features, "
        "after which all channels have variance 1. `channel`: each channel of patch features and summaries by its mean "
        "and deviation. Summaries that are not standardized are compared by their cosine alone.",
    )
    smooth_l1_share: float = Field(
        default=0.1, ge=0, le=1, description="Weight w of smooth L1; that of 1 − cosine is 1 − w."
    )
    beta: float = Field(default=2.0, gt=0, le=100, description="Threshold of smooth L1.")
    head_width: int = Field(default=1024, ge=16, le=8192, description="Hidden width of the heads.")
    head_depth: int = Field(default=1, ge=0, le=4, description="Residual blocks of each head. Not used with `ladder`.")
    ladder: tuple[Level, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Rising levels of a ViT student, counted from 0, whose features are projected and added up "
        "(UNIC); the last has a hidden width of four times `head_width`. Null: the last features only.",
    )
    drop_probability: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Probability with which a teacher is dropped for an image, unless it is the teacher that the "
        "student matches worst there (UNIC). Null: 0.5 with two or more teachers, otherwise 0. With several devices "
        "or `gradient_accumulation` it must be 0.",
    )
    teacher_weights: tuple[Weight, ...] | None = Field(
        default=None,
        max_length=8,
        description="Weight of each teacher, in the order of `teachers`; scaled to a sum of 1. Null: equal weights.",
    )
    summary: Literal["auto", "class", "mean"] = Field(
        default="auto",
        description="Summary of an image. `auto`: the student's embedding, which the backbone outputs, and the class "
        "token of each teacher, or the embedding of a teacher without one. `class`: class tokens. `mean`: means of "
        "patch features.",
    )
    statistics_batches: int = Field(
        default=100,
        ge=1,
        le=3000,
        description="Number of batches from which the statistics of `normalization` are estimated, once, before the "
        "first step; at most one epoch.",
    )

    @field_validator("teacher_weights")
    @classmethod
    def _some_weight(cls, weights: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if weights is not None and not sum(weights) > 0:
            raise PydanticCustomError("weights", "at least one teacher must have a weight above 0")
        return weights

    @field_validator("ladder")
    @classmethod
    def _rising(cls, levels: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if levels is not None and list(levels) != sorted(set(levels)):
            raise PydanticCustomError("ladder", "levels must rise: give each once, in ascending order")
        return levels

    @model_validator(mode="after")
    def _some_term(self) -> Self:
        if not self.summary_weight + self.patch_weight > 0:
            raise PydanticCustomError("weights", "summary_weight or patch_weight must be above 0")
        return self
