"""The page of the datasets: the newest of them, and a form for one that is fetched from an address."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Form
from fastapi.responses import RedirectResponse, Response

from api.dashboard.endpoints import Operator, PageRoute, Viewer
from api.dashboard.rendering import page
from api.datasets import service
from api.datasets.schemas import DatasetCreate
from api.deps import AppState, Caller, Parts
from api.request_body import validated
from core.errors import InvalidRequest, QuotaExceeded
from core.fetch.targets import MAX_URL_CHARACTERS
from core.ids import new_id
from core.store import datasets

DATASETS_PER_PAGE = 25
REFRESH_SECONDS = 2  # while one is being taken in

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/datasets")
def datasets_page(parts: Parts, who: Viewer, after: str | None = None) -> Response:
    """The datasets, newest first."""
    return _page(parts, who, after=after or None)


@router.post("/datasets")
def add_dataset(
    parts: Parts,
    who: Operator,
    background: BackgroundTasks,
    *,
    url: Annotated[str, Form(max_length=2 * MAX_URL_CHARACTERS)] = "",
    name: Annotated[str, Form(max_length=500)] = "",
    labels: Annotated[str, Form(max_length=20)] = "auto",
) -> Response:
    """Fetch a dataset from an address, as ``POST /v1/datasets`` does."""
    document = {"name": name.strip() or None, "source": {"type": "url", "url": url.strip(), "labels": labels}}
    try:
        asked = validated(DatasetCreate, document)
        source = service.source_of(asked, parts.settings.network_policy)
        dataset_id = new_id("ds")
        with parts.change(who, "dataset.create", dataset_id) as session:
            service.create_from(
                session, who.project_id, parts.settings, name=asked.name, source=source, dataset_id=dataset_id
            )
    except InvalidRequest as error:
        return _page(parts, who, problem=error.errors[0].detail, url=url)
    except QuotaExceeded as error:
        return _page(parts, who, problem=error.detail, url=url)
    background.add_task(parts.hints.wake_dataset_workers)
    return RedirectResponse("/datasets", HTTPStatus.SEE_OTHER, headers={"Cache-Control": "no-store"})


def _page(
    parts: AppState, who: Caller, *, after: str | None = None, problem: str | None = None, url: str = ""
) -> Response:
    with parts.database.read() as session:
        found = datasets.list_datasets(session, who.project_id, limit=DATASETS_PER_PAGE, after=after)
        shown: list[dict[str, Any]] = [service.dataset_out(each).model_dump(mode="json") for each in found.items]
    working = any(each["status"] == "processing" for each in shown)
    return page(
        "datasets.html",
        status_code=HTTPStatus.UNPROCESSABLE_ENTITY if problem else HTTPStatus.OK,
        section="datasets",
        datasets=shown,
        may_write=who.may("write"),
        older=f"/datasets?after={shown[-1]['id']}" if found.has_more else None,
        newest="/datasets" if after else None,
        refresh_seconds=REFRESH_SECONDS if working and not problem else 0,
        problem=problem,
        url=url,
    )
