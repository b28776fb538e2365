"""The pages of the project: usage with its limits, and the audit log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response

from api import audit, usage
from api.dashboard.csv_files import csv_response
from api.dashboard.endpoints import PageRoute, Viewer
from api.dashboard.forms import problem_texts
from api.dashboard.key_pages import Administrator
from api.dashboard.rendering import page, page_url
from api.deps import AppState, Caller, State
from api.problems import invalid_field
from api.rate_limit import rate_class
from api.schemas import Page
from core.errors import PotstillError
from core.spec.patterns import NO_NUL
from core.store import keys

ENTRIES_PER_PAGE = 50
ENTRIES_PER_READ = 1000  # of the file
_CSV_COLUMNS = ("created_at", "action", "object_id", "outcome", "key", "subject", "client_address", "request_id", "id")
HISTORY_DAYS = 30

_Filter = Annotated[str, Query(max_length=200, pattern=NO_NUL)]

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/usage")
@rate_class("reads")
def usage_page(state: State, caller: Viewer) -> Response:
    """Show quotas and rate limits; the page's script draws the history from ``/v1/usage/history``."""
    return page(
        "usage.html",
        section="usage",
        usage=usage.get_usage(caller, state),
        history_url=f"/v1/usage/history?days={HISTORY_DAYS}",
        num_days=HISTORY_DAYS,
    )


def _audit_filters(
    *,
    action: _Filter = "",
    object_id: Annotated[str, Query(alias="object", max_length=200, pattern=NO_NUL)] = "",
    key: _Filter = "",
    first_day: Annotated[str, Query(alias="from", max_length=40)] = "",
    last_day: Annotated[str, Query(alias="to", max_length=40)] = "",
) -> dict[str, str]:
    """Return the filters of the log that have a value."""
    given = {"action": action, "object": object_id, "key": key, "from": first_day, "to": last_day}
    return {name: value.strip() for name, value in given.items() if value.strip()}


AuditFilters = Annotated[dict[str, str], Depends(_audit_filters)]


@router.get("/audit")
@rate_class("reads")
def audit_page(state: State, caller: Administrator, filters: AuditFilters, after: str | None = None) -> Response:
    """List the changes that pass the filters, newest first."""
    error: PotstillError | None = None
    try:
        found = _entries(state, caller, filters, after or None, limit=ENTRIES_PER_PAGE)
    except PotstillError as problem:
        error, found = problem, Page[audit.AuditEntryOut](data=[], has_more=False)
    with state.database.read() as session:
        key_names = {row.id: row.name for row in keys.list_keys(session, caller.project_id)}
    return page(
        "audit.html",
        status_code=HTTPStatus(error.status) if error else HTTPStatus.OK,
        section="audit",
        entries=found.data,
        key_names=key_names,
        filters={name: filters.get(name, "") for name in ("action", "object", "key", "from", "to")},
        is_filtered=bool(filters),
        problems=problem_texts(error),
        csv_url=page_url("/audit.csv", **filters),
        older=page_url("/audit", **filters, after=found.data[-1].id) if found.has_more else None,
        newest=page_url("/audit", **filters) if after else None,
    )


@router.get("/audit.csv")
@rate_class("reads")
def audit_csv(state: State, caller: Administrator, filters: AuditFilters) -> Response:
    """Download all changes that pass the filters, newest first. Raises ``InvalidRequest``."""
    found = _entries(state, caller, filters, None, limit=ENTRIES_PER_READ)  # refused before the file begins

    def rows() -> Iterator[Sequence[object]]:
        yield _CSV_COLUMNS
        part = found
        while True:
            for entry in part.data:
                document = entry.model_dump(mode="json")
                yield tuple(document[name] for name in _CSV_COLUMNS)
            if not part.has_more:
                return
            part = _entries(state, caller, filters, part.data[-1].id, limit=ENTRIES_PER_READ)

    return csv_response("audit-log.csv", rows())


def _entries(
    state: AppState, caller: Caller, filters: dict[str, str], after: str | None, *, limit: int
) -> Page[audit.AuditEntryOut]:
    """Read a page of the log as ``GET /v1/audit-log`` does. Both days are included."""
    start, end = _midnight(filters, "from"), _midnight(filters, "to")
    return audit.list_audit_log(
        caller,
        state,
        key=filters.get("key"),
        action=filters.get("action"),
        object_id=filters.get("object"),
        created_after=start,
        created_before=None if end is None else end + timedelta(days=1),
        limit=limit,
        after=after,
    )


def _midnight(filters: dict[str, str], name: str) -> datetime | None:
    """Return the start of a day in UTC. Raises ``InvalidRequest``."""
    text = filters.get(name)
    if text is None:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise invalid_field(f"/{name}", "a date is expected, such as 2026-01-31") from None
