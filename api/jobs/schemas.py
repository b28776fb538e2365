"""Schemas of jobs, their events, metrics, checkpoints, artifacts and estimates."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from api.schemas import Failure, Out, Timestamp
from core.errors import Fault
from core.job_warnings import JobWarning

JobStatus = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
JobAction = Literal["cancel", "pause", "resume", "stop", "retry"]

# Not validated again: jobs of older versions must stay readable. `api.openapi` inserts the schema.
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
    """Times of a stage; `finished_at` is null while it runs."""

    name: str
    started_at: str | None
    finished_at: str | None
    seconds: float | None


class ProgressOut(Out):
    """Progress of a job. `step` and `epoch` count the student's training, `fraction` covers all stages."""

    model_config = ConfigDict(frozen=True, extra="allow")

    fraction: float = Field(ge=0, le=1)
    step: int
    total_steps: int | None
    epoch: int
    images_per_second: float | None
    eta_seconds: float | None = Field(description="Expected seconds until the end of the job.")
    stage_step: int | None = Field(
        None, description="Completed steps of the training in the current stage, such as a teacher's."
    )
    stage_total_steps: int | None = Field(None, description="Number of steps of that training.")


class Measured(Out):
    """Metrics of one model's exported file on the test split."""

    model_config = ConfigDict(frozen=True, extra="allow")

    top1: float | None = None
    top5: float | None = None
    parameters: int | None = None
    flops: float | None = None
    size_bytes: int | None = None
    latency_ms: float | None = None


class BaselineOut(Measured):
    """Metrics of the same student, trained by labels alone, and the student's gain over it."""

    gain: float | None = Field(default=None, description="Top-1 of the student minus that of the baseline.")
    gain_interval: tuple[float, float] | None = Field(
        default=None, description="95 % interval of `gain`, by a paired bootstrap over the test images."
    )


class HeldOutOut(Out):
    """Top-1 accuracy on the held-out images of the training split, as fractions."""

    images: int
    reference_top1: float = Field(description="Of the network before the step.")
    top1: float
    drop: float = Field(description="`reference_top1` − `top1`.")
    max_top1_drop: float


class CompressedOut(Measured):
    """Outcome of one compression step; metrics are those of its output on the test split."""

    artifact: str | None = Field(description="The published file; null unless the step is applied.")
    model: str | None = Field(
        default=None, description="Id of the model (`mdl_…`) where the output is torch weights, for use in later jobs."
    )
    agreement: float | None = Field(
        default=None, description="Fraction of images where it and the uncompressed student predict the same class."
    )
    step: int = Field(default=0, description="Position in `spec.compression`.")
    name: str | None = None
    status: Literal["applied", "rejected", "failed"] = Field(
        default="applied",
        description="`rejected`: it lost more than `max_top1_drop` on the held-out images. `failed`: it cannot be "
        "applied to this network.",
    )
    reason: str | None = Field(default=None, description="Why a step is rejected or failed.")
    held_out: HeldOutOut | None = None


class ResultOut(Out):
    """Result of a job that succeeded."""

    model_config = ConfigDict(frozen=True, extra="allow")

    model: str | None = Field(description="Id of the student's model (`mdl_…`), for use in later jobs.")
    student: Measured
    teachers: list[Measured]
    compressed: list[CompressedOut] = Field(description="One entry for each step of `spec.compression`.")
    agreement: float | None = Field(description="Fraction of images where student and teacher predict the same class.")
    baseline: BaselineOut | None = Field(
        default=None, description="Null: the spec asked for no baseline, or there is none; `report.json` says why."
    )


class DeviceOut(Out):
    """Memory of the accelerator, measured by the job's process."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str | None = None
    memory_bytes: int | None = Field(default=None, description="Reserved by the process.")
    memory_peak_bytes: int | None = None
    memory_free_bytes: int | None = None
    memory_total_bytes: int | None = None


class MachineOut(Out):
    """Memory and disk of the machine when a job failed; null if not measured."""

    model_config = ConfigDict(frozen=True, extra="allow")

    memory_bytes: int | None = Field(default=None, description="Of the job's process, at its end.")
    memory_peak_bytes: int | None = None
    memory_limit_bytes: int | None = Field(default=None, description="Limit of the process; null: no limit.")
    memory_free_bytes: int | None = Field(default=None, description="Available to new processes.")
    disk_free_bytes: int | None = Field(default=None, description="On the disk of the service's home directory.")
    device: DeviceOut | None = None


class JobFailure(Failure):
    """Why a job failed, and how to fix it."""

    fault: Fault | None = Field(
        description="Source of the failure: `spec` (the request), `data` (datasets and models), `capacity` (memory, "
        "time or disk space), `infrastructure` (machines, disks, networks) or `service` (this software). Null: the "
        "job failed under an earlier version."
    )
    retryable: bool = Field(
        description="Whether a retry of the unchanged spec can succeed. If false and there is no `fix`, `next_actions` "
        "offers no retry."
    )
    advice: str | None = Field(description="How to fix the failure; null if the message says it.")
    fix: dict[str, Any] | None = Field(
        description="A merge patch of the spec that fixes the failure, if there is one. A retry with `apply_fix` "
        "applies it."
    )
    log: list[str] = Field(description="The last log lines of the attempt, at most 50, without secrets.")
    machine: MachineOut | None


class JobOut(Out):
    """A distillation job."""

    id: str
    object: Literal["job"] = "job"
    name: str | None
    status: JobStatus
    terminal: bool = Field(description="The job has ended; only a retry changes its status.")
    next_actions: list[JobAction] = Field(description="The actions that are allowed now.")
    pending_action: Literal["cancel", "pause", "stop"] | None = Field(description="Requested but not yet executed.")
    waiting_reason: str | None = Field(
        description="Why a queued job does not run: no worker for its accelerator is alive, or all are busy. Null in "
        "other cases."
    )
    stage: str | None
    stages: list[StageOut]
    progress: ProgressOut
    spec: StoredSpec = Field(description="The spec with all defaults; it reproduces the job.")
    attempt: int
    created_at: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None
    error: JobFailure | None
    warnings: list[JobWarning] = Field(
        description="Of the estimate, and those found while the job ran. A job with warnings can succeed."
    )
    metadata: dict[str, str]
    sweep: str | None = Field(description="Id of the sweep (`swp_…`) that the job belongs to; null: none.")
    result: ResultOut | None


class EventOut(Out):
    """An event of a job. `seq` counts 1, 2, 3, … without gaps."""

    id: str
    object: Literal["event"] = "event"
    job: str
    seq: int
    type: str
    level: str
    message: str
    data: dict[str, Any]
    attempt: int
    created_at: Timestamp


class SeriesOut(Out):
    """A metric series: `[step, value]` pairs, by step."""

    name: str
    points: list[tuple[int, float | None]]


class MetricsOut(Out):
    """The metric series of a job."""

    object: Literal["metrics"] = "metrics"
    series: list[SeriesOut]


class JobLogOut(Out):
    """The last log lines of a job's process."""

    object: Literal["job_log"] = "job_log"
    job: str
    attempt: int | None = Field(description="The attempt that logged the lines; null: none has logged any yet.")
    lines: list[str] = Field(description="Oldest first: time (UTC), level, event and fields.")
    updated_at: Timestamp | None


class CheckpointOut(Out):
    """The student's weights at a step."""

    id: str
    object: Literal["checkpoint"] = "checkpoint"
    job: str
    step: int
    epoch: int
    metrics: dict[str, Any]
    resumable: bool = Field(description="The job can resume from this checkpoint.")
    kept: bool = Field(description="Retained because of `keep_weights_every_epochs`, or for a job that starts from it.")
    size_bytes: int
    sha256: str
    attempt: int
    created_at: Timestamp


class DirectDownloadOut(Out):
    """A URL of the service's bucket. Anyone who has it can download the file until it expires."""

    object: Literal["direct_download"] = "direct_download"
    url: str
    expires_at: Timestamp
    size_bytes: int
    sha256: str = Field(description="Of the file; verify it after the download.")


class ArtifactOut(Out):
    """An exported file of a job."""

    id: str
    object: Literal["artifact"] = "artifact"
    name: str
    media_type: str
    size_bytes: int
    sha256: str
    receipt: dict[str, Any] | None = Field(
        description="Measurements of a file of an export format under its own runtime: logits against PyTorch's, "
        "accuracy on the test split, latency, versions. Null for other files."
    )
    created_at: Timestamp


class ModelMeasures(Out):
    """Estimated size and cost of a model of the spec."""

    model_config = ConfigDict(frozen=True, extra="allow")

    parameters: int
    flops: float | None = None
    size_bytes: int | None = None


class TeacherCacheOut(Out):
    """Size of the cached teacher outputs, and whether a job of this project has already stored them.

    A worker with a different disk, or one that has evicted them since, computes them again.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    bytes: int
    hit: bool
    views: int = Field(description="Number of cached views per image. 0: teachers run on every batch.")
    seconds: float = Field(description="Estimated duration of the teachers' computation.")
    saved_seconds: float = Field(
        description="Part of it that the cache saves; the job's `seconds` does not include it."
    )


class ReusableEstimate(Out):
    """A training that a job needs once: a later job of the project with an equal one takes its result.

    A worker with another device, other threads or other versions of the libraries trains again.
    """

    seconds: float = Field(description="Estimated duration of the training.")
    reused: bool = Field(description="Whether an earlier job of the project has trained it, as far as the spec tells.")
    saved_seconds: float = Field(description="What reuse saves; the job's `seconds` does not include it.")


class TeacherTrainingEstimateOut(ReusableEstimate):
    """Estimated duration of a teacher's training, and whether an earlier job has trained it."""

    teacher: int = Field(description="Index in `teachers` of the spec.")


class BaselineEstimateOut(ReusableEstimate):
    """Estimated duration of the baseline's training and evaluation, and whether an earlier job has trained it."""


class StepEstimateOut(Out):
    """Estimated cost of one compression step."""

    name: str
    output: str = Field(description="Name of the file or folder that it publishes.")
    seconds: float


class DistillationEstimate(ReusableEstimate):
    """A distillation that gives a model of the job its weights first."""

    model: str = Field(description="JSON Pointer to the model in the spec.")
    method: str
    epochs: int
    total_steps: int
    teachers: list[ModelMeasures]


class EstimateOut(Out):
    """Estimated cost of a job, and size of its models."""

    model_config = ConfigDict(frozen=True, extra="allow")

    student: ModelMeasures
    teachers: list[ModelMeasures]
    method: dict[str, Any] | None = Field(
        default=None, description="The method with its parameters; for `auto`, the one that was chosen."
    )
    epochs: int | None = Field(
        default=None, description="Epochs of the student's training; their default follows the number of images."
    )
    total_steps: int
    seconds: float | None
    memory_bytes: int | None
    teacher_cache: TeacherCacheOut
    teacher_trainings: list[TeacherTrainingEstimateOut] = Field(
        default_factory=list,
        description="Trainings of teachers with the dataset's labels; `seconds` includes those that are not reused.",
    )
    baseline: BaselineEstimateOut | None = Field(default=None, description="Null: the spec asks for no baseline.")
    compression: list[StepEstimateOut] = Field(default_factory=list, description="One entry for each step.")
    distillations: list[DistillationEstimate] = Field(
        default_factory=list,
        description="Distillations that run before the student's, of models with `weights: distill`. `seconds` of the "
        "estimate includes those that are not reused, `memory_bytes` all.",
    )
    warnings: list[JobWarning]
