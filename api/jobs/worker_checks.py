"""Checks of a job against the live workers: accelerator, devices and memory."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import FieldError, InvalidSpec
from core.job_warnings import EXCEEDS_MEMORY, JobWarning
from core.spec import JobSpec
from core.store import workers
from core.store.db import Session
from core.store.tables import Job
from core.store.workers import Capacity


def worker_warnings(spec: JobSpec, capacity: Capacity) -> list[JobWarning]:
    """Return why a job may wait or fail on the live workers of its accelerator."""
    accelerator, devices = spec.resources.accelerator, spec.resources.devices
    if accelerator != "auto" and not capacity.num_workers:
        message = f"no {accelerator} worker is alive: the job waits until one starts"
        fix = f"start a worker for {accelerator}, or set accelerator to auto"
        return [JobWarning(code="no_worker", field="/resources/accelerator", message=message, fix=fix)]
    if accelerator == "cuda" and capacity.devices is not None and devices > capacity.devices:
        message = f"the job asks for {devices} devices, and the largest live worker has {capacity.devices}"
        fix = f"lower devices to {capacity.devices}"
        return [JobWarning(code="too_few_devices", field="/resources/devices", message=message, fix=fix)]
    return []


def require_memory(warnings: list[JobWarning]) -> None:
    """Raise InvalidSpec if a job needs more memory than any of its workers has."""
    errors = [FieldError(w.field or "", w.text) for w in warnings if w.code == EXCEEDS_MEMORY]
    if errors:
        raise InvalidSpec.for_fields(errors)


def waiting_reasons(session: Session, jobs: Sequence[Job], *, alive_seconds: float) -> dict[str, str]:
    """Return why queued jobs do not run, by id; nothing for other jobs and where a worker is about to claim one."""
    queued = [job for job in jobs if job.status == "queued"]
    reasons = {
        accelerator: _waiting_reason(accelerator, workers.capacity(session, accelerator, alive_seconds=alive_seconds))
        for accelerator in {job.accelerator for job in queued}
    }
    return {job.id: reason for job in queued if (reason := reasons[job.accelerator]) is not None}


def _waiting_reason(accelerator: str, capacity: Capacity) -> str | None:
    kind = "worker" if accelerator == "auto" else f"{accelerator} worker"
    if not capacity.num_workers:
        return f"No {kind} is alive."
    if capacity.num_busy == capacity.num_workers:
        return f"Every {kind} is busy ({capacity.num_workers})."
    return None
