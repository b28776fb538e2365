"""Parameters of ``mutual``: two students learn from each other (Zhang et al. 2018)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from core.spec.document import StrictModel
from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import Weight


class PeerSpec(StrictModel):
    """A second model that is trained together with the student, from random weights."""

    architecture: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        description="A timm name; `GET /v1/architectures` lists them."
    )
    arguments: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Keyword arguments for `timm.create_model`. `num_classes` and `in_chans` come from the dataset.",
    )


class MutualParams(MethodParams):
    """Train two students together, each with the labels and the other's class probabilities."""

    info: ClassVar[MethodInfo] = MethodInfo(
        summary="No teacher: two students are trained together, and each matches the labels and the other's class "
        "probabilities. The one with the higher accuracy on a held-out tenth of the training images is exported.",
        paper="Deep Mutual Learning, arXiv:1706.00384",
        year=2018,
        when="There is no teacher for the classes, and twice the cost of a training is acceptable.",
        needs=Requirements(min_teachers=0, max_teachers=0, teacher=()),
    )
    name: Literal["mutual"] = Field(description="The method's name.")
    peer: PeerSpec | None = Field(
        default=None,
        description='The second student, as `{"architecture": …, "arguments": {…}}`. Null: the same architecture with '
        "different random weights. If its accuracy is higher, it is exported, whatever its architecture.",
    )
    temperature: float = Field(default=1.0, gt=0, le=100, description="Temperature T that softens both distributions.")
    weight: Weight = Field(
        default=1.0, description="Weight of the divergence from the other student's class probabilities."
    )
