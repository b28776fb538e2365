"""The tasks: names and signatures. A hint carries nothing; a question carries its payload."""

from __future__ import annotations

from typing import Any

from celery import shared_task

from core.queue import DATASETS_LOOK, INSPECT_PREFIX, JOBS_LOOK, MODELS_LOOK
from worker import intake, jobs


@shared_task(name=JOBS_LOOK)  # type: ignore[untyped-decorator]
def look_for_jobs() -> None:
    """Claim the best queued job of this worker's accelerator and stay with it to its end."""
    jobs.run_next()


@shared_task(name=DATASETS_LOOK)  # type: ignore[untyped-decorator]
def look_for_datasets() -> None:
    """Claim a dataset that waits to be taken in, and take it in."""
    intake.take_next(intake.DATASETS)


@shared_task(name=MODELS_LOOK)  # type: ignore[untyped-decorator]
def look_for_models() -> None:
    """Claim an uploaded model that waits to be checked, and check it."""
    intake.take_next(intake.MODELS)


def _question(name: str) -> None:
    @shared_task(name=INSPECT_PREFIX + name, ignore_result=False)  # type: ignore[untyped-decorator]
    def _answer(payload: dict[str, Any]) -> dict[str, Any]:
        from worker.inspector import answer  # torch: imported by the pool's process when it started

        return answer(name, payload)


for _name in ("ping", "resolve", "architectures"):
    _question(_name)
