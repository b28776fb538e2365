"""Parameters of ``tinyvit``: sparse soft labels alone (Wu et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.methods.base import MethodInfo, Requirements
from core.spec.methods.composition import LogitParams


class TinyvitParams(LogitParams):
    """Learn from the teacher's likeliest classes, and never from the labels."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="The student learns from the teacher's likeliest classes of each augmented view, the others sharing "
        "the rest evenly, and never sees the labels.",
        paper="TinyViT: Fast Pretraining Distillation for Small Vision Transformers, arXiv:2207.10666",
        year=2022,
        when="A strong teacher, many images and a fixed number of views (training.views) that are seen again.",
        needs=Requirements(max_teachers=None),
        caches=("sparse logits",),
    )
    name: Literal["tinyvit"] = Field(description="The method's name.")
    top_k: int | None = Field(
        default=None,
        ge=1,
        le=32_767,
        description="How many classes of the teacher are told apart, fewer than there are. Null: 100 as in the paper, "
        "or all but one where there are fewer.",
    )
