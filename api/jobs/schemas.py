"""A job, its log, its series and its files on the wire."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from api.schemas import Failure, Moment, Out
from core.errors import Fault

JobStatus = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
JobAction = Literal["cancel", "pause", "resume", "stop", "retry"]

# Not parsed again: a job that an older version accepted must stay readable. `api.openapi` puts the schema in.
StoredSpec = dict[str, Any]

EXAMPLE_SPEC: dict[str, Any] = {
    "name": "deit on digits",
    "dataset": "ds_01jd3v5n8e6f7g8h9jkmnpqrst",
    "teachers": [{"architecture": "resnet18", "weights": "train", "training": {"epochs": 5}}],
    "student": {
        "architecture": "vit_tiny_patch16_224",
        "weights": "random",
        "arguments": {"patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 3},
    },
    "method": {"name": "deit", "distillation_type": "hard"},
    "training": {"epochs": 20, "batch_size": 128, "learning_rate": 1e-3, "image_size": 32},
    "export": ["safetensors", "onnx"],
}


class StageOut(Out):
    """When a stage ran; without an end while it runs."""

    name: str
    started_at: str | None
    finished_at: str | None
    seconds: float | None


class ProgressOut(Out):
    """How far a job is. `step` and `epoch` count the student's training, `fraction` all of it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    fraction: float = Field(ge=0, le=1)
    step: int
    total_steps: int | None
    epoch: int
    images_per_second: float | None
    eta_seconds: float | None


class Measured(Out):
    """What was measured of one model on the test split, on the file that is handed out."""

    model_config = ConfigDict(frozen=True, extra="allow")

    top1: float | None = None
    top5: float | None = None
    parameters: int | None = None
    flops: float | None = None
    size_bytes: int | None = None
    latency_ms: float | None = None


class ResultOut(Out):
    """What a job that succeeded leaves."""

    model_config = ConfigDict(frozen=True, extra="allow")

    model: str | None = Field(description="The student as a model (`mdl_…`) for later jobs.")
    student: Measured
    teachers: list[Measured]
    compressed: list[dict[str, Any]]
    agreement: float | None = Field(description="How often student and teacher decide alike.")


class DeviceOut(Out):
    """The accelerator's memory, as a job's process saw it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str | None = None
    memory_bytes: int | None = Field(default=None, description="Reserved by the process.")
    memory_peak_bytes: int | None = None
    memory_free_bytes: int | None = None
    memory_total_bytes: int | None = None


class MachineOut(Out):
    """What was seen of the machine when a job failed; null where nobody could see it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    memory_bytes: int | None = Field(default=None, description="Of the job's process, at its end.")
    memory_peak_bytes: int | None = None
    memory_limit_bytes: int | None = Field(default=None, description="What the process may ask for; null: any.")
    memory_free_bytes: int | None = Field(default=None, description="What new work could get.")
    disk_free_bytes: int | None = Field(default=None, description="Where the service keeps its files on that machine.")
    device: DeviceOut | None = None


class JobFailure(Failure):
    """Why a job failed, and what would help."""

    fault: Fault | None = Field(
        description="What has to change: `spec` (what was asked), `data` (what was sent to learn from), `capacity` "
        "(memory, time or room), `infrastructure` (machines, disks, networks) or `service` (this software). Null: "
        "the job failed under an earlier version."
    )
    advice: str | None = Field(description="What would help, in words; null where the message says it.")
    fix: dict[str, Any] | None = Field(
        description="A change of the spec that would help, where one is known: a merge patch, which a retry with "
        "`apply_fix` applies."
    )
    log: list[str] = Field(description="The last lines that the attempt logged, at most 50, without secrets.")
    machine: MachineOut | None


class JobOut(Out):
    """A distillation job."""

    id: str
    object: Literal["job"] = "job"
    name: str | None
    status: JobStatus
    terminal: bool = Field(description="Nothing happens to it any more by itself.")
    next_actions: list[JobAction] = Field(description="The moves that are allowed now.")
    pending_action: Literal["cancel", "pause", "stop"] | None = Field(description="Asked for and not yet done.")
    stage: str | None
    stages: list[StageOut]
    progress: ProgressOut
    spec: StoredSpec = Field(description="With every default filled in; enough to run it again.")
    attempt: int
    created_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    error: JobFailure | None
    metadata: dict[str, str]
    result: ResultOut | None


class EventOut(Out):
    """A line of a job's log. `seq` counts 1, 2, 3, … without a gap."""

    id: str
    object: Literal["event"] = "event"
    job: str
    seq: int
    type: str
    level: str
    message: str
    data: dict[str, Any]
    attempt: int
    created_at: Moment


class SeriesOut(Out):
    """One measured quantity: `[step, value]`, by step."""

    name: str
    points: list[tuple[int, float | None]]


class MetricsOut(Out):
    """The series of a job."""

    object: Literal["metrics"] = "metrics"
    series: list[SeriesOut]


class CheckpointOut(Out):
    """Weights of the student at a step."""

    id: str
    object: Literal["checkpoint"] = "checkpoint"
    job: str
    step: int
    epoch: int
    metrics: dict[str, Any]
    resumable: bool = Field(description="The job can go on from here.")
    kept: bool = Field(description="Asked for by `keep_weights_every_epochs`.")
    size_bytes: int
    sha256: str
    attempt: int
    created_at: Moment


class ArtifactOut(Out):
    """A file that a job hands out."""

    id: str
    object: Literal["artifact"] = "artifact"
    name: str
    media_type: str
    size_bytes: int
    sha256: str
    created_at: Moment


class ModelMeasures(Out):
    """What a model of the spec will be."""

    model_config = ConfigDict(frozen=True, extra="allow")

    parameters: int
    flops: float | None = None
    size_bytes: int | None = None


class TeacherCacheOut(Out):
    """What the teachers' answers take on disk, and whether a job of this project has stored them already.

    A worker with another disk, or one that needed the room since, asks its teachers again.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    bytes: int
    hit: bool
    views: int = Field(
        description="How many views of each picture teachers are asked about. 0: about every batch anew."
    )
    seconds: float = Field(description="About how long teachers take to answer.")
    saved_seconds: float = Field(description="How much of that the job is spared; `seconds` of the job counts it out.")


class EstimateOut(Out):
    """What a job would take and give."""

    model_config = ConfigDict(frozen=True, extra="allow")

    student: ModelMeasures
    teachers: list[ModelMeasures]
    total_steps: int
    seconds: float | None
    memory_bytes: int | None
    teacher_cache: TeacherCacheOut
    warnings: list[Any]
