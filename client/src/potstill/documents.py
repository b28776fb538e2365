"""Responses of the API. Generated from `docs/openapi.json` by `make docs`; do not edit.

Later versions of the service may add fields: they are attributes too, without a type.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from potstill.document_base import ACCEPT_NEW, Document


class ApiKey(Document):
    """An API key without its secret, which the service does not store."""

    created_at: datetime
    expires_at: datetime | None = None
    id: str
    last_used_at: datetime | None = None
    """Accurate to a minute."""
    name: str
    object: Literal["api_key"] = "api_key"
    prefix: str
    """First characters of its token, to recognize it."""
    replaces: str | None = None
    """Id of the key that this key replaces."""
    revoked_at: datetime | None = None
    scopes: list[Annotated[Literal["read", "write", "admin"], ACCEPT_NEW]]


class Failure(Document):
    """Why an operation failed."""

    code: str
    """Stable machine-readable code."""
    message: str
    """What happened and how to fix it."""


class IngestProgress(Document):
    """Progress of the ingestion."""

    images_per_second: float | None = None
    processed: int
    """Files read so far, with those that are left out."""
    total: int | None = None
    """Number of files; null while it is unknown, as for a tar."""


class Rejected(Document):
    """A file that was left out."""

    code: str | None = None
    """Stable code; null in datasets of earlier versions."""
    path: str
    reason: str
    """Human-readable reason."""


class Split(Document):
    """A split of a dataset."""

    num_samples: int


class ValueRange(Document):
    """Range of the images with more than 8 bits per channel."""

    bits: int
    """Smallest of 8, 10, 12, 14 and 16 bits that covers every image."""
    max: int
    """The value that training sees as the brightest one."""


class JobWarning(Document):
    """One warning. Of two warnings with the same ``code`` and ``field``, the newer replaces the older."""

    code: str
    """A stable snake_case word."""
    field: str | None = None
    """JSON Pointer to the field of the spec that it is about; null: none in particular."""
    fix: str | None = None
    """How to change it; null if the message says it."""
    message: str
    """What was found, with its figures."""


class DatasetDocument(Document):
    """A dataset of images."""

    channels: int | None = None
    classes: list[str] | None = None
    """Null while processing, and for an unlabeled dataset."""
    created_at: datetime
    cropped_fraction: float | None = None
    """Fraction of images that lose more than a third of their area, because training uses the square at the center of each image."""
    error: Failure | None = None
    fingerprint: str | None = None
    """Hash of the decoded images and labels, independent of the packing."""
    finished_at: datetime | None = None
    id: str
    image_size: int | None = None
    """Default image size of jobs, in pixels per side."""
    license: str | None = None
    """License of the images, as given; null if none was."""
    name: str
    num_classes: int | None = None
    """Null while processing, and for an unlabeled dataset."""
    object: Literal["dataset"] = "dataset"
    progress: IngestProgress | None = None
    """Progress while processing, else null."""
    rejected: list[Rejected]
    """Files that were left out, with reasons."""
    size_bytes: int | None = None
    """Stored size; while processing, the size of the uploaded file."""
    source: dict[str, Any]
    """The requested source; a URL without its query, which may be a secret, and an upload with the `filename` of its file."""
    splits: dict[str, Split] | None = None
    status: Annotated[Literal["processing", "ready", "failed"], ACCEPT_NEW]
    value_range: ValueRange | None = None
    """Range by which images with more than 8 bits per channel are converted to 8 bits; null if there are none."""
    warnings: list[JobWarning]
    """What was found in its files; a dataset with warnings is usable."""


class Attempt(Document):
    """One attempt to deliver."""

    at: str
    """End of the attempt (RFC 3339)."""
    attempt: int
    error: str | None = None
    """Why it failed; null if it succeeded."""
    seconds: float
    status: int | None = None
    """HTTP status of the response; null if there was none."""


class Delivery(Document):
    """The delivery of one event to one webhook."""

    attempts: list[Attempt]
    """The last 20 attempts."""
    created_at: datetime
    event: str
    """Id of the event."""
    finished_at: datetime | None = None
    id: str
    """The header `webhook-id`; the same at each attempt."""
    next_attempt_at: datetime | None = None
    """Null when the delivery has ended."""
    object: Literal["webhook_delivery"] = "webhook_delivery"
    object_id: str | None = None
    """The job, dataset, model or sweep of the event; null for a test."""
    payload: dict[str, Any]
    """The body of the request."""
    status: Annotated[Literal["pending", "succeeded", "failed"], ACCEPT_NEW]
    """`failed`: it is not attempted again, unless it is redelivered."""
    type: str
    webhook: str


class DirectDownload(Document):
    """A URL of the service's bucket. Anyone who has it can download the file until it expires."""

    expires_at: datetime
    object: Literal["direct_download"] = "direct_download"
    sha256: str
    """Of the file; verify it after the download."""
    size_bytes: int
    url: str


class DirectUpload(Document):
    """A URL of the service's bucket to which the whole file is sent with one PUT request, without an API key."""

    expires_at: datetime
    method: Literal["PUT"] = "PUT"
    object: Literal["direct_upload"] = "direct_upload"
    url: str


class BaselineEstimate(Document):
    """Estimated duration of the baseline's training and evaluation, and whether an earlier job has trained it."""

    reused: bool
    """Whether an earlier job of the project has trained it, as far as the spec tells."""
    saved_seconds: float
    """What reuse saves; the job's `seconds` does not include it."""
    seconds: float
    """Estimated duration of the training."""


class StepEstimate(Document):
    """Estimated cost of one compression step."""

    name: str
    output: str
    """Name of the file or folder that it publishes."""
    seconds: float


class ModelMeasures(Document):
    """Estimated size and cost of a model of the spec."""

    flops: float | None = None
    parameters: int
    size_bytes: int | None = None


class DistillationEstimate(Document):
    """A distillation that gives a model of the job its weights first."""

    epochs: int
    method: str
    model: str
    """JSON Pointer to the model in the spec."""
    reused: bool
    """Whether an earlier job of the project has trained it, as far as the spec tells."""
    saved_seconds: float
    """What reuse saves; the job's `seconds` does not include it."""
    seconds: float
    """Estimated duration of the training."""
    teachers: list[ModelMeasures]
    total_steps: int


class TeacherCache(Document):
    """Size of the cached teacher outputs, and whether a job of this project has already stored them. A worker with a different disk, or one that has evicted them since, computes them again."""

    bytes: int
    hit: bool
    saved_seconds: float
    """Part of it that the cache saves; the job's `seconds` does not include it."""
    seconds: float
    """Estimated duration of the teachers' computation."""
    views: int
    """Number of cached views per image. 0: teachers run on every batch."""


class TeacherTrainingEstimate(Document):
    """Estimated duration of a teacher's training, and whether an earlier job has trained it."""

    reused: bool
    """Whether an earlier job of the project has trained it, as far as the spec tells."""
    saved_seconds: float
    """What reuse saves; the job's `seconds` does not include it."""
    seconds: float
    """Estimated duration of the training."""
    teacher: int
    """Index in `teachers` of the spec."""


class Estimate(Document):
    """Estimated cost of a job, and size of its models."""

    baseline: BaselineEstimate | None = None
    """Null: the spec asks for no baseline."""
    compression: list[StepEstimate] = Field(default_factory=list)
    """One entry for each step."""
    distillations: list[DistillationEstimate] = Field(default_factory=list)
    """Distillations that run before the student's, of models with `weights: distill`. `seconds` of the estimate includes those that are not reused, `memory_bytes` all."""
    epochs: int | None = None
    """Epochs of the student's training; their default follows the number of images."""
    memory_bytes: int | None = None
    method: dict[str, Any] | None = None
    """The method with its parameters; for `auto`, the one that was chosen."""
    seconds: float | None = None
    student: ModelMeasures
    teacher_cache: TeacherCache
    teacher_trainings: list[TeacherTrainingEstimate] = Field(default_factory=list)
    """Trainings of teachers with the dataset's labels; `seconds` includes those that are not reused."""
    teachers: list[ModelMeasures]
    total_steps: int
    warnings: list[JobWarning]


class Health(Document):
    """The process is running."""

    status: Literal["ok"]


class JobLog(Document):
    """The last log lines of a job's process."""

    attempt: int | None = None
    """The attempt that logged the lines; null: none has logged any yet."""
    job: str
    lines: list[str]
    """Oldest first: time (UTC), level, event and fields."""
    object: Literal["job_log"] = "job_log"
    updated_at: datetime | None = None


class Device(Document):
    """Memory of the accelerator, measured by the job's process."""

    memory_bytes: int | None = None
    """Reserved by the process."""
    memory_free_bytes: int | None = None
    memory_peak_bytes: int | None = None
    memory_total_bytes: int | None = None
    name: str | None = None


class Machine(Document):
    """Memory and disk of the machine when a job failed; null if not measured."""

    device: Device | None = None
    disk_free_bytes: int | None = None
    """On the disk of the service's home directory."""
    memory_bytes: int | None = None
    """Of the job's process, at its end."""
    memory_free_bytes: int | None = None
    """Available to new processes."""
    memory_limit_bytes: int | None = None
    """Limit of the process; null: no limit."""
    memory_peak_bytes: int | None = None


class JobFailure(Document):
    """Why a job failed, and how to fix it."""

    advice: str | None = None
    """How to fix the failure; null if the message says it."""
    code: str
    """Stable machine-readable code."""
    fault: Annotated[Literal["spec", "data", "capacity", "infrastructure", "service"], ACCEPT_NEW] | None = None
    """Source of the failure: `spec` (the request), `data` (datasets and models), `capacity` (memory, time or disk space), `infrastructure` (machines, disks, networks) or `service` (this software). Null: the job failed under an earlier version."""
    fix: dict[str, Any] | None = None
    """A merge patch of the spec that fixes the failure, if there is one. A retry with `apply_fix` applies it."""
    log: list[str]
    """The last log lines of the attempt, at most 50, without secrets."""
    machine: Machine | None = None
    message: str
    """What happened and how to fix it."""
    retryable: bool
    """Whether a retry of the unchanged spec can succeed. If false and there is no `fix`, `next_actions` offers no retry."""


class Progress(Document):
    """Progress of a job. `step` and `epoch` count the student's training, `fraction` covers all stages."""

    epoch: int
    eta_seconds: float | None = None
    """Expected seconds until the end of the job."""
    fraction: float
    images_per_second: float | None = None
    stage_step: int | None = None
    """Completed steps of the training in the current stage, such as a teacher's."""
    stage_total_steps: int | None = None
    """Number of steps of that training."""
    step: int
    total_steps: int | None = None


class Baseline(Document):
    """Metrics of the same student, trained by labels alone, and the student's gain over it."""

    flops: float | None = None
    gain: float | None = None
    """Top-1 of the student minus that of the baseline."""
    gain_interval: tuple[float, float] | None = None
    """95 % interval of `gain`, by a paired bootstrap over the test images."""
    latency_ms: float | None = None
    parameters: int | None = None
    size_bytes: int | None = None
    top1: float | None = None
    top5: float | None = None


class HeldOut(Document):
    """Top-1 accuracy on the held-out images of the training split, as fractions."""

    drop: float
    """`reference_top1` − `top1`."""
    images: int
    max_top1_drop: float
    reference_top1: float
    """Of the network before the step."""
    top1: float


class Compressed(Document):
    """Outcome of one compression step; metrics are those of its output on the test split."""

    agreement: float | None = None
    """Fraction of images where it and the uncompressed student predict the same class."""
    artifact: str | None = None
    """The published file; null unless the step is applied."""
    flops: float | None = None
    held_out: HeldOut | None = None
    latency_ms: float | None = None
    model: str | None = None
    """Id of the model (`mdl_…`) where the output is torch weights, for use in later jobs."""
    name: str | None = None
    parameters: int | None = None
    reason: str | None = None
    """Why a step is rejected or failed."""
    size_bytes: int | None = None
    status: Annotated[Literal["applied", "rejected", "failed"], ACCEPT_NEW] = "applied"
    """`rejected`: it lost more than `max_top1_drop` on the held-out images. `failed`: it cannot be applied to this network."""
    step: int = 0
    """Position in `spec.compression`."""
    top1: float | None = None
    top5: float | None = None


class Measured(Document):
    """Metrics of one model's exported file on the test split."""

    flops: float | None = None
    latency_ms: float | None = None
    parameters: int | None = None
    size_bytes: int | None = None
    top1: float | None = None
    top5: float | None = None


class Result(Document):
    """Result of a job that succeeded."""

    agreement: float | None = None
    """Fraction of images where student and teacher predict the same class."""
    baseline: Baseline | None = None
    """Null: the spec asked for no baseline, or there is none; `report.json` says why."""
    compressed: list[Compressed]
    """One entry for each step of `spec.compression`."""
    model: str | None = None
    """Id of the student's model (`mdl_…`), for use in later jobs."""
    student: Measured
    teachers: list[Measured]


class Stage(Document):
    """Times of a stage; `finished_at` is null while it runs."""

    finished_at: str | None = None
    name: str
    seconds: float | None = None
    started_at: str | None = None


class JobDocument(Document):
    """A distillation job."""

    attempt: int
    created_at: datetime
    error: JobFailure | None = None
    finished_at: datetime | None = None
    id: str
    metadata: dict[str, str]
    name: str | None = None
    next_actions: list[Annotated[Literal["cancel", "pause", "resume", "stop", "retry"], ACCEPT_NEW]]
    """The actions that are allowed now."""
    object: Literal["job"] = "job"
    pending_action: Annotated[Literal["cancel", "pause", "stop"], ACCEPT_NEW] | None = None
    """Requested but not yet executed."""
    progress: Progress
    result: Result | None = None
    spec: dict[str, Any]
    """The spec with all defaults; it reproduces the job."""
    stage: str | None = None
    stages: list[Stage]
    started_at: datetime | None = None
    status: Annotated[Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"], ACCEPT_NEW]
    sweep: str | None = None
    """Id of the sweep (`swp_…`) that the job belongs to; null: none."""
    terminal: bool
    """The job has ended; only a retry changes its status."""
    waiting_reason: str | None = None
    """Why a queued job does not run: no worker for its accelerator is alive, or all are busy. Null in other cases."""
    warnings: list[JobWarning]
    """Of the estimate, and those found while the job ran. A job with warnings can succeed."""


class LineageEdge(Document):
    """`target` was made from `source`."""

    role: Annotated[Literal["teacher", "initial_weights", "student", "compressed", "checkpoint"], ACCEPT_NEW]
    """What the source was to a job, or what the target is: the job's `student`, a `compressed` form, or a `checkpoint` of the job."""
    source: str
    target: str


class LineageNode(Document):
    """A model, a job, a `teacher` of a job that is no model, an `artifact` (a compressed file), or a `checkpoint`."""

    details: dict[str, Any]
    """Of a model `architecture`, `parameters` and `status`; of a job `method`, `dataset` and `status`; of a teacher `architecture` and `weights`; of an artifact `top1`, `size_bytes` and `latency_ms`; of a checkpoint `job`, `step` and `epoch`."""
    exists: bool
    """False: it was deleted."""
    id: str
    """Of a teacher or an artifact: the job's id and a suffix."""
    name: str | None = None
    object: Annotated[Literal["model", "job", "teacher", "artifact", "checkpoint"], ACCEPT_NEW]


class Lineage(Document):
    """The networks and jobs that a model was made from, and those that were made from it."""

    edges: list[LineageEdge]
    model: str
    nodes: list[LineageNode]
    """Nearest first."""
    object: Literal["lineage"] = "lineage"
    truncated: bool
    """There are more nodes than are listed."""


class Needs(Document):
    """Requirements of a method on a job."""

    headless: bool
    """The student has no classifier: the method trains its embedding."""
    labels: bool
    max_teachers: int | None = None
    """Null: any number."""
    min_teachers: int
    student: list[str]
    student_families: list[str]
    """Empty: any."""
    teacher: list[str]
    teacher_families: list[str]
    """Empty: any."""


class Method(Document):
    """A distillation method."""

    caches: list[str]
    """Teacher outputs that are cached and shared by jobs with the same inputs. Empty: the method computes them in every step."""
    cost: float | None = None
    """Duration of a training step, teachers included, relative to `scratch` with the same student; measured with a small pair on a CPU. Null: not measured."""
    example: dict[str, Any]
    """A small job with this method; replace its ids."""
    name: str
    needs: Needs
    object: Literal["method"] = "method"
    paper: str
    parameters: dict[str, Any]
    """JSON Schema of the spec's `method`, with defaults."""
    summary: str
    when: str
    """When to choose it."""
    year: int


class Series(Document):
    """A metric series: `[step, value]` pairs, by step."""

    name: str
    points: list[tuple[int, float | None]]


class MetricsDocument(Document):
    """The metric series of a job."""

    object: Literal["metrics"] = "metrics"
    series: list[Series]


class ModelDocument(Document):
    """A model with weights, usable as a teacher or to initialize a student."""

    architecture: str
    arguments: dict[str, Any]
    channels: int | None = None
    classes: list[str] | None = None
    created_at: datetime
    error: Failure | None = None
    finished_at: datetime | None = None
    id: str
    image_size: int | None = None
    job: str | None = None
    """The job whose student it is; null for an upload."""
    name: str
    normalization: dict[str, Any] | None = None
    """Of pixel values in 0…1. While `processing`, null if the upload gave none."""
    normalization_source: Annotated[Literal["request", "architecture", "default", "job"], ACCEPT_NEW] | None = None
    """Where `normalization` comes from: the `request`; timm's configuration of the `architecture`; the `default`, which scales to -1…1; the `job` that made the model. Null: not known yet."""
    num_classes: int | None = None
    object: Literal["model"] = "model"
    parameters: int | None = None
    parent: str | None = None
    """The model that it was made from: for a compressed model the student; for a student the model whose weights it started from, or else its first teacher that is a model. Null: none."""
    size_bytes: int | None = None
    status: Annotated[Literal["processing", "ready", "failed"], ACCEPT_NEW]
    warnings: list[JobWarning]
    """What the check assumed or changed; `field` is one of the form."""


class NewApiKey(Document):
    """A newly created API key."""

    created_at: datetime
    expires_at: datetime | None = None
    id: str
    last_used_at: datetime | None = None
    """Accurate to a minute."""
    name: str
    object: Literal["api_key"] = "api_key"
    prefix: str
    """First characters of its token, to recognize it."""
    replaces: str | None = None
    """Id of the key that this key replaces."""
    revoked_at: datetime | None = None
    scopes: list[Annotated[Literal["read", "write", "admin"], ACCEPT_NEW]]
    token: str | None = None
    """The secret, returned only once: the service stores only its hash. Null in a repeated response to the same `Idempotency-Key`; if the first response was lost, revoke the key and create another one."""


class NewWebhook(Document):
    """A webhook with a new secret."""

    created_at: datetime
    disabled_reason: Annotated[Literal["request", "failing", "gone"], ACCEPT_NEW] | None = None
    """`request`: a client disabled it. `failing`: no delivery succeeded for about three days. `gone`: the receiver answered 410."""
    events: list[str]
    failing_since: datetime | None = None
    """First failed attempt since the last success."""
    id: str
    job: str | None = None
    """The job whose events are delivered; null: all of the project."""
    last_success_at: datetime | None = None
    name: str | None = None
    object: Literal["webhook"] = "webhook"
    previous_secret_expires_at: datetime | None = None
    """Until this time deliveries are signed with the secret before the last rotation too."""
    secret: str | None = None
    """Verifies signatures (Standard Webhooks); returned only once. Null in a repeated response to the same `Idempotency-Key`; if the first response was lost, rotate the secret."""
    status: Annotated[Literal["enabled", "disabled"], ACCEPT_NEW]
    url: str
    """Without its query, which may be a secret."""


class Architecture(Document):
    """A timm architecture."""

    family: str
    """`transformer`, `cnn`, `hybrid` or `mlp`."""
    flops: float | None = None
    """FLOPs of one image of `input_size`, two for a multiply-add; null: unknown."""
    input_size: list[int]
    """Channels, height, width."""
    license: str | None = None
    """License of the default pretrained weights; null: none is stated, or no weights."""
    licenses: dict[str, str | None] = Field(default_factory=dict)
    """License of the weights by pretrained tag."""
    name: str
    object: Literal["architecture"] = "architecture"
    parameters: int | None = None
    """Number of parameters with ImageNet's classes and image size."""
    pretrained: bool
    """Whether there are pretrained weights that can be loaded."""


class Artifact(Document):
    """An exported file of a job."""

    created_at: datetime
    id: str
    media_type: str
    name: str
    object: Literal["artifact"] = "artifact"
    receipt: dict[str, Any] | None = None
    """Measurements of a file of an export format under its own runtime: logits against PyTorch's, accuracy on the test split, latency, versions. Null for other files."""
    sha256: str
    size_bytes: int


class AuditEntry(Document):
    """A change, or a refused attempt to sign in."""

    action: str
    """E.g. `job.create`, `job.cancel`, `dataset.delete`, `api_key.rotate`."""
    client_address: str
    created_at: datetime
    id: str
    key: str
    """Id of the key that was used, or `sub_…` for a token."""
    object: Literal["audit_entry"] = "audit_entry"
    object_id: str | None = None
    """Id of the changed or created object."""
    outcome: Annotated[Literal["done", "refused"], ACCEPT_NEW]
    request_id: str
    subject: str | None = None
    """Subject of the token; null for a key."""


class Checkpoint(Document):
    """The student's weights at a step."""

    attempt: int
    created_at: datetime
    epoch: int
    id: str
    job: str
    kept: bool
    """Retained because of `keep_weights_every_epochs`, or for a job that starts from it."""
    metrics: dict[str, Any]
    object: Literal["checkpoint"] = "checkpoint"
    resumable: bool
    """The job can resume from this checkpoint."""
    sha256: str
    size_bytes: int
    step: int


class Event(Document):
    """An event of a job. `seq` counts 1, 2, 3, … without gaps."""

    attempt: int
    created_at: datetime
    data: dict[str, Any]
    id: str
    job: str
    level: str
    message: str
    object: Literal["event"] = "event"
    seq: int
    type: str


class Push(Document):
    """A push to a hub, without its token."""

    attempts: int
    commit: str | None = None
    """The commit of the hub that has the files."""
    created_at: datetime
    error: Failure | None = None
    """Of the last attempt; a pending push is attempted again."""
    files: list[str]
    finished_at: datetime | None = None
    id: str
    job: str
    next_attempt_at: datetime | None = None
    """Null when the push has ended."""
    object: Literal["push"] = "push"
    private: bool
    repo: str
    revision: str
    status: Annotated[Literal["pending", "succeeded", "failed"], ACCEPT_NEW]
    """`pending` until the hub has the files, or has refused them."""
    url: str | None = None
    """Address of the commit."""


class Counts(Document):
    """Number of jobs by status."""

    cancelled: int
    failed: int
    paused: int
    queued: int
    running: int
    succeeded: int


class SweepProgress(Document):
    """Progress of all jobs together."""

    fraction: float


class SweepSummary(Document):
    """A sweep without its jobs."""

    counts: Counts
    created_at: datetime
    fields: list[str]
    """The fields that vary, in the order of the grid."""
    finished_at: datetime | None = None
    id: str
    name: str | None = None
    num_jobs: int
    """Number of jobs that were created; some may be deleted since."""
    object: Literal["sweep"] = "sweep"
    progress: SweepProgress
    status: Annotated[Literal["queued", "running", "paused", "finished"], ACCEPT_NEW]
    """`queued`: no job has started. `running`: some jobs have not ended. `paused`: those that have not ended are paused. `finished`: all jobs have ended, see `counts`."""
    terminal: bool
    """All jobs have ended; only a retry of one changes that."""


class Upload(Document):
    """A file that is sent in parts."""

    created_at: datetime
    expires_at: datetime
    """Deleted after this time, unless a dataset or model is made from it."""
    filename: str
    """From the metadata `filename`; empty if there is none."""
    id: str
    object: Literal["upload"] = "upload"
    received_bytes: int
    """The next bytes are sent from this offset."""
    size_bytes: int
    status: Annotated[Literal["receiving", "complete"], ACCEPT_NEW]


class Webhook(Document):
    """A webhook without its secret."""

    created_at: datetime
    disabled_reason: Annotated[Literal["request", "failing", "gone"], ACCEPT_NEW] | None = None
    """`request`: a client disabled it. `failing`: no delivery succeeded for about three days. `gone`: the receiver answered 410."""
    events: list[str]
    failing_since: datetime | None = None
    """First failed attempt since the last success."""
    id: str
    job: str | None = None
    """The job whose events are delivered; null: all of the project."""
    last_success_at: datetime | None = None
    name: str | None = None
    object: Literal["webhook"] = "webhook"
    previous_secret_expires_at: datetime | None = None
    """Until this time deliveries are signed with the secret before the last rotation too."""
    status: Annotated[Literal["enabled", "disabled"], ACCEPT_NEW]
    url: str
    """Without its query, which may be a secret."""


class Class(Document):
    """A class with its probability."""

    index: int
    name: str
    """The index, if the network has no names."""
    probability: float


class TeacherPrediction(Document):
    """What a teacher predicts."""

    classes: list[Class] | None = None
    """Null: it was not run."""
    reason: str | None = None
    """Why it was not run."""
    teacher: int
    """Its index in the spec."""


class Prediction(Document):
    """The most probable classes of an image, five at most, the first one first."""

    height: int
    job: str
    object: Literal["prediction"] = "prediction"
    student: list[Class]
    """Of `model.safetensors`, in float; compressed files are not run."""
    teachers: list[TeacherPrediction]
    width: int
    """Of the upright image in pixels; its center square is classified."""


class Ready(Document):
    """The service can process requests. `degraded` lists unavailable components that it can run without."""

    degraded: list[str]
    status: Literal["ready"]


class Gain(Document):
    """Difference in top-1 to a baseline, in points (1 point: 1 % of the images)."""

    half_width: float | None = None
    """Half of the 95 % interval; null: not published."""
    is_significant: bool | None = None
    """After Holm's correction; null: not published."""
    kind: Annotated[Literal["measured", "published"], ACCEPT_NEW]
    method: str
    over: str
    """The baseline: `labels` is the same student trained with labels alone."""
    points: float
    setting: str
    """Data, networks and figures."""
    source: str
    student: str
    """Family of the student."""
    teacher: str | None = None
    """Family of the teacher; null: none."""


class Recommendation(Document):
    """One method for a situation, and why."""

    cost: float | None = None
    """As in `GET /v1/methods`."""
    expected_gain: Gain | None = None
    """Measured by this version's benchmark (`kind: measured`), or else as published. Null: neither."""
    method: dict[str, Any]
    """Value of the spec's `method`; further parameters have defaults."""
    object: Literal["recommendation"] = "recommendation"
    reason: str


class Recommendations(Document):
    """Methods for a situation, the best first."""

    advice: list[str]
    """What helps in this situation beyond the method."""
    data: list[Recommendation]
    has_more: bool = False
    object: Literal["list"] = "list"


class SweepJobEstimate(Document):
    """Estimate of one job of a sweep."""

    memory_bytes: int | None = None
    name: str | None = None
    number: int
    seconds: float
    """Duration of the job, without what earlier jobs of the sweep leave for it."""
    student: dict[str, Any]
    """`parameters`, `flops`, `size_bytes`."""
    total_steps: int
    values: dict[str, Any]


class SweepEstimate(Document):
    """Estimated cost of a sweep. Nothing is created."""

    fields: list[str]
    jobs: list[SweepJobEstimate]
    memory_bytes: int | None = None
    """Of the job that needs the most."""
    num_jobs: int
    object: Literal["sweep_estimate"] = "sweep_estimate"
    seconds: float
    """Duration of all jobs on one worker, one after another. Outputs and trainings of a teacher that several jobs share count once."""
    shared_seconds: float
    """What is saved because jobs share them."""
    warnings: list[JobWarning]
    """Those of all jobs, each once."""


class FrontPoint(Document):
    """A student or compressed file that no other one of the sweep beats in both accuracy and cost."""

    artifact: str | None = None
    """The compressed file; null: the student itself."""
    flops: float | None = None
    job: str
    latency_ms: float | None = None
    number: int
    """Position of the job in the sweep."""
    parameters: int | None = None
    size_bytes: int | None = None
    top1: float | None = None
    top5: float | None = None


class Fronts(Document):
    """Pareto fronts of top-1 against a cost, the cheapest first. Files of different datasets are not compared."""

    flops: list[FrontPoint]
    latency_ms: list[FrontPoint]
    parameters: list[FrontPoint]
    size_bytes: list[FrontPoint]


class SweepCompressed(Document):
    """A compressed file of a job."""

    artifact: str
    flops: float | None = None
    latency_ms: float | None = None
    parameters: int | None = None
    size_bytes: int | None = None
    top1: float | None = None
    top5: float | None = None


class SweepJob(Document):
    """A job of a sweep, with the values that it varies and its figures. `GET /v1/jobs/{id}` has the rest."""

    compressed: list[SweepCompressed]
    """Figures of the compressed files."""
    dataset: str
    error: Failure | None = None
    finished_at: datetime | None = None
    gain: float | None = None
    """Top-1 of the student minus that of its baseline; null without one."""
    id: str
    name: str | None = None
    number: int
    """Position in the sweep, from 1."""
    progress: SweepProgress
    stage: str | None = None
    started_at: datetime | None = None
    status: Annotated[Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"], ACCEPT_NEW]
    student: Measured | None = None
    """Figures of the exported student; null before the job has succeeded."""
    values: dict[str, Any]
    """Its values of the sweep's `fields`."""


class SweepDocument(Document):
    """A sweep with its jobs and their Pareto fronts."""

    counts: Counts
    created_at: datetime
    fields: list[str]
    """The fields that vary, in the order of the grid."""
    finished_at: datetime | None = None
    fronts: Fronts
    grid: dict[str, list[Any]]
    id: str
    jobs: list[SweepJob]
    name: str | None = None
    num_jobs: int
    """Number of jobs that were created; some may be deleted since."""
    object: Literal["sweep"] = "sweep"
    points: list[dict[str, Any]]
    progress: SweepProgress
    spec: dict[str, Any]
    """The base spec, as it was sent."""
    status: Annotated[Literal["queued", "running", "paused", "finished"], ACCEPT_NEW]
    """`queued`: no job has started. `running`: some jobs have not ended. `paused`: those that have not ended are paused. `finished`: all jobs have ended, see `counts`."""
    terminal: bool
    """All jobs have ended; only a retry of one changes that."""


class UsageDay(Document):
    """Usage on one day (UTC)."""

    date: str
    device_seconds: float
    """Working time of all attempts of the jobs that ended on this day, times their number of devices."""
    jobs_created: int
    jobs_ended: int
    """Succeeded, failed or cancelled on this day."""
    stored_bytes: int
    """Size at the end of the day of the objects that still exist."""


class UsageHistory(Document):
    """The project's usage by day, computed from the objects that exist: deleted jobs no longer count."""

    days: list[UsageDay]
    """Oldest first; the last one is today."""
    object: Literal["usage_history"] = "usage_history"


class Use(Document):
    """Usage and limit of one resource."""

    limit: int | None = None
    """Null: no limit."""
    used: int


class Usage(Document):
    """The project's usage and limits. Creating more gives 403 `quota_exceeded`."""

    jobs: Use
    """Unfinished jobs: queued, running and paused."""
    max_upload_bytes: int
    """Maximum size of an uploaded file; beyond it 413 `payload_too_large`."""
    object: Literal["usage"] = "usage"
    requests_per_minute: dict[str, int | None]
    """Requests per minute and key, by rate class: `reads`, `writes`, `jobs` (created), `uploads` (datasets and models created), `questions` (estimates, architecture searches). Beyond it 429 `rate_limited`. Null: no limit."""
    stored_bytes: Use
    """Size of datasets, models, uploads, artifacts and checkpoints. Beyond the limit, new jobs, retries and uploads are refused; running jobs continue."""


class Worker(Document):
    """A process of the service."""

    accelerator: str | None = None
    busy: bool
    created_at: datetime
    device: str | None = None
    devices: int | None = None
    """Number of its CUDA devices."""
    host: str
    id: str
    job: str | None = None
    """Its current job; null if idle or if the job is another project's."""
    last_seen_at: datetime
    memory_bytes: int | None = None
    """Memory for a job: that of a CUDA device, or of the process on a CPU."""
    object: Literal["worker"] = "worker"
    role: str


class Workers(Document):
    """The live processes and the queues."""

    data: list[Worker]
    has_more: Literal[False] = False
    object: Literal["list"] = "list"
    queued_jobs: dict[str, int]
    """Queued jobs, by requested accelerator."""
    queues: dict[str, int] | None = None
    """Messages in the broker; null if it is unreachable."""
