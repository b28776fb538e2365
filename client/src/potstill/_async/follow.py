"""Follow a job until it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from potstill._async.runtime import sleep
from potstill.calls import retry_delay_seconds
from potstill.documents import Event
from potstill.errors import ApiError, NotReady, ServiceUnreachable
from potstill.job_progress import Curves, JobView
from potstill.outages import MAX_OUTAGE_SECONDS, OUTAGE_ERRORS, Outage

if TYPE_CHECKING:
    from potstill._async.job import AsyncJob
    from potstill._async.jobs import AsyncJobs

_CURVE_SECONDS = 2.0  # between two requests for loss and accuracy


async def follow(
    jobs: AsyncJobs, job_id: str, view: JobView, *, timeout_seconds: float | None, clock: Callable[[], float]
) -> AsyncJob:
    """Show a job's progress until it is terminal, and return the job. Continue after an outage of the service.

    Raises :class:`ServiceUnreachable` if the service does not respond at the start, or for longer than the job may
    run; :class:`NotReady` after the timeout.
    """
    job: AsyncJob | None = None
    curves, curves_at = Curves(), 0.0
    last_event_id: str | None = None
    deadline = None if timeout_seconds is None else clock() + timeout_seconds
    outage = Outage(clock, view.say)
    with view:
        while job is None or not job.terminal:
            if job is not None and deadline is not None and clock() >= deadline:
                raise NotReady(f"job {job.id} is still {job.status} after {timeout_seconds:g} s; the job goes on")
            longest = 0 if job is None and view.shows_events else view.poll_seconds  # shows the first state at once
            left = longest if deadline is None else max(0, min(longest, round(deadline - clock())))
            try:
                job = await jobs.get(job_id, wait_seconds=left)
                if view.needs_curves(job) and clock() - curves_at >= _CURVE_SECONDS:
                    metrics = await jobs.metrics(job.id, max_points=1)
                    curves, curves_at = Curves.from_series(metrics.series, job.stage), clock()
                events = await _new_events(jobs, job.id, last_event_id) if view.shows_events else []
            except OUTAGE_ERRORS as error:
                if job is None:
                    raise
                limit = (job.spec.get("resources") or {}).get("max_seconds") or MAX_OUTAGE_SECONDS
                if not outage.accepts(error, limit_seconds=float(limit)):
                    raise _give_up(job, error) from error
                await sleep(retry_delay_seconds(outage.attempt))
                continue
            outage.end()
            last_event_id = events[-1].id if events else last_event_id
            view.show(job, curves, events)
    return job


async def _new_events(jobs: AsyncJobs, job_id: str, after_id: str | None) -> list[Event]:
    return [event async for event in jobs.past_events(job_id, after_id=after_id)]


def _give_up(job: AsyncJob, error: Exception) -> Exception:
    """Return the error of a follower that gives up, which says that the job does not."""
    if isinstance(error, ApiError):
        return error
    return ServiceUnreachable(f"{error}; the job goes on. Follow it again: potstill jobs watch {job.id}")
