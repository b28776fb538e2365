"""Parameters of ``prune``: a smaller network with fewer heads, hidden units, blocks or channels."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from core.spec.compression.base import ReshapingParams, StepInfo
from core.spec.document import StrictModel
from core.spec.methods.base import MethodParams
from core.spec.methods.uvc import Part, UvcParams

Criterion = Literal["magnitude", "taylor", "uvc"]
PrunedPart = Literal["heads", "hidden", "width", "blocks"]
TargetMeasure = Literal["flops", "parameters", "latency_ms"]


class PruningTarget(StrictModel):
    """What the network has to reach; exactly one measure is set."""

    flops: float | None = Field(default=None, gt=0, lt=1, description="Fraction of the FLOPs that remains.")
    parameters: float | None = Field(default=None, gt=0, lt=1, description="Fraction of the parameters that remains.")
    latency_ms: float | None = Field(
        default=None, gt=0, description="Milliseconds for one image on the CPU of the worker, with the job's threads."
    )

    @model_validator(mode="after")
    def _require_one_measure(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise PydanticCustomError("target", "set exactly one of flops, parameters and latency_ms")
        return self

    @property
    def measure(self) -> TargetMeasure:
        """The measure that is set."""
        if self.flops is not None:
            return "flops"
        return "parameters" if self.parameters is not None else "latency_ms"

    @property
    def value(self) -> float:
        """The fraction or the milliseconds of the measure."""
        value = getattr(self, self.measure)
        assert isinstance(value, float)
        return value


class PruneParams(ReshapingParams):
    """Remove the least important parts of the network, and train the rest with distillation."""

    info: ClassVar[StepInfo] = StepInfo(
        summary="A network with fewer heads, hidden units and dimensions, or channels, fine-tuned with distillation.",
        writes_file=False,
    )
    name: Literal["prune"] = Field(description="The step's name.")
    criterion: Criterion = Field(
        default="taylor",
        description="Importance of a part. `magnitude`: the norm of its weights. `taylor`: the change of the loss "
        "without it, to first order, on training images. `uvc`: a search during the fine-tuning, only for ViTs and "
        "`flops`; it removes dimensions of heads, not of the width.",
    )
    target: PruningTarget = Field(
        description="One of `flops`, `parameters` (fractions that remain, such as 0.5) and `latency_ms`."
    )
    parts: tuple[PrunedPart, ...] = Field(
        default=("heads", "hidden", "width"),
        min_length=1,
        description="Parts of a ViT to prune: `heads`, `hidden` (units of the MLPs), `width` (of the embedding) and "
        "`blocks`. Each loses the same fraction. A CNN loses channels and has none of these parts.",
    )
    importance_images: int = Field(
        default=512,
        ge=1,
        le=100_000,
        description="Training images, drawn by the seed, from which `taylor` estimates the importance.",
    )

    @property
    def output(self) -> str:
        """``pruned``."""
        return "pruned"

    @property
    def uvc(self) -> UvcParams:
        """The search of the criterion ``uvc``. The network before the step is its teacher."""
        assert self.target.flops is not None, "the criterion uvc needs a target of FLOPs"
        parts: list[Part] = [part for part in self.parts if part != "width"]
        if "heads" in parts:
            parts.append("dims")
        return UvcParams(name="uvc", budget=self.target.flops, prune=tuple(parts), temperature=self.temperature)

    def fine_tuning_method(self, *, is_labeled: bool) -> MethodParams:
        """Return ``kd``, or ``uvc`` for that criterion."""
        if self.criterion != "uvc":
            return super().fine_tuning_method(is_labeled=is_labeled)
        return self.uvc.model_copy(update={"alpha": self.alpha if is_labeled else 1.0})

    @field_validator("parts")
    @classmethod
    def _without_repetition(cls, parts: tuple[PrunedPart, ...]) -> tuple[PrunedPart, ...]:
        return tuple(dict.fromkeys(parts))

    @model_validator(mode="after")
    def _require_flops_for_uvc(self) -> Self:
        if self.criterion != "uvc":
            return self
        if self.target.flops is None:
            raise PydanticCustomError(
                "target", "uvc searches under a budget of FLOPs; set target to flops, or criterion to taylor"
            )
        if set(self.parts) == {"width"}:
            raise PydanticCustomError("parts", "uvc does not prune the width; add heads, hidden or blocks to parts")
        if self.epochs < 1:
            raise PydanticCustomError("epochs", "uvc searches during its epochs; set epochs to at least 1")
        return self
