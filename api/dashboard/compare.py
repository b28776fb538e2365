"""The page that compares jobs: curves on one axis, differences of the specs, figures, and Pareto plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from fastapi.responses import Response

from api.dashboard import comparison, plots, service, views
from api.dashboard.endpoints import PageRoute, Viewer
from api.dashboard.rendering import page
from api.deps import State
from api.rate_limit import rate_class
from core.errors import InvalidRequest
from core.spec.patterns import NO_NUL

MIN_JOBS, MAX_JOBS = 2, 20

router = APIRouter(include_in_schema=False, route_class=PageRoute)

Axis = Literal["step", "time"]


@router.get("/compare")
@rate_class("reads")
def compare_page(
    state: State,
    caller: Viewer,
    selected: Annotated[list[str] | None, Query(alias="jobs", max_length=2 * MAX_JOBS)] = None,
    x: Axis = "step",
    metric: Annotated[str, Query(max_length=120, pattern=NO_NUL)] = "",
) -> Response:
    """Compare the jobs of the address, which is the complete state of the page."""
    references = [text.strip() for each in selected or [] for text in each.split(",") if text.strip()]
    if not MIN_JOBS <= len(set(references)) <= MAX_JOBS:
        raise InvalidRequest(f"Select {MIN_JOBS} to {MAX_JOBS} jobs in the list, then choose Compare.")
    jobs = service.read_jobs(state.database, caller.project_id, references)
    found = service.read_datasets(state.database, caller.project_id, {job["spec"]["dataset"] for job in jobs})
    ids = [str(job["id"]) for job in jobs]
    is_mixed = comparison.have_different_datasets(jobs)
    num_images = [(found.get(job["spec"]["dataset"]) or {}).get("num_test") for job in jobs]
    return page(
        "compare.html",
        section="jobs",
        jobs=jobs,
        x=x,
        figures=comparison.figures(jobs, num_images),
        differences=comparison.spec_differences(jobs),
        plots=[] if is_mixed else _plots(jobs),
        plot_size=(plots.WIDTH, plots.HEIGHT, plots.LEFT, plots.BOTTOM),
        curve_jobs=[_curve_job(job) for job in jobs],
        metric=metric,
        axis_urls={axis: _url(ids, axis, metric) for axis in ("step", "time")},
        removal_urls=[_url([*ids[:index], *ids[index + 1 :]], x, metric) for index in range(len(ids))],
        may_remove=len(ids) > MIN_JOBS,
        may_add=len(ids) < MAX_JOBS,
        has_several_datasets=is_mixed,
    )


def _plots(jobs: Sequence[comparison.Document]) -> list[plots.Plot]:
    found = (plots.pareto_plot(comparison.points(jobs, cost), cost) for cost in comparison.COSTS)
    return [plot for plot in found if plot is not None]


def _curve_job(job: comparison.Document) -> dict[str, Any]:
    method = json.dumps(job["spec"]["method"], sort_keys=True)
    seconds = comparison.seconds_per_step(job)
    return {"id": job["id"], "label": views.title(job), "method": method, "secondsPerStep": seconds}


def _url(ids: Sequence[str], x: str, metric: str) -> str:
    query = {"jobs": ",".join(ids)} | ({} if x == "step" else {"x": x}) | ({"metric": metric} if metric else {})
    return f"/compare?{urlencode(query, safe=',')}"
