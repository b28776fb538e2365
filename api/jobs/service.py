"""What the job endpoints do, without HTTP: it takes values and a database, so a shell may call it too."""

from __future__ import annotations

from typing import Any

from api.deps import AppState
from api.inspector import Inspector
from api.jobs.schemas import ArtifactOut, CheckpointOut, EventOut, JobOut
from core.errors import FieldError, InvalidSpec, NotFound
from core.spec import JobSpec
from core.spec.facts import DatasetInfo, ModelInfo
from core.store import datasets, jobs, models, teachers
from core.store.db import Database, Session
from core.store.tables import Artifact, Checkpoint, Dataset, Event, Job, Model

Inputs = tuple[dict[str, DatasetInfo], dict[str, ModelInfo]]  # both by id
Resolution = dict[str, Any]  # the inspector's: `spec` and `estimate`


# --- from a spec to a job -------------------------------------------------------------------------


def find_inputs(database: Database, project_id: str, spec: JobSpec, *, most_seconds: float = 0.0) -> Inputs:
    """What is known of everything that the spec reads.

    Raises :class:`InvalidSpec` that names each input which is missing or not ready, and where the job asks to run
    for longer than ``most_seconds`` (0: no limit).
    """
    errors: list[FieldError] = _beyond(spec, most_seconds)
    found: dict[str, ModelInfo] = {}
    known: dict[str, DatasetInfo] = {}
    with database.read() as session:
        for at, dataset_id in spec.datasets().items():
            try:
                known[dataset_id] = _dataset_facts(session, project_id, dataset_id)
            except InvalidSpec as error:
                errors.append(FieldError(at, error.detail))
        for reference in spec.references():
            try:
                found[reference] = _model_facts(session, project_id, reference)
            except InvalidSpec as error:
                errors.extend(FieldError(at, error.detail) for at in _places(spec, reference))
    if errors:
        raise InvalidSpec("; ".join(f"{e.pointer}: {e.detail}" for e in errors), errors=errors)
    return known, found


def inputs_of(parts: AppState, project_id: str, spec: JobSpec) -> Inputs:
    """The same within this service's limits."""
    return find_inputs(parts.database, project_id, spec, most_seconds=parts.settings.max_job_seconds)


async def resolve(inspector: Inspector, spec: JobSpec, inputs: Inputs, *, threads: int) -> Resolution | None:
    """The spec with all defaults, and its estimate; None where no inspector is there to ask.

    Raises :class:`InvalidSpec` for what cannot work together.
    """
    return await inspector.ask_if_there("resolve", question(spec, inputs, threads=threads))


def question(spec: JobSpec, inputs: Inputs, *, threads: int) -> dict[str, Any]:
    """What the inspector is asked about a spec."""
    known, known_models = inputs
    others = {one: known[one].model_dump(mode="json") for one in spec.method.datasets().values()}
    return {
        "spec": spec.model_dump(mode="json"),
        "dataset": known[spec.dataset].model_dump(mode="json"),
        "datasets": others,
        "models": {name: facts.model_dump(mode="json") for name, facts in known_models.items()},
        "threads": threads,
    }


def with_hit(database: Database, project_id: str, spec: JobSpec, estimate: dict[str, Any]) -> dict[str, Any]:
    """The estimate with what the project's jobs tell: whether one has stored what this job would ask its teachers."""
    cache = dict(estimate["teacher_cache"])
    name, hit = cache.pop("asked"), False
    if name is not None:
        with database.read() as session:
            hit = teachers.has_cached_outputs(session, project_id, spec.dataset, asked=name, views=cache["views"])
    saved = cache["seconds"] if hit else 0.0
    seconds = round(estimate["seconds"] - saved, 1)
    return {**estimate, "seconds": seconds, "teacher_cache": {**cache, "hit": hit, "saved_seconds": saved}}


def create(session: Session, project_id: str, spec: JobSpec, resolution: Resolution | None) -> Job:
    """Queue the job. Without a resolution its worker resolves it before anything else."""
    document = spec.model_dump(mode="json") if resolution is None else resolution["spec"]
    return jobs.create(
        session,
        project_id,
        spec=document,
        resolved=resolution is not None,
        dataset_id=spec.dataset,
        references=(*spec.references(), *spec.method.datasets().values()),
        name=spec.name,
        priority=spec.priority,
        accelerator=spec.resources.accelerator,
        metadata=spec.metadata,
        total_steps=None if resolution is None else resolution["estimate"]["total_steps"],
    )


def _beyond(spec: JobSpec, roof: float) -> list[FieldError]:
    asked = spec.resources.max_seconds
    if not roof or asked is None or asked <= roof:
        return []
    return [
        FieldError("/resources/max_seconds", f"no job may run for longer than {roof:g} s here; ask for at most that")
    ]


def _dataset_facts(session: Session, project_id: str, dataset_id: str) -> DatasetInfo:
    try:
        dataset = datasets.get(session, project_id, dataset_id)
    except NotFound as error:
        raise _unusable("", f"{error.detail} GET /v1/datasets lists them.") from None
    if dataset.status != "ready":
        raise _unusable("", _not_ready("dataset", dataset))
    splits = dataset.splits or {}
    return DatasetInfo.model_validate(
        {
            "num_classes": dataset.num_classes,
            "classes": dataset.classes,
            "channels": dataset.channels,
            "image_size": dataset.image_size,
            "num_train": splits["train"]["num_samples"],
            "num_test": splits.get("test", {}).get("num_samples", 0),
        }
    )


def _model_facts(session: Session, project_id: str, reference: str) -> ModelInfo:
    try:
        model_id = reference
        if reference.startswith("job_"):
            job = jobs.get(session, project_id, reference)
            if job.status != "succeeded" or job.model_id is None:
                raise _unusable("", f"job {reference} is {job.status}; only a job that succeeded has a student")
            model_id = job.model_id
        model = models.get(session, project_id, model_id)
    except NotFound as error:
        raise _unusable("", f"{error.detail} GET /v1/models lists them.") from None
    if model.status != "ready":
        raise _unusable("", _not_ready("model", model))
    return models.facts(model)


def _not_ready(what: str, row: Dataset | Model) -> str:
    if row.status == "failed":
        return f"{what} {row.id} failed: {(row.error or {}).get('message', 'no reason was kept')}"
    return f"{what} {row.id} is still {row.status}; wait until it is ready"


def _unusable(at: str, detail: str) -> InvalidSpec:
    return InvalidSpec(detail, errors=[FieldError(at, detail)])


def _places(spec: JobSpec, reference: str) -> list[str]:
    places = ["/student/weights"] if spec.student.weights == reference else []
    return places + [
        f"/teachers/{k}/weights" for k, teacher in enumerate(spec.teachers) if teacher.weights == reference
    ]


# --- from rows to documents -----------------------------------------------------------------------


# What a job that failed under an earlier version does not say.
_UNKNOWN: dict[str, Any] = {"fault": None, "advice": None, "fix": None, "log": [], "machine": None}


def to_job_out(job: Job) -> JobOut:
    """The job as everybody sees it."""
    return JobOut.model_validate(
        {
            "id": job.id,
            "name": job.name,
            "status": job.status,
            "terminal": job.terminal,
            "next_actions": jobs.next_actions(job),
            "pending_action": job.pending_action,
            "stage": job.stage,
            "stages": job.stages,
            "progress": job.progress,
            "spec": job.spec,
            "attempt": job.attempt,
            "created_at": job.created_at,
            "started_at": job.started_at,
            "finished_at": job.finished_at,
            "error": None if job.error is None else {**_UNKNOWN, **job.error},
            "metadata": job.metadata_,
            "result": job.result,
        }
    )


def event_out(event: Event) -> EventOut:
    """A line of a job's log as everybody sees it."""
    return EventOut(
        id=event.id,
        job=event.job_id,
        seq=event.seq,
        type=event.type,
        level=event.level,
        message=event.message,
        data=event.data,
        attempt=event.attempt,
        created_at=event.created_at,
    )


def checkpoint_out(checkpoint: Checkpoint) -> CheckpointOut:
    """A checkpoint as everybody sees it."""
    return CheckpointOut(
        id=checkpoint.id,
        job=checkpoint.job_id,
        step=checkpoint.step,
        epoch=checkpoint.epoch,
        metrics=checkpoint.metrics,
        resumable=checkpoint.resumable,
        kept=checkpoint.kept,
        size_bytes=checkpoint.size_bytes,
        sha256=checkpoint.sha256,
        attempt=checkpoint.attempt,
        created_at=checkpoint.created_at,
    )


def artifact_out(artifact: Artifact) -> ArtifactOut:
    """A file that the job hands out."""
    return ArtifactOut(
        id=artifact.name,
        name=artifact.name,
        media_type=artifact.media_type,
        size_bytes=artifact.size_bytes,
        sha256=artifact.sha256,
        created_at=artifact.created_at,
    )
