"""Logic of the job endpoints, without HTTP: it takes values and a database, so it can run in a shell too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from api.deps import AppState
from api.inspector import Inspector
from api.jobs.references import with_full_ids
from api.jobs.schemas import ArtifactOut, CheckpointOut, EventOut, JobLogOut, JobOut
from api.jobs.worker_checks import require_memory, worker_warnings
from core import tracing
from core.errors import FieldError, InvalidRequest, InvalidSpec, NotFound, StoredFileDamaged
from core.job_warnings import JobWarning, merge_warnings
from core.models.safetensors_header import parse_model_info
from core.spec import JobSpec
from core.spec.info import DatasetInfo, ModelInfo
from core.spec.references import complete_references
from core.store import checkpoints, datasets, jobs, models, workers
from core.store.artifact_store import ArtifactStore
from core.store.db import Database, Session
from core.store.job_log_tables import JobLog
from core.store.keys import Caller
from core.store.tables import Artifact, Checkpoint, Dataset, Event, Job, Model

Resolution = dict[str, Any]  # `spec` and `estimate`, from the inspector


class Inputs(NamedTuple):
    """Inputs of a spec: datasets and models by id, and the live workers that can run it.

    ``warnings`` are those of the dataset and of the workers. ``memory_bytes`` is the memory of the largest worker, or
    of a worker of this machine if none is alive; None: unlimited.
    """

    datasets: dict[str, DatasetInfo]
    models: dict[str, ModelInfo]
    warnings: tuple[JobWarning, ...] = ()
    memory_bytes: int | None = None
    has_workers: bool = False


# --- from a spec to a job -------------------------------------------------------------------------


def find_inputs(
    database: Database, store: ArtifactStore, project_id: str, spec: JobSpec, *, max_seconds: float = 0.0
) -> Inputs:
    """Read the datasets and models that the spec references by full ids. The store has the infos of checkpoints.

    Raises :class:`InvalidSpec` that names each input which is missing or not ready, and a requested run time beyond
    ``max_seconds`` (0: no limit).
    """
    errors: list[FieldError] = _run_time_errors(spec, max_seconds)
    dataset_infos: dict[str, DatasetInfo] = {}
    model_infos: dict[str, ModelInfo] = {}
    warnings: list[JobWarning] = []
    found_checkpoints: dict[str, Checkpoint] = {}
    with database.read() as session:
        for at, dataset_id in spec.datasets().items():
            try:
                dataset_infos[dataset_id], found = _dataset_info(session, project_id, dataset_id)
                warnings += found if at == "/dataset" else []
            except InvalidSpec as error:
                errors.append(FieldError(at, error.detail))
        for reference in spec.references():
            try:
                if reference.startswith("ckpt_"):
                    found_checkpoints[reference] = _checkpoint(session, project_id, reference)
                else:
                    model_infos[reference] = _model_info(session, project_id, reference)
            except InvalidSpec as error:
                errors.extend(FieldError(at, error.detail) for at in _reference_pointers(spec, reference))
    for reference, checkpoint in found_checkpoints.items():  # no transaction waits for the store
        try:
            model_infos[reference] = _checkpoint_info(store, checkpoint)
        except InvalidSpec as error:
            errors.extend(FieldError(at, error.detail) for at in _reference_pointers(spec, reference))
    if errors:
        raise InvalidSpec.for_fields(errors)
    return Inputs(dataset_infos, model_infos, tuple(warnings))


def read_inputs(state: AppState, project_id: str, spec: JobSpec) -> tuple[JobSpec, Inputs]:
    """Return the spec with full ids instead of names and id prefixes, and its inputs with the live workers.

    Raises :class:`AmbiguousReference`, and as :func:`find_inputs`, with this service's limits.
    """
    settings = state.settings
    with state.database.read() as session:
        spec = with_full_ids(session, project_id, spec)
        capacity = workers.capacity(session, spec.resources.accelerator, alive_seconds=settings.alive_seconds)
    inputs = find_inputs(state.database, state.store, project_id, spec, max_seconds=settings.max_job_seconds)
    return spec, inputs._replace(
        warnings=(*inputs.warnings, *worker_warnings(spec, capacity)),
        memory_bytes=capacity.memory_bytes if capacity.num_workers else settings.job_memory_bytes or None,
        has_workers=capacity.num_workers > 0,
    )


async def resolve(inspector: Inspector, spec: JobSpec, inputs: Inputs, *, threads: int) -> Resolution | None:
    """Return the spec with all defaults and its estimate, or None if the inspector is unavailable.

    Raises :class:`InvalidSpec` for an invalid combination, and for a job that needs more memory than any live worker
    has.
    """
    resolution = await inspector.call_if_available("resolve", resolve_payload(spec, inputs, threads=threads))
    if resolution is not None and inputs.has_workers:
        require_memory(resolution_warnings(resolution, inputs))
    return resolution


async def resolve_many(
    inspector: Inspector, requested: Sequence[tuple[JobSpec, Inputs]], *, threads: int
) -> list[Resolution | InvalidRequest | None]:
    """Return for each spec what :func:`resolve` returns, or the error that it raises, with few calls."""
    payloads = [resolve_payload(spec, inputs, threads=threads) for spec, inputs in requested]
    responses = await inspector.resolve_many(payloads)
    return [_checked(response, inputs) for response, (_, inputs) in zip(responses, requested, strict=True)]


def _checked(response: Resolution | InvalidRequest | None, inputs: Inputs) -> Resolution | InvalidRequest | None:
    """Return a response of the inspector, or the error of a job that needs more memory than any live worker has."""
    if isinstance(response, dict) and inputs.has_workers:
        try:
            require_memory(resolution_warnings(response, inputs))
        except InvalidRequest as error:
            return error
    return response


def resolve_payload(spec: JobSpec, inputs: Inputs, *, threads: int) -> dict[str, Any]:
    """Return the payload of the inspector's call ``resolve``."""
    # A format that the client names must be written; a default one is left out where it cannot be.
    default_export = None if "export" in spec.model_fields_set else {"export"}
    further_datasets = {
        each: inputs.datasets[each].model_dump(mode="json") for each in spec.further_datasets().values()
    }
    return {
        "spec": spec.model_dump(mode="json", exclude=default_export),
        "dataset": inputs.datasets[spec.dataset].model_dump(mode="json"),
        "datasets": further_datasets,
        "models": {name: info.model_dump(mode="json") for name, info in inputs.models.items()},
        "threads": threads,
        "memory_bytes": inputs.memory_bytes,
    }


def spec_document(spec: JobSpec, inputs: Inputs, resolution: Resolution | None) -> dict[str, Any]:
    """Return the spec that a job stores: the resolved one, or else the client's with the architectures filled in."""
    if resolution is not None:
        document: dict[str, Any] = resolution["spec"]
        return document
    return complete_references(spec, inputs.models).model_dump(mode="json")


def create(
    session: Session,
    caller: Caller,
    spec: JobSpec,
    inputs: Inputs,
    resolution: Resolution | None,
    *,
    sweep_id: str | None = None,
    sweep_point: Mapping[str, Any] | None = None,
) -> Job:
    """Queue the job. Without a resolution, its worker resolves the spec first.

    ``sweep_point``: number and values of a job that belongs to a sweep.
    """
    document = spec_document(spec, inputs, resolution)
    return jobs.create(
        session,
        caller.project_id,
        spec=document,
        resolved=resolution is not None,
        dataset_id=spec.dataset,
        references=(*spec.references(), *spec.further_datasets().values()),
        name=spec.name,
        priority=spec.priority,
        accelerator=spec.resources.accelerator,
        metadata=spec.metadata,
        total_steps=None if resolution is None else resolution["estimate"]["total_steps"],
        warnings=resolution_warnings(resolution, inputs),
        sweep_id=sweep_id,
        sweep_point=sweep_point,
        request_id=caller.request_id or None,
        traceparent=tracing.current_traceparent(),
    )


def resolution_warnings(resolution: Resolution | None, inputs: Inputs) -> list[JobWarning]:
    """Return the warnings of the estimate and of the inputs; only the latter before the spec is resolved."""
    entries = [] if resolution is None else resolution["estimate"]["warnings"]
    return [*(JobWarning.model_validate(entry) for entry in entries), *inputs.warnings]


def add_input_warnings(estimate: dict[str, Any], inputs: Inputs) -> dict[str, Any]:
    """Return an estimate with the warnings of its inputs."""
    return {**estimate, "warnings": merge_warnings(estimate["warnings"], inputs.warnings)}


def _run_time_errors(spec: JobSpec, limit: float) -> list[FieldError]:
    requested = spec.resources.max_seconds
    if not limit or requested is None or requested <= limit:
        return []
    return [FieldError("/resources/max_seconds", f"this service limits jobs to {limit:g} s; request at most that")]


def _dataset_info(session: Session, project_id: str, dataset_id: str) -> tuple[DatasetInfo, list[JobWarning]]:
    """Return a ready dataset and its warnings, as warnings of the spec's field. Raises InvalidSpec."""
    try:
        dataset = datasets.get(session, project_id, dataset_id)
    except NotFound as error:
        raise InvalidSpec(f"{error.detail} GET /v1/datasets lists them.") from None
    if dataset.status != "ready":
        raise InvalidSpec(_not_ready("dataset", dataset))
    splits = dataset.splits or {}
    info = DatasetInfo.model_validate(
        {
            "num_classes": dataset.num_classes,
            "classes": dataset.classes,
            "channels": dataset.channels,
            "image_size": dataset.image_size,
            "num_train": splits["train"]["num_samples"],
            "num_test": splits.get("test", {}).get("num_samples", 0),
            "license": dataset.license,
        }
    )
    return info, [JobWarning.model_validate({**entry, "field": "/dataset"}) for entry in dataset.warnings]


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


def _checkpoint(session: Session, project_id: str, reference: str) -> Checkpoint:
    """Return a checkpoint of a student, detached from its session. Raises InvalidSpec."""
    try:
        checkpoint = checkpoints.find(session, project_id, reference)
    except NotFound as error:
        raise InvalidSpec(
            f"{error.detail} A job retains its newest two, and one every training.keep_weights_every_epochs. "
            "GET /v1/jobs/{job_id}/checkpoints lists them."
        ) from None
    session.expunge(checkpoint)
    return checkpoint


def _checkpoint_info(store: ArtifactStore, checkpoint: Checkpoint) -> ModelInfo:
    files = {file.name: file for file in checkpoints.model_files(checkpoint)}
    config = files.get(checkpoints.CONFIG_NAME)
    if config is None:
        raise InvalidSpec(
            f"checkpoint {checkpoint.id} was saved by an earlier version, without the arguments of its network; "
            "download its weights and create a model from them (POST /v1/models)"
        )
    try:
        content = b"".join(store.open(config.key))
    except StoredFileDamaged:
        raise InvalidSpec(f"checkpoint {checkpoint.id} has just been deleted; start from a newer one") from None
    return parse_model_info(content, size_bytes=files[checkpoints.WEIGHTS_NAME].size_bytes, name=checkpoint.id)


def _not_ready(kind: str, row: Dataset | Model) -> str:
    if row.status == "failed":
        return f"{kind} {row.id} failed: {(row.error or {}).get('message', 'no reason was recorded')}"
    return f"{kind} {row.id} is still {row.status}; wait until it is ready"


def _reference_pointers(spec: JobSpec, reference: str) -> list[str]:
    """Return the JSON Pointers of the fields that reference a model."""
    return [f"{at}/weights" for at, model in spec.models().items() if model.weights == reference]


# --- from rows to documents -----------------------------------------------------------------------


# Fields that a job which failed under an earlier version does not have.
_ERROR_DEFAULTS: dict[str, Any] = {
    "fault": None,
    "retryable": True,
    "advice": None,
    "fix": None,
    "log": [],
    "machine": None,
}


def to_job_out(job: Job, *, waiting_reason: str | None = None) -> JobOut:
    """Convert a job row to its response document."""
    return JobOut.model_validate(
        {
            "id": job.id,
            "name": job.name,
            "status": job.status,
            "terminal": job.is_terminal,
            "next_actions": jobs.next_actions(job),
            "pending_action": job.pending_action,
            "waiting_reason": waiting_reason,
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
            "sweep": job.sweep_id,
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


def log_out(job_id: str, found: JobLog | None) -> JobLogOut:
    """Convert the row of a job's log, if there is one, to its response document."""
    if found is None:
        return JobLogOut(job=job_id, attempt=None, lines=[], updated_at=None)
    return JobLogOut(job=job_id, attempt=found.attempt, lines=found.lines, updated_at=found.updated_at)


def artifact_out(artifact: Artifact) -> ArtifactOut:
    """Convert an artifact row to its response document."""
    return ArtifactOut(
        id=artifact.name,
        name=artifact.name,
        media_type=artifact.media_type,
        size_bytes=artifact.size_bytes,
        sha256=artifact.sha256,
        receipt=artifact.receipt,
        created_at=artifact.created_at,
    )
