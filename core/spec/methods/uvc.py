"""Parameters of ``uvc``: pruning of a student under a budget (Yu et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from core.spec.methods.base import MethodInfo, MethodParams, Requirements

Part = Literal["heads", "dims", "hidden", "blocks"]


class UvcParams(MethodParams):
    """Prune a trained ViT to a fraction of its FLOPs, with its original weights as teacher."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="Heads, dimensions of heads, hidden units and entire blocks of the student are pruned during training "
        "under one budget of FLOPs; the original student is the teacher.",
        paper="Unified Visual Transformer Compression, arXiv:2203.08243",
        year=2022,
        when="A trained ViT must become cheaper with as little change of its predictions as possible.",
        needs=Requirements(
            min_teachers=0,
            max_teachers=0,
            teacher=(),
            student=("logits", "weights"),
            student_families=("transformer",),
        ),
    )
    label_free: ClassVar[Mapping[str, tuple[Any, ...]]] = {"alpha": (1.0,)}
    name: Literal["uvc"] = Field(description="The method's name.")
    budget: float = Field(
        default=0.5, gt=0, lt=1, description="FLOPs of the exported student, as a fraction of the original student's."
    )
    prune: tuple[Part, ...] = Field(
        default=("heads", "dims", "hidden", "blocks"),
        min_length=1,
        max_length=4,
        description="Parts that may be pruned: entire heads (`heads`), value dimensions of heads (`dims`), hidden "
        "units of the MLPs (`hidden`), blocks (`blocks`).",
    )
    search_share: float = Field(
        default=0.4,
        gt=0,
        lt=1,
        description="Fraction of the training, from its start, that searches the parts to prune; afterwards they are "
        "fixed. The paper has 0.2 of 150 epochs.",
    )
    warmup_share: float = Field(
        default=0.15, ge=0, lt=1, description="Fraction of the search, from its start, in which nothing is pruned."
    )
    alpha: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Weight of the original student as teacher; the labels have 1 − alpha. The paper's 0.1 has almost "
        "no effect with its `element`, and little with `sample`.",
    )
    distillation_type: Literal["soft", "hard"] = Field(
        default="soft", description="`soft`: the teacher's probabilities; `hard`: its decisions."
    )
    temperature: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="Temperature T that softens both distributions; used only with `soft`.",
    )
    reduction: Literal["sample", "element"] = Field(
        default="sample",
        description="`sample` divides the soft divergence by the batch size; `element` by batch size times number of "
        "classes, as in the official code.",
    )

    @field_validator("prune")
    @classmethod
    def _each_once(cls, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        return tuple(dict.fromkeys(parts))

    @property
    def keeps_shape(self) -> bool:
        """False: the search chooses the parts that remain."""
        return False
