"""Logic of the sweep endpoints, without HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from api.jobs import service as jobs
from api.pareto import pareto_front
from api.sweeps.estimate import JobEstimate
from api.sweeps.preparation import PreparedJob, in_claim_order
from api.sweeps.schemas import CostName, SweepCreate, SweepOut, SweepSummaryOut
from core.settings import Settings
from core.store import audit, quotas, sweeps
from core.store.db import Session
from core.store.keys import Caller
from core.store.sweep_progress import STATUSES, Counts, count_jobs, is_finished
from core.store.sweep_tables import Sweep
from core.store.sweeps import JobRow
from core.store.tables import TERMINAL_STATUSES

COSTS: tuple[CostName, ...] = get_args(CostName)

Document = Mapping[str, Any]


def create(
    session: Session, caller: Caller, request: SweepCreate, prepared: Sequence[PreparedJob], settings: Settings
) -> Sweep:
    """Create a sweep with all its jobs, in this transaction. Raises :class:`QuotaExceeded`, :class:`InvalidSpec`."""
    quotas.require_job_slot(session, caller.project_id, settings, num_jobs=len(prepared))
    sweep = sweeps.create(
        session,
        caller.project_id,
        name=request.name or prepared[0].point.base_name,
        spec=request.spec,
        grid=request.grid,
        points=request.points,
        fields=list(prepared[0].point.values),
        num_jobs=len(prepared),
    )
    for each in in_claim_order(prepared):
        job = jobs.create(
            session,
            caller,
            each.spec,
            each.inputs,
            each.resolution,
            sweep_id=sweep.id,
            sweep_point={"number": each.point.number, "values": each.point.values},
        )
        audit.record(session, caller, "job.create", job.id)
    return sweep


def job_estimate(prepared: PreparedJob, estimate: dict[str, Any], resolved: dict[str, Any]) -> JobEstimate:
    """Return the estimate of one job, given its response of ``POST /v1/estimates``."""
    point = prepared.point
    return JobEstimate(point.number, point.values, resolved, estimate, prepared.cache_key)


# --- from rows to documents -----------------------------------------------------------------------


def to_summaries(session: Session, found: Sequence[Sweep]) -> list[SweepSummaryOut]:
    """Convert sweeps to documents without their jobs."""
    ids = [sweep.id for sweep in found]
    counts, fractions = count_jobs(session, ids), sweeps.running_fractions(session, ids)
    return [SweepSummaryOut.model_validate(_summary(sweep, counts[sweep.id], fractions[sweep.id])) for sweep in found]


def to_sweep_out(session: Session, sweep: Sweep) -> SweepOut:
    """Convert a sweep to its response document, with its jobs and their Pareto fronts."""
    rows = sweeps.list_jobs(session, sweep.id)
    counts = dict.fromkeys(STATUSES, 0)
    for row in rows:
        counts[row.status] += 1
    fraction = sum(row.progress["fraction"] for row in rows if row.status not in TERMINAL_STATUSES)
    documents = [_job(row) for row in rows]
    return SweepOut.model_validate(
        {
            **_summary(sweep, counts, fraction),
            "spec": sweep.spec,
            "grid": sweep.grid,
            "points": sweep.points,
            "jobs": documents,
            "fronts": {cost: front(documents, cost) for cost in COSTS},
        }
    )


def front(documents: Sequence[Document], cost: CostName) -> list[dict[str, Any]]:
    """Return the Pareto front of top-1 against a cost: students and compressed files of the jobs of a sweep."""
    by_dataset: dict[str, list[dict[str, Any]]] = {}
    for job in documents:
        at = {"job": job["id"], "number": job["number"]}
        files = [(None, job["student"] or {}), *((entry["artifact"], entry) for entry in job["compressed"])]
        by_dataset.setdefault(job["dataset"], []).extend(
            {**at, **_measured(figures), "artifact": artifact}
            for artifact, figures in files
            if figures.get(cost) is not None and figures.get("top1") is not None
        )
    fronts = (
        pareto_front(each, cost=lambda point: float(point[cost]), value=lambda point: float(point["top1"]))
        for each in by_dataset.values()
    )
    return [point for each in fronts for point in each]


def _summary(sweep: Sweep, counts: Counts, running_fraction: float) -> dict[str, Any]:
    num_jobs = sum(counts.values())
    num_ended = sum(counts[status] for status in TERMINAL_STATUSES)
    return {
        "id": sweep.id,
        "name": sweep.name,
        "status": _status(counts),
        "terminal": is_finished(counts),
        "counts": counts,
        "progress": {"fraction": min(1.0, (num_ended + running_fraction) / num_jobs) if num_jobs else 1.0},
        "num_jobs": sweep.num_jobs,
        "fields": sweep.fields,
        "created_at": sweep.created_at,
        "finished_at": sweep.finished_at,
    }


def _status(counts: Counts) -> str:
    if is_finished(counts):
        return "finished"
    has_ended = any(counts[status] for status in TERMINAL_STATUSES)
    if counts["running"] or (counts["queued"] and has_ended):
        return "running"
    return "queued" if counts["queued"] else "paused"


def _job(row: JobRow) -> dict[str, Any]:
    result = row.result or {}
    applied = [entry for entry in result.get("compressed") or [] if entry.get("artifact") is not None]
    error = row.error
    return {
        "id": row.id,
        "name": row.name,
        "number": row.sweep_point["number"],
        "values": row.sweep_point["values"],
        "status": row.status,
        "stage": row.stage,
        "progress": {"fraction": row.progress["fraction"]},
        "dataset": row.dataset_id,
        "error": None if error is None else {"code": error["code"], "message": error["message"]},
        "student": _measured(result["student"]) if result else None,
        "gain": (result.get("baseline") or {}).get("gain"),
        "compressed": [{"artifact": entry["artifact"], **_measured(entry)} for entry in applied],
        "started_at": row.started_at,
        "finished_at": row.finished_at,
    }


def _measured(figures: Document) -> dict[str, Any]:
    return {name: figures.get(name) for name in ("top1", "top5", "parameters", "flops", "size_bytes", "latency_ms")}
