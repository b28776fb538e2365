"""``/healthz``, ``/readyz`` and ``/metrics``: for probes and Prometheus, without a key.

The last two check database, store and broker. Concurrent requests share one check, so that clients without a key
cannot occupy all threads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any, Literal

from fastapi import APIRouter, Response

from api.deps import AppState, State
from api.problems import MEDIA_TYPE
from api.schemas import Out
from api.telemetry import CONTENT_TYPE, Values
from core.broker import INSPECT_QUEUE
from core.errors import PotstillError, Unavailable
from core.ids import new_id
from core.store import counters, jobs, outbound, webhooks, workers
from core.store.counters import Totals
from core.store.jobs.records import jobs_by_status

router = APIRouter(tags=["service"])


class HealthOut(Out):
    """The process is running."""

    status: Literal["ok"]


class ReadyOut(Out):
    """The service can process requests. `degraded` lists unavailable components that it can run without."""

    status: Literal["ready"]
    degraded: list[str]


class NotReady(Unavailable):
    """A required component is unavailable; ``missing`` names it."""

    code = "not_ready"
    title = "The service is not ready"


_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "`not_ready`: the field `missing` lists the unavailable components.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}


@router.get("/healthz", response_model=HealthOut)
async def healthz() -> HealthOut:
    """Check that the process is running; needs no other component."""
    return HealthOut(status="ok")


@router.get("/readyz", response_model=ReadyOut, responses=_NOT_READY)
async def readyz(state: State) -> ReadyOut:
    """Check that requests can be served: database, artifact store, and an inspector that has answered once.

    Without its broker the service still accepts jobs and loses none, so that is `degraded` and not an error.
    """
    return await state.watcher.coalesce("readyz", partial(_check_readiness, state))


def _check_readiness(state: AppState) -> ReadyOut:
    missing = {name: reason for name, check in _CHECKS.items() if (reason := check(state)) is not None}
    if missing:
        detail = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        raise NotReady(f"Not ready yet. {detail}.", extra={"missing": missing})
    is_up = {"broker": state.broker.is_reachable()}
    is_up["inspector"] = is_up["broker"] and state.broker.is_alive(INSPECT_QUEUE)
    return ReadyOut(status="ready", degraded=[name for name, up in is_up.items() if not up])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(state: State) -> Response:
    """Metrics for Prometheus."""
    return Response(await state.watcher.coalesce("metrics", partial(_render_metrics, state)), media_type=CONTENT_TYPE)


def _render_metrics(state: AppState) -> bytes:
    queues = state.broker.queue_lengths()
    stored, totals = _stored_values(state) or (None, None)
    up = {"database": stored is not None, "broker": queues is not None, "inspector": state.inspector.has_answered}
    gauges: dict[str, Values] = dict(stored or {})
    gauges["potstill_queue_messages"] = {(queue,): length for queue, length in (queues or {}).items()}
    gauges["potstill_part_up"] = {(part,): is_up for part, is_up in up.items()}
    return state.telemetry.render(gauges, totals)


def _check_database(state: AppState) -> str | None:
    try:
        state.database.ping()
        if not state.database.schema_is_current():
            return "its schema is outdated; run `potstill-server migrate`"
    except PotstillError:
        return "it is unreachable"
    return None


def _check_storage(state: AppState) -> str | None:
    key = f"uploads/readiness-{new_id('req')}"  # garbage collection deletes a file left by a crash
    try:
        state.store.put(key, BytesIO(b"ready"))
        state.store.delete(key)
    except PotstillError as error:
        return error.detail
    return None


def _check_inspector(state: AppState) -> str | None:
    return None if state.inspector.has_answered else "it has not answered yet"


# Each check returns None, or the reason why the component is unavailable.
_CHECKS: dict[str, Callable[[AppState], str | None]] = {
    "database": _check_database,
    "storage": _check_storage,
    "inspector": _check_inspector,
}


def _stored_values(state: AppState) -> tuple[dict[str, Values], Totals] | None:
    """Return the gauges and the totals that are read from the database; None if it is unavailable."""
    try:
        with state.database.read() as session:
            backlog = webhooks.get_backlog(session)
            alive = workers.list_workers(session, alive_seconds=state.settings.alive_seconds)
            gauges: dict[str, Values] = {
                "potstill_jobs": {(status,): number for status, number in jobs_by_status(session).items()},
                "potstill_unfinished_jobs": jobs.count_unfinished(session),
                "potstill_queue_age_seconds": {(name,): age for name, age in jobs.queue_ages(session).items()},
                "potstill_webhook_deliveries": {("pending",): backlog.num_pending},
                "potstill_webhook_due_seconds": {("pending",): backlog.oldest_due_seconds},
                "potstill_outbound_tasks": dict(outbound.count_pending(session)),
                "potstill_workers": Counter(
                    (worker.role, worker.accelerator or "none", workers.get_state(worker)) for worker in alive
                ),
            }
            return gauges, counters.read(session)
    except PotstillError:
        return None
