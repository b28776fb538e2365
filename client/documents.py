"""The service's answers, as they come over the wire. Later versions may add fields."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

JobStatus = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
JobAction = Literal["cancel", "pause", "resume", "stop", "retry"]


class Progress(TypedDict):
    """How far a job is; ``fraction`` counts all stages, the steps are the student's training."""

    fraction: float
    step: int | None
    total_steps: int | None
    epoch: int | None
    images_per_second: float | None
    eta_seconds: float | None


class Failure(TypedDict):
    """Why something failed."""

    code: str
    message: str


class JobError(Failure):
    """Why a job failed, and what would help. A service of an earlier version says only the first two."""

    fault: NotRequired[Literal["spec", "data", "capacity", "infrastructure", "service"] | None]
    advice: NotRequired[str | None]
    fix: NotRequired[dict[str, Any] | None]
    log: NotRequired[list[str]]
    machine: NotRequired[dict[str, Any] | None]


class StageTimes(TypedDict):
    """When a stage ran; ``finished_at`` and ``seconds`` are null until it is done."""

    name: str
    started_at: str | None
    finished_at: str | None
    seconds: float | None


class Measures(TypedDict):
    """What was measured of one model, on the file that is handed out. ``top1`` is a fraction, null without labels."""

    top1: float | None
    top5: NotRequired[float | None]
    parameters: int
    flops: float
    size_bytes: int
    latency_ms: float


class Result(TypedDict):
    """What a job that succeeded gives."""

    model: str
    student: Measures
    teachers: list[Measures]
    compressed: list[dict[str, Any]]
    agreement: float | None


class Job(TypedDict):
    """A job, from submission to its end."""

    id: str
    object: Literal["job"]
    name: str | None
    status: JobStatus
    terminal: bool
    next_actions: list[str]
    pending_action: str | None
    stage: str | None
    stages: list[StageTimes]
    progress: Progress
    spec: dict[str, Any]
    attempt: int
    created_at: str
    started_at: str | None
    finished_at: str | None
    error: JobError | None
    metadata: dict[str, str]
    result: NotRequired[Result | None]


class Event(TypedDict):
    """One line of a job's log; ``seq`` counts 1, 2, 3, … without a gap."""

    id: str
    seq: int
    type: str
    message: str
    level: str
    data: NotRequired[dict[str, Any] | None]
    created_at: str


class Series(TypedDict):
    """One measured quantity over the steps."""

    name: str
    points: list[tuple[int, float]]


class Artifact(TypedDict):
    """A file that a job hands out."""

    name: str
    media_type: str
    size_bytes: int
    sha256: str


class Rejected(TypedDict):
    """A file of an upload that was left out."""

    path: str
    reason: str


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
    fingerprint: str | None
    rejected: list[Rejected]
    error: Failure | None


class ApiKey(TypedDict):
    """A key. ``token`` is there in the answer that made it alone, and null where that was lost and asked for again."""

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
