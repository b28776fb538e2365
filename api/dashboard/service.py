"""Data of the pages, without HTTP: functions of a database and a project."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import structlog

from api.jobs.service import artifact_out, checkpoint_out, event_out, log_out, to_job_out
from api.jobs.worker_checks import waiting_reasons
from core.errors import NotFound, StorageFailed
from core.store import checkpoints, datasets, events, job_logs, jobs, lineage, models, references
from core.store.artifact_store import ArtifactStore
from core.store.db import Database, Session
from core.store.jobs import JobFilter, JobOrder
from core.store.names import find_id
from core.store.tables import Artifact

NUM_EVENTS = 200  # newest events on a job's page
NUM_CHECKPOINTS = 20  # newest checkpoints on a job's page
NUM_CHOICES = 100  # newest objects that a form offers
REPORT = "report.json"
MAX_REPORT_BYTES = 8 * 1024**2  # of a report that the page shows

log = structlog.get_logger(__name__)

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class JobList:
    """One page of the job list, and the names of the newest datasets by id."""

    jobs: Sequence[Document]
    has_more: bool
    dataset_names: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class LineageEntry:
    """One line of a job's lineage: a network or job that its student was made from, or that was made from it."""

    label: str
    text: str
    url: str | None


@dataclass(frozen=True, slots=True)
class JobPage:
    """Data of a job's page, read in one transaction, so that it is consistent.

    ``report`` is the job's ``report.json``, None if it has no section ``evaluation``.
    """

    job: Document
    events: Sequence[Document]
    artifacts: Sequence[Document]
    checkpoints: Sequence[Document]
    log: Document
    dataset_names: Mapping[str, str]  # by id, of the datasets that still exist
    report: Document | None
    lineage: Sequence[LineageEntry]


@dataclass(frozen=True, slots=True)
class Choices:
    """Objects that the form of a new job offers: ready datasets, and models and jobs that have weights."""

    datasets: Sequence[Document]
    weights: Sequence[Document]


def read_choices(database: Database, project_id: str) -> Choices:
    """Read the newest objects that a spec can refer to."""
    with database.read() as session:
        found = datasets.list_datasets(session, project_id, limit=NUM_CHOICES).items
        stored = models.list_models(session, project_id, limit=NUM_CHOICES).items
    ready = [
        {"id": each.id, "name": each.name, "image_size": each.image_size, "num_classes": each.num_classes}
        for each in found
        if each.status == "ready"
    ]
    weights = [
        {"id": each.id, "name": each.name, "architecture": each.architecture}
        for each in stored
        if each.status == "ready"
    ]
    return Choices(ready, weights)


def list_jobs(
    database: Database, project_id: str, filters: JobFilter, *, order: JobOrder, limit: int, after: str | None = None
) -> JobList:
    """Read a page of the jobs. Raises as :func:`core.store.jobs.list_jobs`."""
    with database.read() as session:
        page = jobs.list_jobs(session, project_id, filters, order=order, limit=limit, after=after)
        found = datasets.list_datasets(session, project_id, limit=NUM_CHOICES)
        names = {dataset.id: dataset.name for dataset in found.items}
        documents = [
            {**_document(to_job_out(job)), "dataset_name": names.get(job.dataset_id, job.dataset_id)}
            for job in page.items
        ]
        return JobList(documents, page.has_more, names)


def read_jobs(
    database: Database, project_id: str, references: Sequence[str], *, skip_missing: bool = False
) -> list[Document]:
    """Read jobs by id, unique name or unique id prefix, each once.

    Raises ``NotFound`` unless ``skip_missing``, and ``AmbiguousReference``.
    """
    found: dict[str, Document] = {}
    with database.read() as session:
        for reference in references:
            try:
                job = jobs.get(session, project_id, find_id(session, project_id, "job", reference))
            except NotFound:
                if not skip_missing:
                    raise
                continue
            found.setdefault(job.id, _document(to_job_out(job)))
    return list(found.values())


def read_readers(database: Database, project_id: str, object_id: str, *, limit: int) -> list[Document]:
    """Read the newest jobs that read a dataset or a model."""
    with database.read() as session:
        found = references.list_readers(session, project_id, object_id, limit=limit)
        return [_document(to_job_out(job)) for job in found]


def read_datasets(database: Database, project_id: str, dataset_ids: Collection[str]) -> dict[str, Document]:
    """Read name and number of test images of datasets by id; deleted ones are left out."""
    found: dict[str, Document] = {}
    with database.read() as session:
        for dataset_id in dataset_ids:
            with suppress(NotFound):
                dataset = datasets.get(session, project_id, dataset_id)
                num_test = ((dataset.splits or {}).get("test") or {}).get("num_samples")
                found[dataset_id] = {"name": dataset.name, "num_test": num_test}
    return found


def read_job(
    database: Database, store: ArtifactStore, project_id: str, job_id: str, *, alive_seconds: float
) -> JobPage:
    """Read a job with its events, artifacts and report. Raises ``NotFound``.

    ``alive_seconds`` is the age of a heartbeat up to which its worker counts as alive.
    """
    with database.read() as session:
        job = jobs.get(session, project_id, job_id)
        latest = events.list_events(session, project_id, job_id, after_seq=max(0, job.last_seq - NUM_EVENTS))
        reasons = waiting_reasons(session, [job], alive_seconds=alive_seconds)
        artifacts = jobs.list_artifacts(session, project_id, job_id)
        found = checkpoints.list_checkpoints(session, project_id, job_id, limit=NUM_CHECKPOINTS)
        read = JobPage(
            job=_document(to_job_out(job, waiting_reason=reasons.get(job.id))),
            events=[_document(event_out(event)) for event in latest.items],
            artifacts=[_document(artifact_out(artifact)) for artifact in artifacts],
            checkpoints=[_document(checkpoint_out(checkpoint)) for checkpoint in found.items],
            log=_document(log_out(job_id, job_logs.get(session, project_id, job_id))),
            dataset_names=_dataset_names(session, project_id, (job.dataset_id, job.spec.get("unlabeled_dataset"))),
            report=None,
            lineage=_lineage(session, project_id, job.model_id, job_id),
        )
    return replace(read, report=_report(store, artifacts))  # no transaction waits for the store


def _report(store: ArtifactStore, artifacts: Sequence[Artifact]) -> Document | None:
    """Read the report of a job; None for a job without one, or of an earlier version, or if it cannot be read."""
    found = next((artifact for artifact in artifacts if artifact.name == REPORT), None)
    if found is None or found.size_bytes > MAX_REPORT_BYTES:
        return None
    try:
        document: Document = json.loads(b"".join(store.open(found.key)))
    except StorageFailed as error:
        log.warning("report.unreadable", key=found.key, error=error.detail)
        return None
    return document if document.get("evaluation") else None


def _lineage(session: Session, project_id: str, model_id: str | None, job_id: str) -> list[LineageEntry]:
    """Return what a job's student was made from, and what was made from it; empty without a student."""
    if model_id is None:
        return []
    try:
        found = lineage.lineage(session, project_id, model_id)
    except NotFound:
        return []  # the model was deleted
    nodes = {node.id: node for node in found.nodes}

    def entry(label: str, node_id: str) -> LineageEntry:
        node = nodes[node_id]
        text = (node.name or node.id) + ("" if node.exists else " (deleted)")
        urls = {"job": f"/jobs/{node.id}", "model": f"/models/{node.id}"}
        if node.kind == "teacher":
            text = f"{node.name}, {node.details['weights']}"
        source = nodes.get(node.details.get("job", ""))
        if node.kind == "checkpoint" and source is not None:
            text, urls["checkpoint"] = f"{source.name or source.id}, {node.name}", f"/jobs/{source.id}"
        return LineageEntry(label, text, urls.get(node.kind) if node.exists else None)

    before = {"teacher": "Teacher", "initial_weights": "Initial weights"}
    after = {"teacher": "Teaches", "initial_weights": "Starts", "compressed": "Compressed"}
    entries = [entry(before[edge.role], edge.source) for edge in found.edges if edge.target == job_id]
    entries.append(entry("Student", model_id))
    entries += [entry(after[edge.role], edge.target) for edge in found.edges if edge.source == model_id]
    return entries


def _dataset_names(session: Session, project_id: str, ids: Iterable[str | None]) -> dict[str, str]:
    names = {}
    for dataset_id in filter(None, ids):
        with suppress(NotFound):  # the dataset of a finished job may have been deleted
            names[dataset_id] = datasets.get(session, project_id, dataset_id).name
    return names


def _document(out: Any) -> Document:
    document: Document = out.model_dump(mode="json")
    return document
