"""The dataset page: the newest datasets, and a form to add one from a URL."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Form
from fastapi.responses import RedirectResponse, Response

from api.dashboard.endpoints import Operator, PageRoute, Viewer
from api.dashboard.rendering import page
from api.datasets import service
from api.datasets.schemas import DatasetCreate
from api.deps import AppState, Caller, State
from api.rate_limit import rate_class
from api.request_body import validate_as
from core.errors import InvalidRequest, QuotaExceeded
from core.fetch.targets import MAX_URL_CHARACTERS
from core.ids import new_id
from core.store import datasets

DATASETS_PER_PAGE = 25
REFRESH_SECONDS = 2  # while a dataset is processing

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/datasets")
@rate_class("reads")
def datasets_page(state: State, caller: Viewer, after: str | None = None) -> Response:
    """List the datasets, newest first."""
    return _page(state, caller, after=after or None)


@router.post("/datasets")
@rate_class("uploads")
def add_dataset(
    state: State,
    caller: Operator,
    background: BackgroundTasks,
    *,
    url: Annotated[str, Form(max_length=2 * MAX_URL_CHARACTERS)] = "",
    name: Annotated[str, Form(max_length=500)] = "",
    labels: Annotated[str, Form(max_length=20)] = "auto",
    splits: Annotated[str, Form(max_length=2_000)] = "",
    class_from: Annotated[str, Form(max_length=20)] = "auto",
) -> Response:
    """Add a dataset from a URL, like ``POST /v1/datasets``."""
    layout = {"labels": labels, "splits": splits.strip() or "auto", "class_from": class_from}
    document = {"name": name.strip() or None, "source": {"type": "url", "url": url.strip(), **layout}}
    try:
        request = validate_as(DatasetCreate, document)
        source = service.check_source(request, state.settings)
        dataset_id = new_id("ds")
        with state.change(caller, "dataset.create", dataset_id) as session:
            service.create_from_source(
                session, caller.project_id, state.settings, name=request.name, source=source, dataset_id=dataset_id
            )
    except InvalidRequest as error:
        return _page(state, caller, problem=error.errors[0].detail, url=url)
    except QuotaExceeded as error:
        return _page(state, caller, problem=error.detail, url=url)
    background.add_task(state.broker.wake_dataset_workers)
    return RedirectResponse("/datasets", HTTPStatus.SEE_OTHER, headers={"Cache-Control": "no-store"})


def _page(
    state: AppState, caller: Caller, *, after: str | None = None, problem: str | None = None, url: str = ""
) -> Response:
    with state.database.read() as session:
        rows = datasets.list_datasets(session, caller.project_id, limit=DATASETS_PER_PAGE, after=after)
        documents: list[dict[str, Any]] = [service.dataset_out(row).model_dump(mode="json") for row in rows.items]
    is_processing = any(document["status"] == "processing" for document in documents)
    return page(
        "datasets.html",
        status_code=HTTPStatus.UNPROCESSABLE_ENTITY if problem else HTTPStatus.OK,
        section="datasets",
        datasets=documents,
        may_write=caller.has_scope("write"),
        older=f"/datasets?after={documents[-1]['id']}" if rows.has_more else None,
        newest="/datasets" if after else None,
        refresh_seconds=REFRESH_SECONDS if is_processing and not problem else 0,
        problem=problem,
        url=url,
    )
