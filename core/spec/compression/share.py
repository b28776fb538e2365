"""Parameters of ``share``: blocks that store their weights once and run several times (MiniViT)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from core.spec.compression.base import ReshapingParams, StepInfo


class ShareParams(ReshapingParams):
    """Let consecutive blocks share one set of weights, and train the network with distillation.

    MiniViT's weight multiplexing (Zhang et al. 2022, arXiv:2204.07154): attention and MLP are stored once for
    ``repeats`` blocks; norms, and transforms over the heads that start as identity, are separate for each.
    """

    info: ClassVar[StepInfo] = StepInfo(
        summary="A ViT or Swin whose consecutive blocks store attention and MLP once, fine-tuned with distillation.",
        writes_file=False,
    )
    name: Literal["share"] = Field(description="The step's name.")
    repeats: int = Field(default=2, ge=2, le=64, description="Consecutive blocks that share their weights.")
    head_transforms: bool = Field(
        default=True, description="Separate linear transforms over the heads, before and after the softmax."
    )

    @property
    def output(self) -> str:
        """``shared``."""
        return "shared"
