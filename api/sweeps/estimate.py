"""Estimate of a sweep: the sum of its jobs, where what several jobs share counts once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from api.jobs.reuse import trained_entries
from api.sweeps.schemas import SweepEstimateOut, SweepJobEstimateOut
from core.job_warnings import JobWarning, merge_warnings
from core.spec import JobSpec


@dataclass(frozen=True, slots=True)
class JobEstimate:
    """A resolved job of a sweep, and its response of ``POST /v1/estimates`` with the key of its teacher cache."""

    number: int
    values: dict[str, Any]
    spec: dict[str, Any]
    estimate: dict[str, Any]
    cache_key: str | None


@dataclass(slots=True)
class _Shared:
    """What the jobs so far leave for later ones: cached views by key, and recipes of teachers and baselines."""

    views: dict[str, int] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)

    def take(self, job: JobEstimate) -> float:
        """Return the seconds that a job saves, and add what it leaves itself."""
        trained = trained_entries(JobSpec.model_validate(job.spec), job.estimate)
        seconds: float = sum(
            entry["seconds"] for recipe, entry in trained if not entry["reused"] and not self._is_new(recipe)
        )
        return self._cached_seconds(job) + seconds

    def _cached_seconds(self, job: JobEstimate) -> float:
        cache = job.estimate["teacher_cache"]
        views: int = cache["views"]
        if job.cache_key is None or cache["hit"] or not views:
            return 0.0
        known = self.views.get(job.cache_key, 0)
        self.views[job.cache_key] = max(known, views)
        seconds: float = cache["seconds"]
        return seconds * min(known, views) / views

    def _is_new(self, recipe: str) -> bool:
        is_new = recipe not in self.trained
        self.trained.add(recipe)
        return is_new


def estimate_sweep(jobs: Sequence[JobEstimate], fields: Sequence[str]) -> SweepEstimateOut:
    """Add up the estimates of the jobs, in the order in which workers claim them."""
    shared = _Shared()
    saved = {job.number: shared.take(job) for job in jobs}
    rows = [_row(job, saved[job.number]) for job in sorted(jobs, key=lambda job: job.number)]
    warnings: list[dict[str, Any]] = []
    for job in jobs:
        warnings = merge_warnings(warnings, [JobWarning.model_validate(each) for each in job.estimate["warnings"]])
    memory = [row.memory_bytes for row in rows if row.memory_bytes is not None]
    return SweepEstimateOut(
        num_jobs=len(rows),
        fields=list(fields),
        seconds=round(sum(row.seconds for row in rows), 1),
        shared_seconds=round(sum(saved.values()), 1),
        memory_bytes=max(memory, default=None),
        jobs=rows,
        warnings=[JobWarning.model_validate(each) for each in warnings],
    )


def _row(job: JobEstimate, saved_seconds: float) -> SweepJobEstimateOut:
    student = job.estimate["student"]
    return SweepJobEstimateOut(
        number=job.number,
        name=job.spec["name"],
        values=job.values,
        seconds=round(max(0.0, job.estimate["seconds"] - saved_seconds), 1),
        memory_bytes=job.estimate["memory_bytes"],
        total_steps=job.estimate["total_steps"],
        student={name: student[name] for name in ("parameters", "flops", "size_bytes")},
    )
