"""Outcome of one compression step, and its folder: complete or absent, so that a later attempt goes on from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from core.compress.base import drop
from core.errors import StorageFailed
from core.models.weights import CONFIG, WEIGHTS
from core.spec.compression import StepParams
from core.system.disk import write_atomic

STEP_FILE = "step.json"
_FORMAT = 1

Status = Literal["applied", "rejected", "failed"]


@dataclass(frozen=True, slots=True)
class HeldOutAccuracy:
    """Top-1 accuracy (0…1) on the held-out images, of a step's output and of the network before the step.

    For a dataset without labels it is the agreement with the student before compression.
    """

    images: int
    reference_top1: float
    top1: float
    max_top1_drop: float

    @property
    def drop(self) -> float:
        """Loss of accuracy; negative for a gain."""
        return drop(self.reference_top1, self.top1)

    @property
    def is_accepted(self) -> bool:
        """Whether the loss is at most the accepted one."""
        return self.drop <= self.max_top1_drop

    @property
    def reason(self) -> str:
        """Why a step is rejected, with figures."""
        return (
            f"top-1 on {self.images} held-out images fell from {_percent(self.reference_top1)} to "
            f"{_percent(self.top1)}, and max_top1_drop accepts {100 * self.max_top1_drop:g} points"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """What became of one step.

    Args:
        key: Digest of everything that the output depends on.
        output: Name of the file or folder that the step publishes; see :func:`core.spec.compression.output_names`.
        is_file: Whether the output is a file, otherwise a network's folder. None for a failed step.
        accuracy: None for a failed step.
        folder: Holds the output, and this outcome as ``step.json``.
    """

    key: str
    index: int
    name: str
    status: Status
    output: str
    reason: str | None = None
    is_file: bool | None = None
    accuracy: HeldOutAccuracy | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    folder: Path

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the outcome that an earlier attempt saved. Raises ``StorageFailed`` if the folder is damaged."""
        try:
            document = json.loads((folder / STEP_FILE).read_bytes())
            if document.pop("format") != _FORMAT:
                raise StorageFailed(f"{folder.name} has another format than {_FORMAT}")
            accuracy = document.pop("accuracy")
            return cls(**document, accuracy=None if accuracy is None else HeldOutAccuracy(**accuracy), folder=folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageFailed(f"the output of a compression step cannot be read: {error}") from error

    def write(self) -> None:
        """Write ``step.json``. Raises ``StorageFailed``."""
        document = {name: value for name, value in asdict(self).items() if name != "folder"}
        write_atomic(self.folder / STEP_FILE, json.dumps({"format": _FORMAT, **document}, indent=1).encode())

    @property
    def is_applied(self) -> bool:
        """Whether the output is published, and later steps continue with its network."""
        return self.status == "applied"

    @property
    def artifact(self) -> str:
        """Name of the artifact that holds the weights."""
        return self.output if self.is_file else f"{self.output}/{WEIGHTS}"

    @property
    def path(self) -> Path:
        """The file that holds the weights."""
        return self.folder / (self.output if self.is_file else WEIGHTS)

    def artifacts(self) -> dict[str, Path]:
        """Files to publish by artifact name; none unless the step is applied."""
        if not self.is_applied:
            return {}
        if self.is_file:
            return {self.output: self.path}
        return {f"{self.output}/{name}": self.folder / name for name in (WEIGHTS, CONFIG)}

    def summary(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Entry of ``result.compressed``. ``metrics`` are those on the test split, empty for a failed step."""
        return {
            "artifact": self.artifact if self.is_applied else None,
            "top1": None,
            "size_bytes": None,
            "latency_ms": None,
            **metrics,
            "step": self.index,
            "name": self.name,
            "status": self.status,
            "reason": self.reason,
            "held_out": None if self.accuracy is None else {**asdict(self.accuracy), "drop": self.accuracy.drop},
        }

    @property
    def message(self) -> str:
        """Sentence for the job's log."""
        if self.accuracy is None or self.reason is not None:
            return f"Step {self.index} ({self.name}) is {self.status}: {self.reason}."
        top1, reference = _percent(self.accuracy.top1), _percent(self.accuracy.reference_top1)
        return (
            f"Step {self.index} ({self.name}) is applied: {self.output} has a top-1 of {top1} on "
            f"{self.accuracy.images} held-out images, {reference} before."
        )


def rejection_fix(params: StepParams) -> str:
    """Return how to change a step that is rejected."""
    advice = "raise max_top1_drop if the loss is acceptable"
    if params.info.writes_file:
        return f"{advice}, or choose another dtype or mode"
    return f"{advice}, choose a milder target, or raise epochs"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"
