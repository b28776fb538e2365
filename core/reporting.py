"""Interface between the engine and its caller: reporter, workspace, control requests and results.

``core.pipeline.run`` is independent of HTTP, Celery and the database. Its caller passes a :class:`Reporter` and a
:class:`Workspace`. The worker's reporter writes rows and renews a lease; the command line's draws a progress bar.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol

from core.job_warnings import JobWarning

PIXEL_CACHE_BYTES = 20 * 1024**3
STUDENT_TRACK = "distill"  # the student's checkpoints and progress
BASELINE_TRACK = "baseline"  # those of the same student, trained by labels alone

TrainedKind = Literal["teacher", "baseline"]
"""Networks that a job trains and saves for later jobs."""


def teacher_track(index: int) -> str:
    """Name of the track of a teacher that the job trains."""
    return f"teacher-{index}"


def compression_track(index: int) -> str:
    """Name of the track of the training in a compression step."""
    return f"compress-{index}"


def compressed_track(index: int) -> str:
    """Name of the track that holds the output of a completed compression step."""
    return f"compressed-{index}"


def untuned_track(index: int) -> str:
    """Name of the track that holds the network of a compression step before its training."""
    return f"untuned-{index}"


def track_series(track: str) -> tuple[str, tuple[str, ...]]:
    """Return the start of the names of a track's metric series, and the starts of those that other tracks have.

    Tracks are ``distill``, ``baseline``, ``compress-K`` and ``teacher-K``; and those of a model that is distilled
    first: ``teacher-K-distill``, ``teacher-K-teacher-J``, ``student-distill``, ``student-teacher-J``.
    """
    if track == STUDENT_TRACK:
        return "", ("teacher/", "student/", f"{BASELINE_TRACK}/", "compress/")
    prefix = f"{track.replace('-', '/')}/"
    return prefix, (f"{prefix}teacher/", f"{prefix}{STUDENT_TRACK}/")


class Stage(StrEnum):
    """Stages of a job, in execution order."""

    PREPARE = "prepare"
    TEACHER = "teacher"
    CACHE = "cache"
    DISTILL = "distill"
    BASELINE = "baseline"
    COMPRESS = "compress"
    EVALUATE = "evaluate"
    EXPORT = "export"


class Control(StrEnum):
    """Request of the caller, which the engine handles at its next step."""

    GO = "go"
    PAUSE = "pause"
    CANCEL = "cancel"
    STOP = "stop"
    DRAIN = "drain"


class Interrupted(Exception):
    """The engine ended on a request, after it saved a checkpoint. ``control`` is the request."""

    def __init__(self, control: Control) -> None:
        super().__init__(control.value)
        self.control = control


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a job. ``step`` and ``epoch`` count completed ones of the student's training."""

    fraction: float  # of the job, all stages included, 0…1
    step: int
    total_steps: int
    epoch: int
    images_per_second: float | None = None
    eta_seconds: float | None = None
    stage_step: int | None = None  # of the current stage, where it counts its own steps
    stage_total_steps: int | None = None


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """A complete checkpoint on local disk.

    ``folder`` holds ``model.safetensors`` (the student's weights) and ``state.pt`` (everything else that the next step
    depends on). For ``track`` see :func:`track_series`; a run resumes each track from its newest checkpoint. The folder
    of a track ``compressed-K`` holds the files that the step K wrote.
    ``keep`` marks weights that the spec requests to keep; other checkpoints are only for resuming.
    """

    folder: Path
    track: str
    step: int
    epoch: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    keep: bool = False


@dataclass(frozen=True, slots=True)
class ViewOffer:
    """Views whose teacher outputs other processes with the same cache folder may compute as well.

    Of the views from ``next_view`` to ``num_views - 1``, ``num_shards`` shards are missing, which no process computes
    yet. ``views_key`` names the outputs of all views: a process with another key computes other bits.
    ``shard_seconds`` is the mean time for a shard so far.
    """

    views_key: str
    next_view: int
    num_views: int
    num_shards: int
    shard_seconds: float

    @property
    def seconds(self) -> float:
        """Expected seconds of one process for all shards of the offer."""
        return self.shard_seconds * self.num_shards


class Reporter(Protocol):
    """Receiver of a run's events and source of its requests. Every method may raise ``Interrupted`` or ``RunError``."""

    def stage_started(self, stage: Stage) -> None:
        """A stage starts, in this attempt or again in a later one."""

    def stage_finished(self, stage: Stage) -> None:
        """A stage is complete and its result is saved."""

    def progress(self, progress: Progress) -> None:
        """Report progress. Cheap; the reporter decides how often to store it."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log one value per series at ``step``. Cheap; the reporter batches writes."""

    def event(
        self,
        type: str,  # noqa: A002 - the name in the API
        message: str,
        *,
        level: Literal["info", "warning", "error"] = "info",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an event to the job's log, e.g. ``teacher.trained``."""

    def warning(self, warning: JobWarning) -> None:
        """Add a warning to the job's list, and an event ``job.warning`` unless the list has the same one."""

    def warnings(self) -> list[JobWarning]:
        """Return the job's warnings: those of its estimate, and those of all attempts."""

    def control(self) -> Control:
        """Return the pending request. Called before every step, so it must not block."""

    def save_checkpoint(self, checkpoint: SavedCheckpoint) -> None:
        """Store a checkpoint durably before returning. May move the folder."""

    def newest_checkpoint(self, track: str) -> Path | None:
        """Return the folder of the track's newest complete checkpoint, of any attempt."""

    def find_teacher(self, fingerprint: str) -> Path | None:
        """Return the folder (``config.json``, ``model.safetensors``) of a saved teacher or baseline, or None."""

    def save_teacher(self, fingerprint: str, folder: Path, *, kind: TrainedKind = "teacher") -> None:
        """Save a trained teacher or baseline for later jobs that need one with the same fingerprint."""

    def offer_views(self, offer: ViewOffer) -> None:
        """Offer views to idle processes. Each offer replaces the one before; the training needs no answer."""


class NullReporter:
    """Reporter that discards everything, requests nothing and finds nothing."""

    def stage_started(self, stage: Stage) -> None:
        """Discard."""

    def stage_finished(self, stage: Stage) -> None:
        """Discard."""

    def progress(self, progress: Progress) -> None:
        """Discard."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Discard."""

    def event(
        self,
        type: str,  # noqa: A002 - the name in the API
        message: str,
        *,
        level: Literal["info", "warning", "error"] = "info",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Discard."""

    def warning(self, warning: JobWarning) -> None:
        """Discard."""

    def warnings(self) -> list[JobWarning]:
        """Return an empty list."""
        return []

    def control(self) -> Control:
        """Return ``GO``."""
        return Control.GO

    def save_checkpoint(self, checkpoint: SavedCheckpoint) -> None:
        """Discard."""

    def newest_checkpoint(self, track: str) -> Path | None:  # noqa: ARG002
        """Return None."""
        return None

    def find_teacher(self, fingerprint: str) -> Path | None:  # noqa: ARG002
        """Return None."""
        return None

    def save_teacher(self, fingerprint: str, folder: Path, *, kind: TrainedKind = "teacher") -> None:
        """Discard."""

    def offer_views(self, offer: ViewOffer) -> None:
        """Discard."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Folders that a run reads and writes.

    ``root`` is the scratch folder of this run. ``cache`` is shared by runs on this machine and holds only data that can
    be recomputed. ``dataset`` is a stored dataset (``core.data.stored``). ``models`` maps ``mdl_…`` and ``job_…``
    references to folders with ``config.json`` and ``model.safetensors``. ``datasets`` maps the ids of additional
    datasets of the method to stored datasets. ``teacher_cache_bytes`` and ``pixel_cache_bytes`` limit teacher outputs
    and decoded images in ``cache``; the student's bits depend on neither.
    ``dataset_license`` is repeated in the report.
    """

    root: Path
    cache: Path
    dataset: Path
    models: Mapping[str, Path] = field(default_factory=dict)
    datasets: Mapping[str, Path] = field(default_factory=dict)
    teacher_cache_bytes: int = 10 * 1024**3
    pixel_cache_bytes: int = PIXEL_CACHE_BYTES
    dataset_license: str | None = None


@dataclass(frozen=True, slots=True)
class RunResult:
    """Result of a run.

    ``result`` is the contract's job result without ``model``. ``artifacts`` maps public names to files in a folder of
    the workspace. ``receipts`` has the measured facts of exported files by name (``core.export.receipt``).
    """

    result: dict[str, Any]
    artifacts: Mapping[str, Path]
    receipts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
