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
        "probabilities. The student is exported.",
        paper="Deep Mutual Learning, arXiv:1706.00384",
        year=2018,
        when="There is no teacher for the classes, and twice the cost of a training is acceptable.",
        needs=Requirements(min_teachers=0, max_teachers=0, teacher=()),
        formula="For the student, and in the same way for its peer: CE(student, labels) + weight · T² · KL(peer ‖ "
        "student), without a gradient to the peer. The paper has weight 1 and T 1 (eq. 6). No image is held out by "
        "default: which of two networks of one architecture is better is chance, and a tenth fewer training images "
        "cost about 2 points. On 2,000 images of CIFAR-10, 40 epochs, a CNN of 0.7 M parameters reached 48.1 with and "
        "50.3 without `hold_out` 0.1, one seed each.",
        deviations=("Both networks take one step of the same optimizer. The official code updates them in turn.",),
    )
    name: Literal["mutual"] = Field(description="The method's name.")
    peer: PeerSpec | None = Field(
        default=None,
        description='The second student, as `{"architecture": …, "arguments": {…}}`. Null: the same architecture with '
        "different random weights. Only with `hold_out` it may be exported, whatever its architecture.",
    )
    temperature: float = Field(default=1.0, gt=0, le=100, description="Temperature T that softens both distributions.")
    weight: Weight = Field(
        default=1.0, description="Weight of the divergence from the other student's class probabilities."
    )
    hold_out: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="Fraction of the training images (at most 10,000) that is not trained on and decides which of the "
        "two networks is exported. 0: the student is exported, and all images are trained on.",
    )

    @property
    def held_out_fraction(self) -> float:
        """The parameter ``hold_out``."""
        return self.hold_out

    @property
    def keeps_shape(self) -> bool:
        """False where a peer of another architecture may be exported."""
        return self.peer is None or self.hold_out == 0
