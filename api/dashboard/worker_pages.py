"""The page of workers and queues: which process runs which job on which device, and what waits."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from api.dashboard import service
from api.dashboard.endpoints import PageRoute, Viewer
from api.dashboard.rendering import page
from api.deps import State
from api.rate_limit import rate_class
from api.workers import list_workers
from core.store.jobs import JobFilter, JobOrder

REFRESH_SECONDS = 5
NUM_WAITING = 10  # of the oldest queued jobs

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/workers")
@rate_class("reads")
def workers_page(state: State, caller: Viewer) -> Response:
    """Show the live processes, the queues and the oldest waiting jobs."""
    found = list_workers(caller, state)
    waiting = service.list_jobs(
        state.database,
        caller.project_id,
        JobFilter(statuses=("queued",)),
        order=JobOrder("created_at", descending=False),
        limit=NUM_WAITING,
    )
    processes: list[dict[str, Any]] = [worker.model_dump(mode="json") for worker in found.data]
    roles = ("worker", "ingest", "inspector", "scheduler")
    order = {role: index for index, role in enumerate(roles)}
    return page(
        "workers.html",
        section="workers",
        processes=sorted(processes, key=lambda each: (order.get(each["role"], len(roles)), each["host"], each["id"])),
        missing=[role for role in roles if all(each["role"] != role for each in processes)],
        queues=found.queues,
        queued_jobs=found.queued_jobs,
        waiting=waiting.jobs,
        refresh_seconds=REFRESH_SECONDS,
    )
