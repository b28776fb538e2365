"""The tables of what a project has. Every one carries its project; those of projects are in ``core.store.project_tables``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    Index,
    String,
    literal_column,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

import core.store.project_tables  # noqa: F401 - foreign keys name its tables
from core.store.base import Base, Id, OwnedBy, Word

TERMINAL = ("succeeded", "failed", "cancelled")

OfJob = Annotated[str, mapped_column(String(40), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)]


def _one_of(column: str, *words: str) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({', '.join(repr(w) for w in words)})", name=column)


def _some(name: str, status: str, *columns: str) -> Index:
    """An index of the jobs of one status alone. Ask for them by :func:`is_now`."""
    where = text(f"status = '{status}'")
    return Index(name, *columns, postgresql_where=where, sqlite_where=where)


def _kept(name: str, column: str) -> Index:
    """An index of the rows that have a value here; most have none."""
    where = text(f"{column} IS NOT NULL")
    return Index(name, column, postgresql_where=where, sqlite_where=where)


class IngestLeaseMixin:
    """What a dataset and a model have in common: a worker of the ingest queue makes them ready."""

    status: Mapped[Word]  # processing, ready, failed
    attempt: Mapped[int] = mapped_column(default=0)
    losses: Mapped[int] = mapped_column(default=0)
    worker_id: Mapped[Id | None]
    lease_expires_at: Mapped[datetime | None]
    upload_key: Mapped[str | None]  # what was sent, in the artefact store, until it is ready
    files: Mapped[list[Any]] = mapped_column(default=list)  # stored files: name, key, size_bytes, sha256
    size_bytes: Mapped[int | None]
    error: Mapped[dict[str, Any] | None]  # code, message
    finished_at: Mapped[datetime | None]


class Dataset(IngestLeaseMixin, Base):
    """Images to learn from, validated and stored in one form."""

    __tablename__ = "datasets"
    __table_args__ = (
        _one_of("status", "processing", "ready", "failed"),
        Index("ix_datasets_list", "project_id", "id"),
        Index("ix_datasets_waiting", "status", "lease_expires_at"),
        _kept("ix_datasets_upload_key", "upload_key"),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    project_id: Mapped[OwnedBy]
    name: Mapped[str]
    source: Mapped[dict[str, Any]]
    splits: Mapped[dict[str, Any] | None]
    num_classes: Mapped[int | None]
    classes: Mapped[list[Any] | None]  # None: unlabelled, or not ready
    channels: Mapped[int | None]
    image_size: Mapped[int | None]
    fingerprint: Mapped[str | None] = mapped_column(String(64))
    rejected: Mapped[list[Any]] = mapped_column(default=list)  # path, reason
    created_at: Mapped[datetime]


class Model(IngestLeaseMixin, Base):
    """Weights that jobs may start from or learn from: uploaded, or a job's student."""

    __tablename__ = "models"
    __table_args__ = (
        _one_of("status", "processing", "ready", "failed"),
        Index("ix_models_list", "project_id", "id"),
        Index("ix_models_waiting", "status", "lease_expires_at"),
        _kept("ix_models_upload_key", "upload_key"),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    project_id: Mapped[OwnedBy]
    name: Mapped[str]
    job_id: Mapped[Id | None] = mapped_column(index=True)  # whose student it is; outlives the job
    architecture: Mapped[str]
    arguments: Mapped[dict[str, Any]]
    normalization: Mapped[dict[str, Any] | None]  # mean, std
    classes: Mapped[list[Any] | None]
    num_classes: Mapped[int | None]
    channels: Mapped[int | None]
    image_size: Mapped[int | None]
    parameters: Mapped[int | None]
    facts: Mapped[dict[str, Any] | None]  # core.spec.facts.ModelFacts, once it is ready
    created_at: Mapped[datetime]


class Job(Base):
    """A distillation job. Only ``core.store.jobs`` changes it."""

    __tablename__ = "jobs"
    __table_args__ = (
        _one_of("status", "queued", "running", "paused", *TERMINAL),
        _one_of("accelerator", "auto", "cpu", "cuda"),
        Index("ix_jobs_list", "project_id", "id"),
        Index("ix_jobs_list_by_status", "project_id", "status", "id"),
        # Few of many jobs wait or run: what looks for those reads an index that holds nothing else. No column of
        # these changes while a job runs, so a heartbeat writes to no index.
        _some("ix_jobs_queued", "queued", "accelerator", "project_id", "priority", "created_at", "id"),
        _some("ix_jobs_running", "running", "project_id", "id"),
        Index("ix_jobs_status", "status"),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    project_id: Mapped[OwnedBy]
    name: Mapped[str | None]
    status: Mapped[Word]
    stage: Mapped[Word | None]
    stage_entered_at: Mapped[datetime | None]  # by the attempt at hand
    stages: Mapped[list[Any]] = mapped_column(default=list)  # name, started_at, finished_at, seconds
    progress: Mapped[dict[str, Any]]
    spec: Mapped[dict[str, Any]]
    resolved: Mapped[bool]  # every default of the spec is filled in
    dataset_id: Mapped[Id]
    missing_input: Mapped[Id | None]  # a deleted dataset, model or job without which it cannot run again
    priority: Mapped[int]
    accelerator: Mapped[Word]  # auto until the first claim, which pins it
    attempt: Mapped[int] = mapped_column(default=0)  # the fencing token
    losses: Mapped[int] = mapped_column(default=0)  # of a worker, in a row, without a checkpoint between
    checkpoint_step: Mapped[int] = mapped_column(default=0)  # of the newest checkpoint of the student
    last_seq: Mapped[int] = mapped_column(default=0)  # of its newest event
    worker_id: Mapped[Id | None]
    lease_expires_at: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    pause_requested: Mapped[bool] = mapped_column(default=False)
    stop_requested: Mapped[bool] = mapped_column(default=False)
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]  # code, message
    model_id: Mapped[Id | None]  # its student, once it has succeeded
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", default=dict)
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    @property
    def terminal(self) -> bool:
        """Whether nothing happens to it any more by itself."""
        return self.status in TERMINAL

    @property
    def pending_action(self) -> str | None:
        """What was asked for and is not done yet; the strongest, if several."""
        if self.terminal:
            return None
        asked = {"cancel": self.cancel_requested, "pause": self.pause_requested, "stop": self.stop_requested}
        return next((action for action, is_asked in asked.items() if is_asked), None)


def status_is(status: str) -> ColumnElement[bool]:
    """That a job has this status, one of our own words; written out, or no index of that status alone is used."""
    return Job.status == literal_column(f"'{status}'")


class JobReference(Base):
    """That a job reads an object: its dataset, a model, another job's student."""

    __tablename__ = "job_references"
    __table_args__ = (Index("ix_job_references_object", "object_id"),)

    job_id: Mapped[OfJob]
    object_id: Mapped[Id] = mapped_column(primary_key=True)
    project_id: Mapped[OwnedBy]


class Event(Base):
    """One line of a job's log; ``seq`` counts from 1 without a gap."""

    __tablename__ = "events"

    job_id: Mapped[OfJob]
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    id: Mapped[Id]
    project_id: Mapped[OwnedBy]
    type: Mapped[str] = mapped_column(String(80))
    level: Mapped[Word]
    message: Mapped[str]
    data: Mapped[dict[str, Any]]
    attempt: Mapped[int]
    created_at: Mapped[datetime]


class Metric(Base):
    """One value of one series. ``value`` is None where it was not finite: JSON has no word for that."""

    __tablename__ = "metrics"

    job_id: Mapped[OfJob]
    name: Mapped[str] = mapped_column(String(120), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    project_id: Mapped[OwnedBy]
    value: Mapped[float | None]


class MetricRollupRow(Base):
    """What up to 256 neighbouring points of a series are at most and at least; ``core.store.metric_rollups`` keeps it true.

    ``high`` is None where one of them was not finite, which counts as the highest.
    """

    __tablename__ = "metric_spans"

    job_id: Mapped[OfJob]
    name: Mapped[str] = mapped_column(String(120), primary_key=True)
    first_step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    last_step: Mapped[int]
    project_id: Mapped[OwnedBy]
    num_points: Mapped[int]
    low_step: Mapped[int]
    low: Mapped[float | None]
    high_step: Mapped[int]
    high: Mapped[float | None]


class Checkpoint(Base):
    """Where a job can go on from (``resumable``), and weights that were asked to be kept."""

    __tablename__ = "checkpoints"
    __table_args__ = (Index("ix_checkpoints_newest", "job_id", "track", "step"),)

    id: Mapped[Id] = mapped_column(primary_key=True)
    job_id: Mapped[Id] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    project_id: Mapped[OwnedBy]
    track: Mapped[Word]  # distill, or teacher-K, which is nobody's business outside
    step: Mapped[int]
    epoch: Mapped[int]
    metrics: Mapped[dict[str, Any]]
    attempt: Mapped[int]
    kept: Mapped[bool]
    resumable: Mapped[bool]
    size_bytes: Mapped[int]  # of the student's weights
    sha256: Mapped[str] = mapped_column(String(64))
    files: Mapped[list[Any]]  # model.safetensors and, while resumable, state.pt
    created_at: Mapped[datetime]


class Artifact(Base):
    """A file that a succeeded job hands out."""

    __tablename__ = "artifacts"
    __table_args__ = (Index("ix_artifacts_project", "project_id", "size_bytes"),)

    job_id: Mapped[OfJob]
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    project_id: Mapped[OwnedBy]
    media_type: Mapped[str] = mapped_column(String(120))
    size_bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    key: Mapped[str]
    attempt: Mapped[int]
    created_at: Mapped[datetime]


class Teacher(Base):
    """A teacher that some job trained, for every later job with the same recipe."""

    __tablename__ = "teachers"

    project_id: Mapped[OwnedBy] = mapped_column(primary_key=True)
    recipe: Mapped[str] = mapped_column(String(80), primary_key=True)
    job_id: Mapped[Id]  # that trained it; outlives the job
    files: Mapped[list[Any]]
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime]


class IdempotencyRecord(Base):
    """What was answered to a creating request that carried a key."""

    __tablename__ = "idempotency"
    __table_args__ = (Index("ix_idempotency_created_at", "created_at"),)

    project_id: Mapped[OwnedBy] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))  # of method, path and body
    token: Mapped[str] = mapped_column(String(40))  # of the request that may write the answer
    status: Mapped[int | None]  # None: still in flight
    body: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    patience_ends_at: Mapped[datetime]  # an unanswered request is thought dead from here on


class Worker(Base):
    """A process of ours that gave a sign of life. Belongs to no project."""

    __tablename__ = "workers"
    __table_args__ = (Index("ix_workers_last_seen_at", "last_seen_at"),)

    id: Mapped[Id] = mapped_column(primary_key=True)
    role: Mapped[Word]  # worker, ingest, inspector, scheduler
    host: Mapped[str]
    pid: Mapped[int]
    accelerator: Mapped[Word | None]
    device: Mapped[str | None]
    job_id: Mapped[Id | None]
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)
    started_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
