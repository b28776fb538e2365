"""Parameters of ``minivit``: weight multiplexing and distillation of relations (Zhang et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import LayerPair, Weight


class MinivitParams(MethodParams):
    """Share each block's weights among several runs, and match the relations between the teacher's tokens."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="Consecutive blocks of the student share weights; relations of its queries, keys, values and hidden "
        "states match the teacher's.",
        paper="MiniViT: Compressing Vision Transformers with Weight Multiplexing, arXiv:2204.07154",
        year=2022,
        when="The student, a ViT or a Swin, must be small on disk: half the weights at the same depth and about the "
        "same speed. A Swin learns its relations from a Swin with the same windows. With relation_weight and "
        "hidden_weight 0 any teacher is supported.",
        needs=Requirements(teacher=("logits", "attentions", "levels"), student_families=("transformer",)),
        caches=("levels", "attentions", "logits"),
    )
    name: Literal["minivit"] = Field(description="The method's name.")
    repeats: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Number of consecutive runs of each stored block; the depth counts runs. 1: nothing is shared. A "
        "Swin's stage with fewer blocks stores one block: the authors' Mini-Swin-T has 6, the others 2.",
    )
    head_transforms: bool = Field(
        default=True,
        description="Give each run its own linear transforms of the attention heads, before and after the softmax.",
    )
    relative_position: bool = Field(
        default=False,
        description="Give each run of a ViT its own relative positions of the keys, as in the authors' Mini-DeiT.",
    )
    local_convolution: bool | None = Field(
        default=None,
        description="Normalize the input of each run's MLP and add a depth-wise convolution of it, as in the authors' "
        "Mini-Swin. Null: true if a Swin's blocks are shared.",
    )
    label_weight: Weight = Field(
        default=0.0, description="Weight of the cross-entropy with the labels; the authors use only the teacher."
    )
    logits_weight: Weight = Field(
        default=1.0, description="Weight of the cross-entropy with the teacher's soft labels."
    )
    temperature: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="Temperature T that softens both distributions of the soft labels' term, which has no factor T².",
    )
    relation_weight: Weight = Field(
        default=1.0, description="Weight β of the attention relations of queries, keys and values."
    )
    relation_heads: int = Field(
        default=1, ge=1, le=64, description="Number of heads of the relations; must divide both networks' widths."
    )
    hidden_weight: Weight = Field(
        default=0.1,
        description="Weight γ of the relations of hidden states, in addition to the authors' factor 49.",
    )
    layers: tuple[LayerPair, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Pairs [student block, teacher block], counted from 0. Null: every second block of the shallower "
        "network, at equal relative depth, at most six per size of map.",
    )

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if not any((self.label_weight, self.logits_weight, self.relation_weight, self.hidden_weight)):
            raise PydanticCustomError("weights", "every weight is 0: nothing would be learned; set one above 0")
        return self
