"""The tasks: names and signatures. A hint carries nothing; a question carries its payload."""

from __future__ import annotations

from typing import Any

from celery import shared_task

from core.broker import DATASETS_WAKE, INSPECT_PREFIX, JOBS_WAKE, MODELS_WAKE
from worker.ingest import parent as ingest_parent
from worker.jobs import parent as job_parent


@shared_task(name=JOBS_WAKE)  # type: ignore[untyped-decorator]
def claim_job() -> None:
    """Claim the best queued job of this worker's accelerator and stay with it to its end."""
    job_parent.run_next()


@shared_task(name=DATASETS_WAKE)  # type: ignore[untyped-decorator]
def claim_dataset() -> None:
    """Claim a dataset that waits to be taken in, and take it in."""
    ingest_parent.take_next(ingest_parent.DATASETS)


@shared_task(name=MODELS_WAKE)  # type: ignore[untyped-decorator]
def claim_model() -> None:
    """Claim an uploaded model that waits to be checked, and check it."""
    ingest_parent.take_next(ingest_parent.MODELS)


def _question(name: str) -> None:
    @shared_task(name=INSPECT_PREFIX + name, ignore_result=False)  # type: ignore[untyped-decorator]
    def _answer(payload: dict[str, Any]) -> dict[str, Any]:
        from worker.inspector import answer  # torch: imported by the pool's process when it started

        return answer(name, payload)


for _name in ("ping", "resolve", "architectures"):
    _question(_name)
