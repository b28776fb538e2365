"""Parameters of ``tinyvit``: training with sparse soft labels only (Wu et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LogitParams


class TinyvitParams(LogitParams):
    """Learn from the teacher's most probable classes, without labels."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="The student learns from the teacher's most probable classes for each augmented view; the remaining "
        "probability is spread evenly over the others. Labels are not used.",
        paper="TinyViT: Fast Pretraining Distillation for Small Vision Transformers, arXiv:2207.10666",
        year=2022,
        when="A strong teacher, many images and a fixed number of views (training.views) that are replayed.",
        needs=Requirements(max_teachers=None, labels=False),
        caches=("sparse logits",),
    )
    name: Literal["tinyvit"] = Field(description="The method's name.")
    top_k: int | None = Field(
        default=None,
        ge=1,
        le=32_767,
        description="Number K of the teacher's most probable classes, smaller than the number of classes. Null: 100 as "
        "in the paper, or all but one if there are fewer.",
    )
