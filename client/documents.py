"""Types of the API's JSON responses. Later versions may add fields."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

JobStatus = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
JobAction = Literal["cancel", "pause", "resume", "stop", "retry"]


class Progress(TypedDict):
    """Progress of a job. ``fraction`` covers all stages; steps refer to the student's training."""

    fraction: float
    step: int | None
    total_steps: int | None
    epoch: int | None
    images_per_second: float | None
    eta_seconds: float | None


class Failure(TypedDict):
    """Reason of a failure."""

    code: str
    message: str


class JobError(Failure):
    """Reason of a failed job, with advice and fix. Earlier versions send only ``code`` and ``message``."""

    fault: NotRequired[Literal["spec", "data", "capacity", "infrastructure", "service"] | None]
    retryable: NotRequired[bool]
    advice: NotRequired[str | None]
    fix: NotRequired[dict[str, Any] | None]
    log: NotRequired[list[str]]
    machine: NotRequired[dict[str, Any] | None]


class JobWarning(TypedDict):
    """A job or dataset does not do what its user probably intends. ``field`` is a JSON Pointer into the spec."""

    code: str
    field: str | None
    message: str
    fix: str | None


class StageTimes(TypedDict):
    """Times of a stage; ``finished_at`` and ``seconds`` are null until it finishes."""

    name: str
    started_at: str | None
    finished_at: str | None
    seconds: float | None


class ModelMetrics(TypedDict):
    """Metrics of one model, measured on its artifact. ``top1`` is a fraction, null without labels."""

    top1: float | None
    top5: NotRequired[float | None]
    parameters: int
    flops: float
    size_bytes: int
    latency_ms: float


class Result(TypedDict):
    """Result of a succeeded job."""

    model: str
    student: ModelMetrics
    teachers: list[ModelMetrics]
    compressed: list[dict[str, Any]]
    agreement: float | None


class Job(TypedDict):
    """A distillation job."""

    id: str
    object: Literal["job"]
    name: str | None
    status: JobStatus
    terminal: bool
    next_actions: list[str]
    pending_action: str | None
    waiting_reason: NotRequired[str | None]
    stage: str | None
    stages: list[StageTimes]
    progress: Progress
    spec: dict[str, Any]
    attempt: int
    created_at: str
    started_at: str | None
    finished_at: str | None
    error: JobError | None
    warnings: list[JobWarning]
    metadata: dict[str, str]
    result: NotRequired[Result | None]


class Event(TypedDict):
    """One event of a job; ``seq`` counts from 1 without gaps."""

    id: str
    seq: int
    type: str
    message: str
    level: str
    data: NotRequired[dict[str, Any] | None]
    created_at: str


class Series(TypedDict):
    """A metric series: (step, value) points."""

    name: str
    points: list[tuple[int, float]]


class Artifact(TypedDict):
    """An output file of a job."""

    name: str
    media_type: str
    size_bytes: int
    sha256: str


class Rejected(TypedDict):
    """A rejected file of an upload."""

    path: str
    reason: str


class IngestProgress(TypedDict):
    """Files read of a dataset that is processed; ``total`` is None while it is unknown."""

    processed: int
    total: int | None
    images_per_second: float | None


class Dataset(TypedDict):
    """An image dataset."""

    id: str
    object: Literal["dataset"]
    name: str
    status: Literal["processing", "ready", "failed"]
    created_at: str
    splits: dict[str, dict[str, int]] | None
    num_classes: int | None
    classes: list[str] | None
    channels: int | None
    value_range: dict[str, int] | None
    cropped_fraction: float | None
    progress: IngestProgress | None
    fingerprint: str | None
    rejected: list[Rejected]
    warnings: list[JobWarning]
    error: Failure | None


class ApiKey(TypedDict):
    """An API key. ``token`` is only in the response that created it, and null if that request is repeated."""

    id: str
    object: Literal["api_key"]
    name: str
    prefix: str
    scopes: list[Literal["read", "write", "admin"]]
    created_at: str
    last_used_at: str | None
    expires_at: str | None
    revoked_at: str | None
    replaces: str | None
    token: NotRequired[str | None]


class Model(TypedDict):
    """Uploaded weights, or the student of a job."""

    id: str
    object: Literal["model"]
    name: str
    status: Literal["processing", "ready", "failed"]
    created_at: str
    error: Failure | None
