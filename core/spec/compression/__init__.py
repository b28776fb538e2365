"""The registry of compression steps: parameters and implementation. Imports no torch.

A new step takes one file in this folder (its parameters), one in ``core.compress`` (its implementation), and one line
here. Spec validation, resolver, estimate, pipeline and documentation read the registry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from core.spec.compression.base import FineTuningParams, StepInfo, StepParams
from core.spec.compression.merge import MergeParams
from core.spec.compression.prune import PruneParams
from core.spec.compression.quantize import QuantizeParams
from core.spec.compression.share import ShareParams

MAX_STEPS = 8


@dataclass(frozen=True, slots=True)
class StepEntry:
    """A step's parameters and the class that implements it, as ``module:Class``."""

    params: type[StepParams]
    implementation: str


COMPRESSION_STEPS: dict[str, StepEntry] = {
    "prune": StepEntry(PruneParams, "core.compress.prune:Prune"),
    "share": StepEntry(ShareParams, "core.compress.share:Share"),
    "merge": StepEntry(MergeParams, "core.compress.merge:Merge"),
    "quantize": StepEntry(QuantizeParams, "core.compress.quantize:Quantize"),
}

if TYPE_CHECKING:
    CompressionSpec = StepParams
else:
    _PARAMS = tuple(entry.params for entry in COMPRESSION_STEPS.values())
    # pydantic needs two alternatives for a discriminator.
    CompressionSpec = _PARAMS[0] if len(_PARAMS) == 1 else Annotated[Union[_PARAMS], Field(discriminator="name")]  # noqa: UP007


def output_names(steps: Sequence[StepParams]) -> list[str]:
    """Return the name of each step's output, unique in the job: ``model.int8.onnx``, ``model.int8-2.onnx``, ``pruned``.

    Names of files end with their type, and the number precedes it.
    """
    names: list[str] = []
    for step in steps:
        stem, dot, suffix = step.output.rpartition(".") if "." in step.output else (step.output, "", "")
        count = sum(earlier.output == step.output for earlier in steps[: len(names)])
        names.append(step.output if count == 0 else f"{stem}-{count + 1}{dot}{suffix}")
    return names


__all__ = [
    "COMPRESSION_STEPS",
    "MAX_STEPS",
    "CompressionSpec",
    "FineTuningParams",
    "StepEntry",
    "StepInfo",
    "StepParams",
    "output_names",
]
