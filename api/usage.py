"""``/v1/usage``: the project's usage and limits."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from api.deps import Reader, State
from api.problems import problems
from api.rate_limit import CLASSES, rate_class
from api.schemas import Out
from core.store import quotas, usage_history

MAX_DAYS = 366

router = APIRouter(prefix="/v1/usage", tags=["project"])


class UseOut(Out):
    """Usage and limit of one resource."""

    used: int
    limit: int | None = Field(description="Null: no limit.")


class UsageOut(Out):
    """The project's usage and limits. Creating more gives 403 `quota_exceeded`."""

    object: Literal["usage"] = "usage"
    jobs: UseOut = Field(description="Unfinished jobs: queued, running and paused.")
    stored_bytes: UseOut = Field(
        description="Size of datasets, models, uploads, artifacts and checkpoints. Beyond the limit, new jobs, "
        "retries and uploads are refused; running jobs continue."
    )
    max_upload_bytes: int = Field(description="Maximum size of an uploaded file; beyond it 413 `payload_too_large`.")
    requests_per_minute: dict[str, int | None] = Field(
        description="Requests per minute and key, by rate class: `reads`, `writes`, `jobs` (created), `uploads` "
        "(datasets and models created), `questions` (estimates, architecture searches). Beyond it 429 "
        "`rate_limited`. Null: no limit."
    )


class UsageDayOut(Out):
    """Usage on one day (UTC)."""

    date: date
    jobs_created: int
    jobs_ended: int = Field(description="Succeeded, failed or cancelled on this day.")
    device_seconds: float = Field(
        description="Working time of all attempts of the jobs that ended on this day, times their number of devices."
    )
    stored_bytes: int = Field(description="Size at the end of the day of the objects that still exist.")


class UsageHistoryOut(Out):
    """The project's usage by day, computed from the objects that exist: deleted jobs no longer count."""

    object: Literal["usage_history"] = "usage_history"
    days: list[UsageDayOut] = Field(description="Oldest first; the last one is today.")


@router.get("", response_model=UsageOut, responses=problems())
@rate_class("reads")
def get_usage(caller: Reader, state: State) -> UsageOut:
    """Get this project's usage and limits, and the rate limits of a key."""
    with state.database.read() as session:
        limits = quotas.load_quotas(session, caller.project_id, state.settings)
        unfinished = quotas.count_unfinished(session, caller.project_id)
        stored = quotas.get_stored_bytes(session, caller.project_id)
    return UsageOut(
        jobs=UseOut(used=unfinished, limit=limits.jobs or None),
        stored_bytes=UseOut(used=stored, limit=limits.stored_bytes or None),
        max_upload_bytes=limits.upload_bytes,
        requests_per_minute={name: state.rate_limiter.limits[name] or None for name in CLASSES},
    )


@router.get("/history", response_model=UsageHistoryOut, responses=problems())
@rate_class("reads")
def get_usage_history(
    caller: Reader,
    state: State,
    days: Annotated[int, Query(ge=1, le=MAX_DAYS, description="Number of days, today included.")] = 30,
) -> UsageHistoryOut:
    """Get this project's jobs, time on devices and stored bytes by day."""
    with state.database.read() as session:
        found = usage_history.read_days(session, caller.project_id, days)
    return UsageHistoryOut(
        days=[
            UsageDayOut(
                date=each.day,
                jobs_created=each.jobs_created,
                jobs_ended=each.jobs_ended,
                device_seconds=round(each.device_seconds, 3),
                stored_bytes=each.stored_bytes,
            )
            for each in found
        ]
    )
