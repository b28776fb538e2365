"""Data of the pages, without HTTP: functions of a database and a project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api.jobs.service import artifact_out, event_out, to_job_out
from api.jobs.worker_checks import waiting_reasons
from core.errors import NotFound
from core.store import datasets, events, jobs
from core.store.db import Database, Session

NUM_EVENTS = 200  # newest events on a job's page

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class JobList:
    """One page of the job list."""

    jobs: Sequence[Document]
    has_more: bool


@dataclass(frozen=True, slots=True)
class JobPage:
    """Data of a job's page, read in one transaction, so that it is consistent."""

    job: Document
    events: Sequence[Document]
    artifacts: Sequence[Document]
    dataset_name: str | None


def list_jobs(
    database: Database, project_id: str, *, status: str | None = None, limit: int, after: str | None = None
) -> JobList:
    """Read the newest jobs. Raises ``InvalidRequest`` for an ``after`` that is not a job id."""
    with database.read() as session:
        page = jobs.list_jobs(session, project_id, status=status, limit=limit, after=after)
        return JobList([_document(to_job_out(job)) for job in page.items], page.has_more)


def read_job(database: Database, project_id: str, job_id: str, *, alive_seconds: float) -> JobPage:
    """Read a job with its events and artifacts. Raises ``NotFound``.

    ``alive_seconds`` is the age of a heartbeat up to which its worker counts as alive.
    """
    with database.read() as session:
        job = jobs.get(session, project_id, job_id)
        latest = events.list_events(session, project_id, job_id, after_seq=max(0, job.last_seq - NUM_EVENTS))
        reasons = waiting_reasons(session, [job], alive_seconds=alive_seconds)
        artifacts = jobs.list_artifacts(session, project_id, job_id)
        return JobPage(
            job=_document(to_job_out(job, waiting_reason=reasons.get(job.id))),
            events=[_document(event_out(event)) for event in latest.items],
            artifacts=[_document(artifact_out(artifact)) for artifact in artifacts],
            dataset_name=_dataset_name(session, project_id, job.dataset_id),
        )


def _dataset_name(session: Session, project_id: str, dataset_id: str) -> str | None:
    try:
        return datasets.get(session, project_id, dataset_id).name
    except NotFound:
        return None  # the dataset of a finished job may have been deleted


def _document(out: Any) -> Document:
    document: Document = out.model_dump(mode="json")
    return document
