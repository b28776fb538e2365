"""``/healthz``, ``/readyz`` and ``/metrics``: for machines, without a key.

The last two ask database, store and broker. Whoever asks at the same time shares one look, so that nobody without a
key can take all threads of those who have one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any, Literal

from fastapi import APIRouter, Response

from api.deps import AppState, Parts
from api.problems import MEDIA_TYPE
from api.schemas import Out
from api.telemetry import CONTENT_TYPE
from core.broker import INSPECT_QUEUE
from core.errors import PotstillError, Unavailable
from core.ids import new_id
from core.store.jobs.records import jobs_by_status

router = APIRouter(tags=["service"])


class HealthOut(Out):
    """The process runs."""

    status: Literal["ok"]


class ReadyOut(Out):
    """The service can do its work. `degraded` names what it can do without for a while."""

    status: Literal["ready"]
    degraded: list[str]


class NotReady(Unavailable):
    """A part that the service cannot do without is missing; ``missing`` names it."""

    code = "not_ready"
    title = "The service is not ready"


_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "`not_ready`: the field `missing` names what is missing.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", response_model=HealthOut)
async def healthz() -> HealthOut:
    """Whether the process runs; it asks nobody."""
    return HealthOut(status="ok")


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", response_model=ReadyOut, responses=_NOT_READY)
async def readyz(parts: Parts) -> ReadyOut:
    """Whether requests can be served: database, artefact store, and an inspector that has answered once.

    Without its broker the service still takes jobs and loses none, so that is said but not an error.
    """
    return await parts.live.coalesce("readyz", partial(_ready, parts))


def _ready(parts: AppState) -> ReadyOut:
    missing = {what: why for what, look in _NEEDED.items() if (why := look(parts)) is not None}
    if missing:
        detail = "; ".join(f"{what}: {why}" for what, why in missing.items())
        raise NotReady(f"Not ready yet. {detail}.", extra={"missing": missing})
    up = {"broker": parts.hints.reachable()}
    up["inspector"] = up["broker"] and parts.hints.is_alive(INSPECT_QUEUE)
    return ReadyOut(status="ready", degraded=[part for part, alive in up.items() if not alive])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(parts: Parts) -> Response:
    """Metrics for Prometheus."""
    return Response(await parts.live.coalesce("metrics", partial(_rendered, parts)), media_type=CONTENT_TYPE)


def _rendered(parts: AppState) -> bytes:
    queues = parts.hints.queue_lengths()
    counts = _job_counts(parts)
    up = [("database", counts is not None), ("broker", queues is not None), ("inspector", parts.inspector.answered)]
    return parts.telemetry.render(jobs=counts, queues=queues, up=up)


def _database(parts: AppState) -> str | None:
    try:
        parts.database.ping()
        if not parts.database.schema_is_current():
            return "its schema is old; run `potstill-server migrate`"
    except PotstillError:
        return "it cannot be reached"
    return None


def _storage(parts: AppState) -> str | None:
    key = f"uploads/readiness-{new_id('req')}"  # left by a crash, it is collected as uploads are
    try:
        parts.store.put(key, BytesIO(b"ready"))
        parts.store.delete(key)
    except PotstillError as error:
        return error.detail
    return None


def _inspector(parts: AppState) -> str | None:
    return None if parts.inspector.answered else "it has not answered yet"


_NEEDED: dict[str, Callable[[AppState], str | None]] = {
    "database": _database,
    "storage": _storage,
    "inspector": _inspector,
}


def _job_counts(parts: AppState) -> dict[str, int] | None:
    try:
        with parts.database.read() as session:
            return jobs_by_status(session)
    except PotstillError:
        return None
