"""Parameters of ``uvc``: a smaller student by pruning under a budget (Yu et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from core.spec.methods.base import MethodInfo, MethodParams, Requirements

Part = Literal["heads", "dims", "hidden", "blocks"]


class UvcParams(MethodParams):
    """Prune a ViT that has learned already until it costs a share of its operations, and let its old self teach it."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="Heads, dimensions of heads, hidden units and whole blocks of the student are removed together under "
        "one budget of operations, found while training; the student as it was given is the teacher.",
        paper="Unified Visual Transformer Compression, arXiv:2203.08243",
        year=2022,
        when="A trained ViT has to become cheaper and should stay as alike as it can.",
        needs=Requirements(
            min_teachers=0,
            max_teachers=0,
            teacher=(),
            student=("logits", "weights"),
            student_families=("transformer",),
        ),
    )
    name: Literal["uvc"] = Field(description="The method's name.")
    budget: float = Field(
        default=0.5, gt=0, lt=1, description="Operations of the exported student, as a share of the given one's."
    )
    prune: tuple[Part, ...] = Field(
        default=("heads", "dims", "hidden", "blocks"),
        min_length=1,
        max_length=4,
        description="What may be removed: whole heads, value dimensions in heads, hidden units of the MLPs, blocks.",
    )
    search_share: float = Field(
        default=0.4,
        gt=0,
        lt=1,
        description="Part of the training in which it is found out what is removed; in the rest it stays removed. The "
        "paper's is 0.2 of 150 epochs.",
    )
    warmup_share: float = Field(
        default=0.15, ge=0, lt=1, description="Part of the search, at its beginning, in which nothing is removed yet."
    )
    alpha: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Weight of the given student as teacher; the labels weigh 1 − alpha. The paper's 0.1 has next to "
        "no effect with its `element`, and little with `sample`.",
    )
    distillation_type: Literal["soft", "hard"] = Field(
        default="soft", description="`soft`: the teacher's probabilities; `hard`: its decisions."
    )
    temperature: float = Field(default=1.0, gt=0, le=100, description="Softens both distributions; with `soft` alone.")
    reduction: Literal["sample", "element"] = Field(
        default="sample",
        description="`sample` divides the soft divergence by the batch size, `element` by batch size times classes "
        "as the official code does.",
    )

    @field_validator("prune")
    @classmethod
    def _each_once(cls, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        return tuple(dict.fromkeys(parts))
