"""What the pages show, without HTTP: it takes a project and a database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api.jobs.service import artifact_out, event_out, to_job_out
from core.errors import NotFound
from core.store import datasets, events, jobs
from core.store.db import Database, Session

NUM_EVENTS = 200  # the newest; a page is for people

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class JobList:
    """One page of the list."""

    jobs: Sequence[Document]
    has_more: bool


@dataclass(frozen=True, slots=True)
class JobPage:
    """Everything on a job's page, from one transaction, so that its parts agree."""

    job: Document
    events: Sequence[Document]
    artifacts: Sequence[Document]
    dataset_name: str | None


def list_jobs(
    database: Database, project_id: str, *, status: str | None = None, limit: int, after: str | None = None
) -> JobList:
    """The newest jobs. Raises ``InvalidRequest`` for an ``after`` that is no job's id."""
    with database.read() as session:
        page = jobs.list_jobs(session, project_id, status=status, limit=limit, after=after)
        return JobList([_document(to_job_out(job)) for job in page.items], page.has_more)


def read_job(database: Database, project_id: str, job_id: str) -> JobPage:
    """One job with its log and files. Raises ``NotFound``."""
    with database.read() as session:
        job = jobs.get(session, project_id, job_id)
        log = events.list_events(session, project_id, job_id, after_seq=max(0, job.last_seq - NUM_EVENTS))
        return JobPage(
            job=_document(to_job_out(job)),
            events=[_document(event_out(event)) for event in log.items],
            artifacts=[_document(artifact_out(one)) for one in jobs.list_artifacts(session, project_id, job_id)],
            dataset_name=_dataset_name(session, project_id, job.dataset_id),
        )


def _dataset_name(session: Session, project_id: str, dataset_id: str) -> str | None:
    try:
        return datasets.get(session, project_id, dataset_id).name
    except NotFound:
        return None  # a job that has ended does not keep its dataset from being deleted


def _document(out: Any) -> Document:
    document: Document = out.model_dump(mode="json")
    return document
