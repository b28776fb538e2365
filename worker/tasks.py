"""The Celery tasks. A wake message has no payload; an inspector call carries its payload and returns a result."""

from __future__ import annotations

from typing import Any, get_args

from celery import shared_task

from core import tracing
from core.broker import DATASETS_WAKE, INSPECT_PREFIX, JOBS_WAKE, MODELS_WAKE, InspectorCall
from worker.cache_filling.parent import CACHE_FILLING
from worker.claim_loop import run_next
from worker.ingest.parent import DATASETS, MODELS
from worker.jobs.parent import JOBS

_PROCESSOR_FRACTION = 0.85  # of an inspector call's time, so that an idle machine reaches this limit first


@shared_task(name=JOBS_WAKE)  # type: ignore[untyped-decorator]
def claim_job() -> None:
    """Claim the next queued job of this worker's accelerator and monitor its process until it ends.

    Without a queued job, compute teacher outputs for a job of another worker.
    """
    if not run_next(JOBS):
        run_next(CACHE_FILLING)


@shared_task(name=DATASETS_WAKE)  # type: ignore[untyped-decorator]
def claim_dataset() -> None:
    """Claim a dataset that waits for its ingest and monitor its process until it ends."""
    run_next(DATASETS)


@shared_task(name=MODELS_WAKE)  # type: ignore[untyped-decorator]
def claim_model() -> None:
    """Claim an uploaded model that waits for its check and monitor its process until it ends."""
    run_next(MODELS)


def _register_inspector_task(name: str) -> None:
    @shared_task(name=INSPECT_PREFIX + name, ignore_result=False, bind=True)  # type: ignore[untyped-decorator]
    def _call(task: Any, payload: dict[str, Any]) -> dict[str, Any]:
        from worker.inspector import handle_call  # torch: imported by the pool's process when it started

        _, wall_seconds = task.request.timelimit or (None, None)
        limits = {} if wall_seconds is None else _limits(wall_seconds)
        parent = task.request.get(tracing.TRACEPARENT)
        with tracing.span(f"{INSPECT_PREFIX}{name}", parent=parent, kind=tracing.SpanKind.CONSUMER):
            return handle_call(name, payload, **limits)


def _limits(wall_seconds: float) -> dict[str, float]:
    """Return the limits of a call: the last of several specs that starts has all its processor time left."""
    processor_seconds = _PROCESSOR_FRACTION * wall_seconds
    return {"processor_seconds": processor_seconds, "start_seconds": wall_seconds - processor_seconds}


for _name in get_args(InspectorCall):
    _register_inspector_task(_name)
