"""Observations of a job's changes for Prometheus: one function, called where each change is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from core.store.counters import (
    CACHE_BYTES,
    CACHE_COMPUTED_SECONDS,
    CACHE_HITS,
    CACHE_MISSES,
    CACHE_SAVED_SECONDS,
    JOB_ATTEMPTS,
    JOB_FAILURES,
    JOB_QUEUE_SECONDS,
    JOB_SECONDS,
    STAGE_SECONDS,
    Observation,
)
from core.store.tables import Job

OLD_COLUMNS = (Job.status, Job.stages, Job.worker_losses)
CACHE_EVENT = "teacher_cache.summary"  # written by the engine

# Fields of CACHE_EVENT's data (core.teacher.output_cache.CacheStats.to_json).
_CACHE_METRICS = {
    "hits": CACHE_HITS,
    "misses": CACHE_MISSES,
    "bytes": CACHE_BYTES,
    "seconds": CACHE_COMPUTED_SECONDS,
    "saved_seconds": CACHE_SAVED_SECONDS,
}


def observe_change(old: Any, job: Job) -> Iterator[Observation]:
    """Yield the observations of an update. ``old``: the row before it, with :data:`OLD_COLUMNS`."""
    method = method_name(job.spec)
    before = {stage["name"]: stage["seconds"] or 0.0 for stage in old.stages}
    for stage in job.stages:
        # A stage that a lost worker left counts no time, so it is not observed.
        if (seconds := (stage["seconds"] or 0.0) - before.get(stage["name"], 0.0)) > 0:
            yield Observation(STAGE_SECONDS, (stage["name"], method, _stage_end(old, job)), seconds)
    if old.status == job.status:
        return
    if job.status == "running":
        yield Observation(JOB_ATTEMPTS, (job.accelerator,))
        if job.attempt == 1 and job.started_at is not None:
            waited = max(0.0, (job.started_at - job.created_at).total_seconds())
            yield Observation(JOB_QUEUE_SECONDS, (job.accelerator,), waited)
    if job.is_terminal:
        worked = sum(stage["seconds"] or 0.0 for stage in job.stages)
        yield Observation(JOB_SECONDS, (method, job.status), worked)
    if job.status == "failed":
        error = job.error or {}
        yield Observation(JOB_FAILURES, (error.get("code", "unknown"), error.get("fault") or "unknown"))


def observe_event(type_: str, data: Mapping[str, Any]) -> Iterator[Observation]:
    """Yield the observations of an event that a worker reports."""
    if type_ == CACHE_EVENT:
        for field, metric in _CACHE_METRICS.items():
            yield Observation(metric, (), max(0.0, data.get(field) or 0))


def method_name(spec: Mapping[str, Any]) -> str:
    """Return the method's name of a stored spec."""
    return str((spec.get("method") or {}).get("name", "unknown"))


def _stage_end(old: Any, job: Job) -> str:
    """Return why an attempt left its stage: `finished`, `failed`, `cancelled`, `paused`, `released` or `lost`."""
    if job.status == old.status:
        return "finished"
    if job.status == "queued":
        return "lost" if job.worker_losses > old.worker_losses else "released"
    return "finished" if job.status == "succeeded" else job.status
