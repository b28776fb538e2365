"""Tables of the objects that a project owns. Each has a ``project_id``; see also ``core.store.project_tables``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    FetchedValue,
    Float,
    ForeignKey,
    Index,
    String,
    literal_column,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

import core.store.counter_tables
import core.store.job_log_tables
import core.store.outbound_tables
import core.store.project_tables
import core.store.sweep_tables
import core.store.upload_tables
import core.store.view_offer_tables
import core.store.webhook_tables  # noqa: F401 - its tables belong to the schema
from core.store.base import Base, Id, Keyword, ProjectRef

TERMINAL_STATUSES = ("succeeded", "failed", "cancelled")

GeneratedText = Annotated[str | None, mapped_column(String(400), FetchedValue(), deferred=True)]
GeneratedNumber = Annotated[float | None, mapped_column(Float(53), FetchedValue(), deferred=True)]
JobKey = Annotated[str, mapped_column(String(40), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)]


def _value_check(column: str, *values: str) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({', '.join(repr(w) for w in values)})", name=column)


def _status_index(name: str, status: str, *columns: str) -> Index:
    """Partial index of the jobs with one status. A query uses it only with :func:`status_is`."""
    where = text(f"status = '{status}'")
    return Index(name, *columns, postgresql_where=where, sqlite_where=where)


def _not_null_index(name: str, column: str) -> Index:
    """Partial index of the rows whose ``column`` is not null; most are null."""
    where = text(f"{column} IS NOT NULL")
    return Index(name, column, postgresql_where=where, sqlite_where=where)


class IngestLeaseMixin:
    """Columns shared by datasets and models, which the ingest worker processes under a lease."""

    status: Mapped[Keyword]  # processing, ready, failed
    attempt: Mapped[int] = mapped_column(default=0)
    worker_losses: Mapped[int] = mapped_column(default=0)
    worker_id: Mapped[Id | None]
    lease_expires_at: Mapped[datetime | None]
    upload_key: Mapped[str | None]  # the uploaded file in the artifact store, until the row is ready
    upload_id: Mapped[Id | None]  # the resumable upload that is read, until the row is ready or failed
    files: Mapped[list[Any]] = mapped_column(default=list)  # stored files: name, key, size_bytes, sha256
    size_bytes: Mapped[int | None]
    error: Mapped[dict[str, Any] | None]  # code, message
    finished_at: Mapped[datetime | None]


class Dataset(IngestLeaseMixin, Base):
    """Dataset of images, validated and converted to the stored format."""

    __tablename__ = "datasets"
    __table_args__ = (
        _value_check("status", "processing", "ready", "failed"),
        Index("ix_datasets_list", "project_id", "id"),
        Index("ix_datasets_name", "project_id", "name", "id"),
        Index("ix_datasets_waiting", "status", "lease_expires_at"),
        _not_null_index("ix_datasets_upload_key", "upload_key"),
        _not_null_index("ix_datasets_upload_id", "upload_id"),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectRef]
    name: Mapped[str]
    source: Mapped[dict[str, Any]]
    license: Mapped[str | None]  # as the client gave it
    splits: Mapped[dict[str, Any] | None]
    num_classes: Mapped[int | None]
    classes: Mapped[list[Any] | None]  # None: unlabeled, or not ready
    channels: Mapped[int | None]
    image_size: Mapped[int | None]
    value_range: Mapped[dict[str, Any] | None]  # bits, max; of images with more than 8 bits per channel
    cropped_fraction: Mapped[float | None]
    progress: Mapped[dict[str, Any] | None]  # processed, total, images_per_second; None: not reported, or finished
    fingerprint: Mapped[str | None] = mapped_column(String(64))
    rejected: Mapped[list[Any]] = mapped_column(default=list)  # path, reason
    warnings: Mapped[list[Any]] = mapped_column(default=list, server_default="[]")
    created_at: Mapped[datetime]


class Model(IngestLeaseMixin, Base):
    """Model weights for students or teachers: uploaded, or the student of a job."""

    __tablename__ = "models"
    __table_args__ = (
        _value_check("status", "processing", "ready", "failed"),
        Index("ix_models_list", "project_id", "id"),
        Index("ix_models_name", "project_id", "name", "id"),
        Index("ix_models_waiting", "status", "lease_expires_at"),
        _not_null_index("ix_models_upload_key", "upload_key"),
        _not_null_index("ix_models_upload_id", "upload_id"),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectRef]
    name: Mapped[str]
    job_id: Mapped[Id | None] = mapped_column(index=True)  # the job that trained it; may be deleted
    parent_id: Mapped[Id | None] = mapped_column(index=True)  # the model that it was made from; may be deleted
    architecture: Mapped[str]
    arguments: Mapped[dict[str, Any]]
    normalization: Mapped[dict[str, Any] | None]  # mean, std
    classes: Mapped[list[Any] | None]
    num_classes: Mapped[int | None]
    channels: Mapped[int | None]
    image_size: Mapped[int | None]
    parameters: Mapped[int | None]
    info: Mapped[dict[str, Any] | None]  # core.spec.info.ModelInfo, once the model is ready
    created_at: Mapped[datetime]


# Covers filters and orders of lists, so that SQLite does not compute the columns for each row.
JOB_FIGURES_INDEX = (
    "project_id", "id", "status", "name", "method", "dataset_id", "student", "teachers", "created_at",
    "top1", "gain", "seconds", "parameters", "flops", "size_bytes", "latency_ms",
)  # fmt: skip


class Job(Base):
    """Distillation job. Only ``core.store.jobs`` changes it."""

    __tablename__ = "jobs"
    __table_args__ = (
        _value_check("status", "queued", "running", "paused", *TERMINAL_STATUSES),
        _value_check("accelerator", "auto", "cpu", "cuda"),
        Index("ix_jobs_list", "project_id", "id"),
        Index("ix_jobs_name", "project_id", "name", "id"),
        Index("ix_jobs_list_by_status", "project_id", "status", "id"),
        # Few jobs are queued or running, so partial indexes keep these lookups small. Their columns do not change
        # while a job runs, so a heartbeat writes to no index.
        _status_index("ix_jobs_queued", "queued", "accelerator", "project_id", "priority", "created_at", "id"),
        _status_index("ix_jobs_running", "running", "project_id", "id"),
        Index("ix_jobs_counts", "project_id", "status", "accelerator"),
        Index("ix_jobs_by_method", "project_id", "method", "id"),
        Index("ix_jobs_by_dataset", "project_id", "dataset_id", "id"),
        Index("ix_jobs_figures", *JOB_FIGURES_INDEX),
        _not_null_index("ix_jobs_sweep", "sweep_id"),
    )
    __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012 - nothing reads generated columns of a new row

    id: Mapped[Id] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectRef]
    name: Mapped[str | None]
    status: Mapped[Keyword]
    stage: Mapped[Keyword | None]
    stage_entered_at: Mapped[datetime | None]  # by the current attempt
    stages: Mapped[list[Any]] = mapped_column(default=list)  # name, started_at, finished_at, seconds
    progress: Mapped[dict[str, Any]]
    spec: Mapped[dict[str, Any]]
    resolved: Mapped[bool]  # the spec has all defaults filled in
    dataset_id: Mapped[Id]
    missing_input: Mapped[Id | None]  # a deleted dataset, model or job that a retry would need
    priority: Mapped[int]
    accelerator: Mapped[Keyword]  # auto until the first claim, which pins it
    attempt: Mapped[int] = mapped_column(default=0)  # the fencing token
    worker_losses: Mapped[int] = mapped_column(default=0)  # since the last new checkpoint
    checkpoint_step: Mapped[int] = mapped_column(default=0)  # step of the newest student checkpoint
    last_seq: Mapped[int] = mapped_column(default=0)  # seq of the newest event
    worker_id: Mapped[Id | None]
    lease_expires_at: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    pause_requested: Mapped[bool] = mapped_column(default=False)
    stop_requested: Mapped[bool] = mapped_column(default=False)
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]  # code, message
    warnings: Mapped[list[Any]] = mapped_column(
        default=list, server_default="[]"
    )  # of the estimate and of all attempts
    model_id: Mapped[Id | None]  # the student, once the job has succeeded
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", default=dict)
    sweep_id: Mapped[Id | None]
    sweep_point: Mapped[dict[str, Any] | None]  # its number in the sweep, and the values of the varied fields
    request_id: Mapped[str | None] = mapped_column(String(64))  # of the POST
    traceparent: Mapped[str | None] = mapped_column(String(64))  # W3C Trace Context of the POST
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    # The database computes these from `spec`, `result` and times (migration 0007); for filters and orders of lists.
    method: Mapped[GeneratedText]
    student: Mapped[GeneratedText]  # its architecture
    teachers: Mapped[GeneratedText]  # their architectures: `|a|b|`
    top1: Mapped[GeneratedNumber]
    gain: Mapped[GeneratedNumber]
    seconds: Mapped[GeneratedNumber]  # from the first start to the end
    parameters: Mapped[GeneratedNumber]
    flops: Mapped[GeneratedNumber]
    size_bytes: Mapped[GeneratedNumber]
    latency_ms: Mapped[GeneratedNumber]

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended."""
        return self.status in TERMINAL_STATUSES

    @property
    def pending_action(self) -> str | None:
        """The requested action that has not happened yet; of several, the strongest."""
        if self.is_terminal:
            return None
        requests = {"cancel": self.cancel_requested, "pause": self.pause_requested, "stop": self.stop_requested}
        return next((action for action, is_requested in requests.items() if is_requested), None)


class JobCount(Base):
    """Difference of a project's number of jobs with a status and an accelerator; see ``core.store.job_counts``."""

    __tablename__ = "job_counts"

    id: Mapped[str] = mapped_column(String(120), primary_key=True)
    project_id: Mapped[ProjectRef]
    status: Mapped[Keyword]
    accelerator: Mapped[Keyword]
    num_jobs: Mapped[int]


def status_is(status: str) -> ColumnElement[bool]:
    """Condition: the job has this status. The value is a literal, not a parameter, so that partial indexes apply."""
    return Job.status == literal_column(f"'{status}'")


class JobReference(Base):
    """Reference of a job to an object that it reads: its dataset, a model, another job's student."""

    __tablename__ = "job_references"
    __table_args__ = (Index("ix_job_references_object", "object_id"),)

    job_id: Mapped[JobKey]
    object_id: Mapped[Id] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectRef]


class Event(Base):
    """Event of a job; ``seq`` counts from 1 without gaps."""

    __tablename__ = "events"

    job_id: Mapped[JobKey]
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    id: Mapped[Id]
    project_id: Mapped[ProjectRef]
    type: Mapped[str] = mapped_column(String(80))
    level: Mapped[Keyword]
    message: Mapped[str]
    data: Mapped[dict[str, Any]]
    attempt: Mapped[int]
    created_at: Mapped[datetime]


class Metric(Base):
    """Point of a metric series. ``value`` is None if it was not finite, which JSON cannot express."""

    __tablename__ = "metrics"

    job_id: Mapped[JobKey]
    name: Mapped[str] = mapped_column(String(120), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    project_id: Mapped[ProjectRef]
    value: Mapped[float | None]


class MetricRollupRow(Base):
    """Min/max of up to 256 consecutive points of a series; maintained by ``core.store.metric_rollups``.

    ``high`` is None if a value was not finite, which counts as the highest.
    """

    __tablename__ = "metric_rollups"

    job_id: Mapped[JobKey]
    name: Mapped[str] = mapped_column(String(120), primary_key=True)
    first_step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    last_step: Mapped[int]
    project_id: Mapped[ProjectRef]
    num_points: Mapped[int]
    low_step: Mapped[int]
    low: Mapped[float | None]
    high_step: Mapped[int]
    high: Mapped[float | None]


class Checkpoint(Base):
    """Checkpoint: a state to resume from (``resumable``), or weights that the spec retains (``retained``)."""

    __tablename__ = "checkpoints"
    __table_args__ = (
        Index("ix_checkpoints_newest", "job_id", "track", "step"),
        Index(
            "ix_checkpoints_resumable",
            "job_id",
            postgresql_where=text("resumable"),
            sqlite_where=text("resumable = 1"),
        ),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    job_id: Mapped[Id] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    project_id: Mapped[ProjectRef]
    track: Mapped[Keyword]  # distill; or teacher-K or baseline, which the API does not list
    step: Mapped[int]
    epoch: Mapped[int]
    metrics: Mapped[dict[str, Any]]
    attempt: Mapped[int]
    retained: Mapped[bool]
    resumable: Mapped[bool]
    size_bytes: Mapped[int]  # of the weights file
    sha256: Mapped[str] = mapped_column(String(64))
    files: Mapped[list[Any]]  # model.safetensors and, while resumable, state.pt
    created_at: Mapped[datetime]


class Artifact(Base):
    """Downloadable file of a succeeded job."""

    __tablename__ = "artifacts"
    __table_args__ = (Index("ix_artifacts_project", "project_id", "size_bytes"),)

    job_id: Mapped[JobKey]
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    project_id: Mapped[ProjectRef]
    media_type: Mapped[str] = mapped_column(String(120))
    size_bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    key: Mapped[str]
    receipt: Mapped[dict[str, Any] | None]  # of a file of an export format
    attempt: Mapped[int]
    created_at: Mapped[datetime]


class Teacher(Base):
    """Teacher that a job trained, reused by every later job with the same teacher fingerprint."""

    __tablename__ = "teachers"

    project_id: Mapped[ProjectRef] = mapped_column(primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(80), primary_key=True)
    job_id: Mapped[Id]  # the job that trained it; may be deleted
    files: Mapped[list[Any]]
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime]


class IdempotencyRecord(Base):
    """Response to a request with an ``Idempotency-Key``."""

    __tablename__ = "idempotency"
    __table_args__ = (Index("ix_idempotency_created_at", "created_at"),)

    project_id: Mapped[ProjectRef] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))  # of method, path and body
    token: Mapped[str] = mapped_column(String(40))  # of the request that may write the response
    status: Mapped[int | None]  # None: still in flight
    body: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    in_flight_expires_at: Mapped[datetime]  # afterwards a request without a response counts as dead


class Worker(Base):
    """Service process that sends heartbeats. Belongs to no project."""

    __tablename__ = "workers"
    __table_args__ = (Index("ix_workers_last_seen_at", "last_seen_at"),)

    id: Mapped[Id] = mapped_column(primary_key=True)
    role: Mapped[Keyword]  # worker, ingest, inspector, scheduler
    host: Mapped[str]
    pid: Mapped[int]
    accelerator: Mapped[Keyword | None]
    device: Mapped[str | None]
    job_id: Mapped[Id | None]
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)
    started_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
