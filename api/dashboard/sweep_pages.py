"""The pages of sweeps: the list, and one sweep with its jobs by their varied values and its Pareto plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, BackgroundTasks
from fastapi.responses import RedirectResponse, Response

from api.dashboard import formats, plots
from api.dashboard.compare import MAX_JOBS, MIN_JOBS
from api.dashboard.comparison import COSTS, Cost, Point
from api.dashboard.endpoints import Operator, PageRoute, Viewer
from api.dashboard.rendering import page, page_url
from api.deps import After, State
from api.rate_limit import rate_class
from api.sweeps.endpoints import cancel_sweep, get_sweep, list_sweeps

SWEEPS_PER_PAGE = 50
_BUSY_SECONDS, _IDLE_SECONDS = 3.0, 15.0

router = APIRouter(include_in_schema=False, route_class=PageRoute)

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SweepRow:
    """A line of the table: a job with its values, or one of its compressed files (``artifact``)."""

    job: Document
    values: tuple[str, ...]
    figures: Document | None
    artifact: str | None
    fronts: tuple[str, ...]  # labels of the costs for which it is on the Pareto front


@router.get("/sweeps")
@rate_class("reads")
def sweeps_page(state: State, caller: Viewer, after: After = None) -> Response:
    """List the sweeps."""
    found = list_sweeps(caller, state, limit=SWEEPS_PER_PAGE, after=after)
    sweeps = [each.model_dump(mode="json") for each in found.data]
    return page(
        "sweeps.html",
        section="sweeps",
        sweeps=sweeps,
        may_write=caller.has_scope("write"),
        older=page_url("/sweeps", after=sweeps[-1]["id"]) if found.has_more else None,
        newest="/sweeps" if after else None,
        refresh_seconds=_IDLE_SECONDS if all(each["terminal"] for each in sweeps) else _BUSY_SECONDS,
    )


@router.get("/sweeps/{sweep_id}")
@rate_class("reads")
def sweep_page(state: State, caller: Viewer, sweep_id: str) -> Response:
    """Show a sweep: its jobs by their values, their figures, and accuracy against cost."""
    sweep = get_sweep(sweep_id, caller, state).model_dump(mode="json")
    jobs = sweep["jobs"]
    found = [plots.pareto_plot(points(jobs, cost), cost) for cost in COSTS]
    compared = compared_jobs(sweep)
    return page(
        "sweep.html",
        section="sweeps",
        sweep=sweep,
        headings=headings(sweep["fields"]),
        rows=rows(sweep),
        has_gain=any(job["gain"] is not None for job in jobs),
        plots=[plot for plot in found if plot is not None],
        plot_size=(plots.WIDTH, plots.HEIGHT, plots.LEFT, plots.BOTTOM),
        compare_url=f"/compare?jobs={','.join(compared)}" if len(compared) >= MIN_JOBS else None,
        num_compared=len(compared),
        has_several_datasets=len({job["dataset"] for job in jobs}) > 1,
        may_cancel=caller.has_scope("write") and not sweep["terminal"],
        refresh_seconds=0 if sweep["terminal"] else _BUSY_SECONDS,
        spec_json=json.dumps({name: sweep[name] for name in ("spec", "grid", "points")}, indent=2, ensure_ascii=False),
    )


@router.post("/sweeps/{sweep_id}/cancel")
@rate_class("writes")
def cancel(state: State, caller: Operator, background: BackgroundTasks, sweep_id: str) -> Response:
    """Cancel the jobs of a sweep that have not ended."""
    cancel_sweep(sweep_id, caller, state, background)
    return RedirectResponse(f"/sweeps/{sweep_id}", status_code=303, headers={"Cache-Control": "no-store"})


# --- pure functions ---------------------------------------------------------------------------------


def headings(fields: Sequence[str]) -> list[str]:
    """Return the last part of each field; the whole field where two have the same last part."""
    last = [field.removesuffix(".name").rpartition(".")[2] for field in fields]
    return [name if last.count(name) == 1 else field for field, name in zip(fields, last, strict=True)]


def rows(sweep: Document) -> list[SweepRow]:
    """Return the lines of the table: each job, followed by its compressed files."""
    on_front: dict[tuple[str, str | None], list[str]] = {}
    for cost, label in _FRONT_LABELS.items():
        for point in sweep["fronts"][cost]:
            on_front.setdefault((point["job"], point["artifact"]), []).append(label)
    found = []
    for job in sweep["jobs"]:
        values = tuple(_text(job["values"].get(field)) for field in sweep["fields"])
        files = [(None, job["student"]), *((entry["artifact"], entry) for entry in job["compressed"])]
        found += [
            SweepRow(job, values, figures, artifact, tuple(on_front.get((job["id"], artifact), ())))
            for artifact, figures in files
        ]
    return found


def points(jobs: Sequence[Document], cost: Cost) -> list[Point]:
    """Return the students and compressed files that have top-1 and this cost."""
    found = []
    for job in jobs:
        label = ", ".join(f"{field} {_text(value)}" for field, value in job["values"].items())
        files = [(label, job["student"], False)]
        files += [(f"{label}, {entry['artifact']}", entry, True) for entry in job["compressed"]]
        for text, figures, is_compressed in files:
            if figures and figures[cost.key] and figures["top1"] is not None:
                found.append(Point(job["number"], text, float(figures[cost.key]), figures["top1"], is_compressed))
    return found


def compared_jobs(sweep: Document) -> list[str]:
    """Return the ids of the jobs to compare: those on a front first, then by top-1, at most as many as the page takes.

    They are in the order of the sweep.
    """
    on_front = {point["job"] for cost in _FRONT_LABELS for point in sweep["fronts"][cost]}
    ended = [job for job in sweep["jobs"] if job["student"] is not None]
    ranked = sorted(ended, key=lambda job: (job["id"] not in on_front, -(job["student"]["top1"] or 0.0)))
    chosen = {job["id"] for job in ranked[:MAX_JOBS]}
    return [job["id"] for job in sweep["jobs"] if job["id"] in chosen]


_FRONT_LABELS = {"size_bytes": "size", "parameters": "parameters", "flops": "FLOPs", "latency_ms": "latency"}


def _text(value: Any) -> str:
    if value is None:
        return formats.UNKNOWN
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
