"""Parameters of ``minivit``: weight multiplexing and distillation of relations (Zhang et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

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
        formula="label_weight · CE(student, labels) + logits_weight · CE(student, teacher), both softened by "
        "temperature, without T² + relation_weight · mean over pairs of blocks and the nine pairs X, Y of queries, "
        "keys and values of CE(softmax(X Yᵀ / √d) of the student, of the teacher) + hidden_weight · 49 · mean over "
        "pairs of the mean of (student's cosines of patches − teacher's)².",
        deviations=(
            (
                "Transforms of the heads start at identity: `transform_start`. The authors start them near zero, with "
                "a standard deviation of 0.02; then attention contributes next to nothing at first, and its weights "
                "get almost no gradient. This is affordable in 300 epochs, not in a short training."
            ),
            (
                "Losses are those of Mini-Swin for every student. Mini-DeiT's own loss, which divides by the number "
                "of classes, is left to method `deit`."
            ),
            (
                "Prefix tokens are removed by each network's own number of them; hidden states of a Swin are those of "
                "its stages. Mini-DeiT has no class token; here the student keeps its own."
            ),
            (
                "Relations need the same windows of the same tokens in both networks. A ViT learns the hidden "
                "relations of a Swin's stage on the same grid, but q, k and v only if the window covers the entire "
                "map."
            ),
            "The mean squared error of hidden states, an option of the authors' code, is left out.",
        ),
    )
    label_free: ClassVar[Mapping[str, tuple[Any, ...]]] = {"label_weight": (0.0,)}
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
    transform_start: Literal["identity", "random"] = Field(
        default="identity",
        description="Start of the transforms of a student without weights. `identity`: each run starts as a plain "
        "block, with a local convolution of zero; a short training needs it. `random`: near zero, as in the authors' "
        "code.",
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
