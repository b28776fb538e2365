"""Logic of the job endpoints, without HTTP: it takes values and a database, so it can run in a shell too."""

from __future__ import annotations

from typing import Any

from api.deps import AppState
from api.inspector import Inspector
from api.jobs.references import with_full_ids
from api.jobs.schemas import ArtifactOut, CheckpointOut, EventOut, JobOut
from core.errors import FieldError, InvalidSpec, NotFound
from core.spec import JobSpec
from core.spec.info import DatasetInfo, ModelInfo
from core.spec.references import complete_references
from core.spec.warnings import JobWarning
from core.store import datasets, jobs, models, teachers
from core.store.db import Database, Session
from core.store.tables import Artifact, Checkpoint, Dataset, Event, Job, Model

Inputs = tuple[dict[str, DatasetInfo], dict[str, ModelInfo]]  # both by id
Resolution = dict[str, Any]  # `spec` and `estimate`, from the inspector


# --- from a spec to a job -------------------------------------------------------------------------


def find_inputs(database: Database, project_id: str, spec: JobSpec, *, max_seconds: float = 0.0) -> Inputs:
    """Read the datasets and models that the spec references by full ids.

    Raises :class:`InvalidSpec` that names each input which is missing or not ready, and a requested run time beyond
    ``max_seconds`` (0: no limit).
    """
    errors: list[FieldError] = _run_time_errors(spec, max_seconds)
    dataset_infos: dict[str, DatasetInfo] = {}
    model_infos: dict[str, ModelInfo] = {}
    with database.read() as session:
        for at, dataset_id in spec.datasets().items():
            try:
                dataset_infos[dataset_id] = _dataset_info(session, project_id, dataset_id)
            except InvalidSpec as error:
                errors.append(FieldError(at, error.detail))
        for reference in spec.references():
            try:
                model_infos[reference] = _model_info(session, project_id, reference)
            except InvalidSpec as error:
                errors.extend(FieldError(at, error.detail) for at in _reference_pointers(spec, reference))
    if errors:
        raise InvalidSpec.for_fields(errors)
    return dataset_infos, model_infos


def read_inputs(state: AppState, project_id: str, spec: JobSpec) -> tuple[JobSpec, Inputs]:
    """Return the spec with full ids instead of names and id prefixes, and its inputs.

    Raises :class:`AmbiguousReference`, and as :func:`find_inputs`, with this service's limits.
    """
    with state.database.read() as session:
        spec = with_full_ids(session, project_id, spec)
    return spec, find_inputs(state.database, project_id, spec, max_seconds=state.settings.max_job_seconds)


async def resolve(inspector: Inspector, spec: JobSpec, inputs: Inputs, *, threads: int) -> Resolution | None:
    """Return the spec with all defaults and its estimate, or None if the inspector is unavailable.

    Raises :class:`InvalidSpec` for an invalid combination.
    """
    return await inspector.call_if_available("resolve", resolve_payload(spec, inputs, threads=threads))


def resolve_payload(spec: JobSpec, inputs: Inputs, *, threads: int) -> dict[str, Any]:
    """Return the payload of the inspector's call ``resolve``."""
    dataset_infos, model_infos = inputs
    method_datasets = {each: dataset_infos[each].model_dump(mode="json") for each in spec.method.datasets().values()}
    return {
        "spec": spec.model_dump(mode="json"),
        "dataset": dataset_infos[spec.dataset].model_dump(mode="json"),
        "datasets": method_datasets,
        "models": {name: info.model_dump(mode="json") for name, info in model_infos.items()},
        "threads": threads,
    }


def add_cache_hit(database: Database, project_id: str, spec: JobSpec, estimate: dict[str, Any]) -> dict[str, Any]:
    """Add to an estimate whether a job of the project has already cached the teacher outputs."""
    cache = dict(estimate["teacher_cache"])
    cache_key, num_views, hit = cache.pop("cache_key"), cache["views"], False
    if cache_key is not None:
        with database.read() as session:
            hit = teachers.has_cached_outputs(
                session, project_id, spec.dataset, cache_key=cache_key, num_views=num_views
            )
    saved = cache["seconds"] if hit else 0.0
    seconds = round(estimate["seconds"] - saved, 1)
    return {**estimate, "seconds": seconds, "teacher_cache": {**cache, "hit": hit, "saved_seconds": saved}}


def spec_document(spec: JobSpec, inputs: Inputs, resolution: Resolution | None) -> dict[str, Any]:
    """Return the spec that a job stores: the resolved one, or else the client's with the architectures filled in."""
    if resolution is not None:
        document: dict[str, Any] = resolution["spec"]
        return document
    return complete_references(spec, inputs[1]).model_dump(mode="json")


def create(session: Session, project_id: str, spec: JobSpec, inputs: Inputs, resolution: Resolution | None) -> Job:
    """Queue the job. Without a resolution, its worker resolves the spec first."""
    document = spec_document(spec, inputs, resolution)
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
        warnings=resolution_warnings(resolution),
    )


def resolution_warnings(resolution: Resolution | None) -> list[JobWarning]:
    """Return the warnings of the estimate; none before the spec is resolved."""
    entries = [] if resolution is None else resolution["estimate"]["warnings"]
    return [JobWarning.model_validate(entry) for entry in entries]


def _run_time_errors(spec: JobSpec, limit: float) -> list[FieldError]:
    requested = spec.resources.max_seconds
    if not limit or requested is None or requested <= limit:
        return []
    return [FieldError("/resources/max_seconds", f"this service limits jobs to {limit:g} s; request at most that")]


def _dataset_info(session: Session, project_id: str, dataset_id: str) -> DatasetInfo:
    try:
        dataset = datasets.get(session, project_id, dataset_id)
    except NotFound as error:
        raise InvalidSpec(f"{error.detail} GET /v1/datasets lists them.") from None
    if dataset.status != "ready":
        raise InvalidSpec(_not_ready("dataset", dataset))
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


def _model_info(session: Session, project_id: str, reference: str) -> ModelInfo:
    try:
        model_id = reference
        if reference.startswith("job_"):
            job = jobs.get(session, project_id, reference)
            if job.status != "succeeded" or job.model_id is None:
                raise InvalidSpec(f"job {reference} is {job.status}; only a job that succeeded has a student")
            model_id = job.model_id
        model = models.get(session, project_id, model_id)
    except NotFound as error:
        raise InvalidSpec(f"{error.detail} GET /v1/models lists them.") from None
    if model.status != "ready":
        raise InvalidSpec(_not_ready("model", model))
    return models.model_info(model)


def _not_ready(kind: str, row: Dataset | Model) -> str:
    if row.status == "failed":
        return f"{kind} {row.id} failed: {(row.error or {}).get('message', 'no reason was recorded')}"
    return f"{kind} {row.id} is still {row.status}; wait until it is ready"


def _reference_pointers(spec: JobSpec, reference: str) -> list[str]:
    """Return the JSON Pointers of the fields that reference a model."""
    student = ["/student/weights"] if spec.student.weights == reference else []
    return student + [
        f"/teachers/{k}/weights" for k, teacher in enumerate(spec.teachers) if teacher.weights == reference
    ]


# --- from rows to documents -----------------------------------------------------------------------


# Fields that a job which failed under an earlier version does not have.
_ERROR_DEFAULTS: dict[str, Any] = {"fault": None, "advice": None, "fix": None, "log": [], "machine": None}


def to_job_out(job: Job) -> JobOut:
    """Convert a job row to its response document."""
    return JobOut.model_validate(
        {
            "id": job.id,
            "name": job.name,
            "status": job.status,
            "terminal": job.is_terminal,
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
            "error": None if job.error is None else {**_ERROR_DEFAULTS, **job.error},
            "warnings": job.warnings,
            "metadata": job.metadata_,
            "result": job.result,
        }
    )


def event_out(event: Event) -> EventOut:
    """Convert an event row to its response document."""
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
    """Convert a checkpoint row to its response document."""
    return CheckpointOut(
        id=checkpoint.id,
        job=checkpoint.job_id,
        step=checkpoint.step,
        epoch=checkpoint.epoch,
        metrics=checkpoint.metrics,
        resumable=checkpoint.resumable,
        kept=checkpoint.retained,
        size_bytes=checkpoint.size_bytes,
        sha256=checkpoint.sha256,
        attempt=checkpoint.attempt,
        created_at=checkpoint.created_at,
    )


def artifact_out(artifact: Artifact) -> ArtifactOut:
    """Convert an artifact row to its response document."""
    return ArtifactOut(
        id=artifact.name,
        name=artifact.name,
        media_type=artifact.media_type,
        size_bytes=artifact.size_bytes,
        sha256=artifact.sha256,
        created_at=artifact.created_at,
    )
