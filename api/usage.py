"""``/v1/usage``: what the project has, and what it may have."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import Field

from api.deps import Parts, Reader
from api.problems import problems
from api.rate_limit import CLASSES
from api.schemas import Out
from core.store import quotas

router = APIRouter(prefix="/v1/usage", tags=["project"])


class UseOut(Out):
    """How much of something there is, and may be."""

    used: int
    limit: int | None = Field(description="Null: no limit.")


class UsageOut(Out):
    """What the project has and may have. Beyond it, requests that add are answered 403 `quota_exceeded`."""

    object: Literal["usage"] = "usage"
    jobs: UseOut = Field(description="Unfinished jobs: queued, running and paused.")
    stored_bytes: UseOut = Field(
        description="Of datasets, models, artefacts and checkpoints. A running job is never ended for them: beyond the "
        "limit, new jobs, retries and uploads are refused."
    )
    max_upload_bytes: int = Field(description="Largest file of one upload; beyond it 413 `payload_too_large`.")
    requests_per_minute: dict[str, int | None] = Field(
        description="What one key may send, by class: `reads`, `writes`, `jobs` (created), `uploads` (datasets and "
        "models created), `questions` (estimates, architectures). Beyond it 429 `rate_limited`. Null: no limit."
    )


@router.get("", response_model=UsageOut, responses=problems())
def get_usage(who: Reader, parts: Parts) -> UsageOut:
    """What this project has, and what it and this key may have."""
    with parts.database.read() as session:
        limits = quotas.of_project(session, who.project_id, parts.settings)
        unfinished = quotas.unfinished(session, who.project_id)
        stored = quotas.stored(session, who.project_id)
    return UsageOut(
        jobs=UseOut(used=unfinished, limit=limits.jobs or None),
        stored_bytes=UseOut(used=stored, limit=limits.stored_bytes or None),
        max_upload_bytes=limits.upload_bytes,
        requests_per_minute={kind: parts.rates.limits[kind] or None for kind in CLASSES},
    )
