"""Parameters of ``minivit``: weight multiplexing and distillation of relations (Zhang et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import LayerPair, Weight


class MinivitParams(MethodParams):
    """Share each block's weights among several runs, and learn how the teacher relates token to token."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="Blocks of the student share their weights in runs; relations of its queries, keys, values and hidden "
        "states match the teacher's.",
        paper="MiniViT: Compressing Vision Transformers with Weight Multiplexing, arXiv:2204.07154",
        year=2022,
        when="The student, a ViT or a Swin, has to be small on disk: half the weights at the same depth, in about the "
        "same time. A Swin learns its relations from a Swin with the same windows. With relation_weight and "
        "hidden_weight 0 any teacher will do.",
        needs=Requirements(teacher=("logits", "attentions", "levels"), student_families=("transformer",)),
        caches=("levels", "attentions", "logits"),
    )
    name: Literal["minivit"] = Field(description="The method's name.")
    repeats: int = Field(
        default=2,
        ge=1,
        le=64,
        description="How often each stored block runs in succession; depth counts runs. 1: nothing is shared. A Swin's "
        "stage with fewer blocks stores one: the authors' Mini-Swin-T has 6, the others 2.",
    )
    head_transforms: bool = Field(
        default=True, description="Give each run its own linear maps over the heads, before and after the softmax."
    )
    relative_position: bool = Field(
        default=False,
        description="Give each run of a ViT its own relative positions of the keys, as the authors' Mini-DeiT has.",
    )
    local_convolution: bool | None = Field(
        default=None,
        description="Norm what reaches each run's MLP and add a depth-wise convolution of it, as the authors' "
        "Mini-Swin does. Null: where a Swin's blocks are shared.",
    )
    label_weight: Weight = Field(
        default=0.0, description="Weight of the labels' cross-entropy; the authors learn from the teacher alone."
    )
    logits_weight: Weight = Field(
        default=1.0, description="Weight of the cross-entropy with the teacher's soft labels."
    )
    temperature: float = Field(
        default=1.0, gt=0, le=100, description="Softens both in the soft labels' term, which has no factor T² here."
    )
    relation_weight: Weight = Field(default=1.0, description="Weight of the relations of queries, keys and values.")
    relation_heads: int = Field(
        default=1, ge=1, le=64, description="Heads of the relations; must divide both networks' widths."
    )
    hidden_weight: Weight = Field(
        default=0.1, description="Weight of the relations of hidden states, which have the authors' factor 49 beside."
    )
    layers: tuple[LayerPair, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Pairs of student and teacher block, counted from 0. Null: every other block of the shallower "
        "network, at equal relative depth, at most six for each size of map.",
    )

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if not any((self.label_weight, self.logits_weight, self.relation_weight, self.hidden_weight)):
            raise PydanticCustomError("weights", "every weight is 0: nothing would be learnt; give one of them")
        return self
