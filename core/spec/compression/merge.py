"""Parameters of ``merge``: similar patch tokens become one at inference (ToMe)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from core.spec.compression.base import StepInfo, StepParams

MergeRatio = Annotated[float, Field(gt=0, lt=1)]


class MergeParams(StepParams):
    """Merge similar patch tokens in every block of a ViT, without training.

    Token merging (ToMe, Bolya et al. 2022, arXiv:2210.09461). The number of merged tokens is fixed for each block, so
    that the ONNX file has fixed shapes. The weights are unchanged.
    """

    info: ClassVar[StepInfo] = StepInfo(
        summary="A ViT that merges similar patch tokens in every block: fewer FLOPs with the same weights.",
        writes_file=False,
    )
    name: Literal["merge"] = Field(description="The step's name.")
    ratio: MergeRatio | Literal["auto"] = Field(
        default="auto",
        description="Fraction of the patch tokens that is merged away by the last block, in equal parts. `auto`: the "
        "largest of 0.1, 0.2 … 0.8 that the gate accepts.",
    )

    @field_validator("ratio", mode="before")
    @classmethod
    def _require_ratio(cls, ratio: Any) -> Any:
        is_number = isinstance(ratio, int | float) and not isinstance(ratio, bool)
        if ratio == "auto" or (is_number and 0 < ratio < 1):
            return ratio
        raise PydanticCustomError("ratio", "set ratio to auto, or to a number above 0 and below 1")

    @property
    def output(self) -> str:
        """``merged``."""
        return "merged"
