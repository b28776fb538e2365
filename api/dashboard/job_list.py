"""The job list: search, filters, orders, columns, and actions on several jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, BackgroundTasks, Form, Request
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.datastructures import QueryParams

from api.dashboard import service, views
from api.dashboard.endpoints import Operator, PageRoute, Viewer
from api.dashboard.job_columns import COLUMNS, DEFAULT_COLUMNS, chosen_columns
from api.dashboard.rendering import page, see_other
from api.deps import AppState, Caller, State
from api.downloads import discard
from api.jobs.actions import apply_action
from api.jobs.filters import JobListQuery
from api.problems import from_validation_error
from api.rate_limit import rate_class
from core.errors import InvalidRequest, PotstillError
from core.spec import METHODS
from core.store import jobs

JOBS_PER_PAGE = 50
MAX_BULK_JOBS = 100
_COLUMNS_COOKIE = "potstill_columns"
_COOKIE_SECONDS = 365 * 86_400
_TABS = (("", "All"), *((status, status.capitalize()) for status in views.STATUSES))
_REPEATABLE = frozenset({"status", "method", "metadata"})
_DATES = ("created_after", "created_before")

BulkAction = Literal["cancel", "delete"]

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@dataclass(frozen=True, slots=True)
class ListAddress:
    """Addresses of the list with other parameters. ``params`` are those of the current address, without the page."""

    params: Mapping[str, Sequence[str]]

    def url(self, **changes: str | None) -> str:
        """Return the address with these parameters replaced; None removes one."""
        return self._with({name: [] if value is None else [value] for name, value in changes.items()})

    def without(self, name: str, value: str) -> str:
        """Return the address without one value of a filter."""
        return self._with({name: [other for other in self.params.get(name, ()) if other != value]})

    def sorted_by(self, sort: str, query: JobListQuery) -> str:
        """Return the address of the order by a value; of the opposite direction if it is the order now."""
        is_reversed = query.sort == sort and query.order == "desc"
        is_default = sort == "created_at" and not is_reversed
        return self.url(sort=None if is_default else sort, order="asc" if is_reversed else None)

    def _with(self, changes: Mapping[str, Sequence[str]]) -> str:
        pairs = [(name, value) for name, values in {**self.params, **changes}.items() for value in values]
        return f"/jobs?{urlencode(pairs)}" if pairs else "/jobs"


@router.get("/jobs")
@rate_class("reads")
def jobs_page(request: Request, state: State, caller: Viewer) -> Response:
    """List the jobs."""
    params = _given(request.query_params)
    query = _query(params)
    address = ListAddress({name: values for name, values in params.items() if name != "after"})
    with state.database.read() as session:
        filters = query.job_filter(session, caller.project_id)
    listing = service.list_jobs(
        state.database, caller.project_id, filters, order=query.job_order(), limit=JOBS_PER_PAGE, after=query.after
    )
    names = params.get("columns") or request.cookies.get(_COLUMNS_COOKIE, "").split(",")
    columns = chosen_columns(names) or chosen_columns(DEFAULT_COLUMNS)
    response = page(
        "jobs.html",
        section="jobs",
        jobs=listing.jobs,
        query=query,
        address=address,
        tabs=_TABS,
        status=query.status[0] if len(query.status) == 1 else "",
        filters=list(_active_filters(params, listing.dataset_names)),
        columns=columns,
        all_columns=COLUMNS.values(),
        methods=METHODS,
        datasets=listing.dataset_names,
        values={name: (params.get(name) or [""])[0] for name in (*_FIELDS, *_DATES)},
        refresh_seconds=views.list_refresh_seconds(listing.jobs),
        older=address.url(after=str(listing.jobs[-1]["id"])) if listing.has_more else None,
        newest=address.url() if query.after else None,
        may_write=caller.has_scope("write"),
        base_url=str(request.base_url).rstrip("/"),
    )
    if "columns" in params:
        text = ",".join(column.name for column in columns)
        response.set_cookie(_COLUMNS_COOKIE, text, max_age=_COOKIE_SECONDS, path="/jobs", httponly=True, samesite="lax")
    return response


@router.post("/jobs/bulk")
@rate_class("writes")
def change_jobs(
    state: State,
    caller: Operator,
    background: BackgroundTasks,
    *,
    action: Annotated[str, Form(max_length=20)] = "",
    selected: Annotated[list[str] | None, Form(alias="jobs", max_length=MAX_BULK_JOBS)] = None,
    confirmed: Annotated[str, Form(max_length=3)] = "",
) -> Response:
    """Show what an action does to the selected jobs; with ``confirmed`` apply it to each and show the outcome."""
    if action not in get_args(BulkAction):
        raise InvalidRequest("Choose Cancel or Delete.")
    if not selected:
        return see_other("/jobs")
    found = service.read_jobs(state.database, caller.project_id, selected, skip_missing=True)
    rows = [(job, _obstacle(job, action)) for job in found]
    if confirmed == "yes":
        rows = [(job, _apply(state, caller, background, str(job["id"]), action)) for job, _ in rows]
    return page("bulk.html", section="jobs", action=action, rows=rows, is_done=confirmed == "yes")


def _apply(state: AppState, caller: Caller, background: BackgroundTasks, job_id: str, action: str) -> str | None:
    """Apply the action to one job; return why it could not be applied, or None."""
    try:
        if action == "cancel":
            apply_action(state, caller, job_id, "cancel", background)
        else:
            with state.change(caller, "job.delete", job_id) as session:
                files = jobs.delete(session, caller.project_id, job_id)
            discard(state.store, files)
    except PotstillError as error:
        return error.detail
    return None


def _obstacle(job: Mapping[str, Any], action: str) -> str | None:
    """Return why the action cannot be applied to a job in its current state, or None."""
    if action == "cancel":
        return None if "cancel" in job["next_actions"] else f"It is {job['status']}."
    return None if job["terminal"] else f"It is {job['status']}; cancel it first."


_FIELDS = ("search", "method", "dataset", "student", "teacher", "metadata", "sweep")
_LABELS = {"created_after": "Created from", "created_before": "Created before"}


def _given(params: QueryParams) -> dict[str, list[str]]:
    """Return the parameters that have a value: a form sends all of its fields, most of them empty."""
    given: dict[str, list[str]] = {}
    for name, value in params.multi_items():
        if value.strip():
            given.setdefault(name, []).append(value.strip())
    return given


def _query(params: Mapping[str, Sequence[str]]) -> JobListQuery:
    """Validate the parameters. A date is midnight in UTC. Raises ``InvalidRequest``."""
    known = {name: values for name, values in params.items() if name in JobListQuery.model_fields}
    document: dict[str, Any] = {
        name: list(values) if name in _REPEATABLE else values[-1] for name, values in known.items() if name != "limit"
    }
    for name in _DATES:
        if len(document.get(name, "")) == len("2026-11-30"):
            document[name] += "T00:00:00Z"
    try:
        return JobListQuery.model_validate(document)
    except ValidationError as error:
        raise from_validation_error(error) from None


def _active_filters(
    params: Mapping[str, Sequence[str]], datasets: Mapping[str, str]
) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, label, value and shown text of each filter that is set; the tabs show the status."""
    for name in (*_FIELDS, *_DATES):
        for value in params.get(name, ()):
            label = _LABELS.get(name, name.capitalize())
            yield name, label, value, datasets.get(value, value) if name == "dataset" else value
