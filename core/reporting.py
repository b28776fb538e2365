"""What the engine tells its caller, and what the caller tells the engine.

``core.pipeline.run`` knows nothing of HTTP, Celery or a database; whoever calls it passes a
:class:`Reporter` and a :class:`Workspace`. The worker's reporter writes rows and beats a lease, the
command line's draws a progress bar.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol

PIXEL_CACHE_BYTES = 20 * 1024**3


class Stage(StrEnum):
    """The stages of a job, in the order in which they run."""

    PREPARE = "prepare"
    TEACHER = "teacher"
    CACHE = "cache"
    DISTILL = "distill"
    COMPRESS = "compress"
    EVALUATE = "evaluate"
    EXPORT = "export"


class Control(StrEnum):
    """What the caller wants the engine to do at its next step."""

    GO = "go"
    PAUSE = "pause"
    CANCEL = "cancel"
    STOP = "stop"
    DRAIN = "drain"


class Interrupted(Exception):
    """The engine left on request, after it saved a checkpoint; ``control`` says on whose."""

    def __init__(self, control: Control) -> None:
        super().__init__(control.value)
        self.control = control


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the student's training is. ``step`` and ``epoch`` count what is done, from 0."""

    fraction: float  # of the whole job, every stage included, 0…1
    step: int
    total_steps: int
    epoch: int
    images_per_second: float | None = None
    eta_seconds: float | None = None
    stage_step: int | None = None  # of the stage at hand, where it counts steps of its own
    stage_total_steps: int | None = None


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """A checkpoint on local disk, complete and closed.

    ``folder`` holds ``model.safetensors`` (the student alone) and ``state.pt`` (everything else that
    the next step depends on). ``track`` is ``distill`` or ``teacher-K``: a run resumes each track from
    its newest. ``keep`` marks weights that the spec asked to keep; others are for resuming alone.
    """

    folder: Path
    track: str
    step: int
    epoch: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    keep: bool = False


class Reporter(Protocol):
    """The caller's side of a run. Every method may raise ``Interrupted`` or a ``RunError``."""

    def stage_started(self, stage: Stage) -> None:
        """A stage begins, or is entered again by a later attempt."""

    def stage_finished(self, stage: Stage) -> None:
        """A stage is done and its product is kept."""

    def progress(self, progress: Progress) -> None:
        """Say how far the run is. Cheap; the caller decides how often it is stored."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log one value per series at ``step``. Cheap; batched by the caller."""

    def event(
        self,
        type: str,  # noqa: A002 - the wire's word
        message: str,
        *,
        level: Literal["info", "warning", "error"] = "info",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Add to the job's log, e.g. ``teacher.trained``."""

    def control(self) -> Control:
        """What to do next. Called before every step, so it must not wait."""

    def save_checkpoint(self, checkpoint: SavedCheckpoint) -> None:
        """Store a checkpoint durably before returning; the folder may be gone afterwards."""

    def newest_checkpoint(self, track: str) -> Path | None:
        """The folder of the track's newest whole checkpoint, from this attempt or an earlier one."""

    def find_teacher(self, recipe: str) -> Path | None:
        """A folder (``config.json``, ``model.safetensors``) of a teacher trained by this recipe before."""

    def keep_teacher(self, recipe: str, folder: Path) -> None:
        """Keep a trained teacher for every later job with the same recipe."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where a run reads and writes.

    ``root`` is this run's own scratch folder. ``cache`` is shared by runs on this machine and holds
    only what can be computed again. ``dataset`` is a stored dataset (``core.data.stored``). ``models``
    maps ``mdl_…`` and ``job_…`` references to folders with ``config.json`` and ``model.safetensors``,
    ``datasets`` the ids of further datasets that the method reads to stored datasets. What teachers said is
    kept in ``cache`` up to ``teacher_cache_bytes``, decoded pictures up to ``pixel_cache_bytes``; the student's
    bits depend on neither.
    """

    root: Path
    cache: Path
    dataset: Path
    models: Mapping[str, Path] = field(default_factory=dict)
    datasets: Mapping[str, Path] = field(default_factory=dict)
    teacher_cache_bytes: int = 10 * 1024**3
    pixel_cache_bytes: int = PIXEL_CACHE_BYTES


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run leaves.

    ``result`` is the contract's job result without ``model``; ``artifacts`` are the files to hand out,
    by their public names, in a folder of the workspace.
    """

    result: dict[str, Any]
    artifacts: Mapping[str, Path]
