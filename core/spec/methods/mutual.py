"""Parameters of ``mutual``: two students teach each other (Zhang et al. 2018)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from core.spec.document import StrictModel
from core.spec.methods.base import MethodInfo, MethodParams, Requirements
from core.spec.methods.composition import Weight


class PeerSpec(StrictModel):
    """The model that learns beside the student, from random weights."""

    architecture: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        description="A timm name; `GET /v1/architectures` lists them."
    )
    arguments: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Keyword arguments for `timm.create_model`. `num_classes` and `in_chans` come from the dataset.",
    )


class MutualParams(MethodParams):
    """Train two students at once, each from the labels and from what the other one says."""

    about: ClassVar[MethodInfo] = MethodInfo(
        summary="No teacher: two students are trained together, each matches the labels and the other's class "
        "probabilities. A tenth of the training images is held out, and the student that is better there is exported.",
        paper="Deep Mutual Learning, arXiv:1706.00384",
        year=2018,
        when="There is no teacher for the classes at hand, and twice the cost of a training is no trouble.",
        needs=Requirements(min_teachers=0, max_teachers=0, teacher=()),
    )
    name: Literal["mutual"] = Field(description="The method's name.")
    peer: PeerSpec | None = Field(
        default=None,
        description='The other student, as `{"architecture": …, "arguments": {…}}`. Null: the same architecture with '
        "other random weights. Where it does better, it is the one that is exported, whatever its architecture.",
    )
    temperature: float = Field(default=1.0, gt=0, le=100, description="Softens both distributions.")
    weight: Weight = Field(default=1.0, description="Weight of the other student's class probabilities.")
