"""Pages of datasets: the list with a form that adds one, and a dataset with its classes, images and jobs."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, BackgroundTasks, Form, Path, Query, Request
from fastapi.responses import Response

from api.dashboard import dataset_views, service
from api.dashboard.csv_files import csv_response
from api.dashboard.dataset_form import BUILTIN, SOURCES, DatasetForm
from api.dashboard.endpoints import Operator, PageRoute, Viewer
from api.dashboard.rendering import page, page_url, see_other
from api.dashboard.uploads import read_uploads
from api.datasets.endpoints import create_from_source, remove_dataset
from api.datasets.images import thumbnail_response
from api.datasets.profile import SplitProfile, read_profiles
from api.datasets.schemas import DatasetCreate
from api.datasets.service import dataset_out
from api.deps import AppState, Caller, Search, State
from api.rate_limit import rate_class
from api.references import DatasetId
from api.request_body import validate_as
from core.errors import InUse, PotstillError, StorageFailed
from core.store import datasets
from core.store.artifact_store import StoredFile, parse_stored_files

DATASETS_PER_PAGE = 25
REFRESH_SECONDS = 2  # while a dataset is processing
NUM_JOBS = 10  # newest jobs that read a dataset

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/datasets")
@rate_class("reads")
def datasets_page(
    state: State, caller: Viewer, after: str | None = None, *, search: Search = "", add: bool = False
) -> Response:
    """List the datasets, newest first; with ``add`` the form is open."""
    return _list_page(state, caller, search=search.strip(), after=after or None, is_form_open=add)


@router.post("/datasets")
@rate_class("uploads")
async def add_dataset(
    state: State, caller: Operator, background: BackgroundTasks, form: Annotated[DatasetForm, Form()]
) -> Response:
    """Add a dataset as ``POST /v1/datasets`` does, and show its page; show the problems in the form."""
    background.add_task(state.broker.wake_dataset_workers)
    try:
        response = await create_from_source(caller, form.key, validate_as(DatasetCreate, form.document()), state)
    except PotstillError as error:
        if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise
        status, problems = HTTPStatus(error.status), form.problems(error)
        return await to_thread.run_sync(
            lambda: _list_page(state, caller, form=form, problems=problems, status_code=status)
        )
    return see_other(f"/datasets/{json.loads(bytes(response.body))['id']}")


@router.get("/datasets/{dataset_id}")
@rate_class("reads")
def dataset_page(
    state: State,
    caller: Viewer,
    dataset_id: DatasetId,
    *,
    split: Annotated[str, Query(max_length=20)] = "train",
    label: Annotated[int | None, Query(ge=-1, le=2**31)] = None,
    first: Annotated[int, Query(ge=0, le=2**31)] = 0,
    order: dataset_views.ClassOrder = "name",
) -> Response:
    """Show a dataset. ``split``, ``label`` and ``first`` choose the images that are shown."""
    return _dataset_page(state, caller, dataset_id, split=split, label=label, first=first, order=order)


@router.get("/datasets/{dataset_id}/thumbnails/{split}/{index}")
@rate_class("reads")
def thumbnail(
    request: Request,
    state: State,
    caller: Viewer,
    dataset_id: DatasetId,
    *,
    split: Literal["train", "test"],
    index: Annotated[int, Path(ge=0)],
) -> Response:
    """Serve a small version of an image."""
    with state.database.read() as session:
        files = parse_stored_files(datasets.get(session, caller.project_id, dataset_id).files)
    return thumbnail_response(request, state.store, files, split, index)


@router.get("/datasets/{dataset_id}/rejected.csv")
@rate_class("reads")
def rejected_files(state: State, caller: Viewer, dataset_id: DatasetId) -> Response:
    """Download the list of the files that were left out."""
    with state.database.read() as session:
        dataset = datasets.get(session, caller.project_id, dataset_id)
        rows = list(dataset_views.rejected_rows(dataset.rejected))
    return csv_response(f"{dataset.name} rejected.csv", rows)


@router.post("/datasets/{dataset_id}/delete")
@rate_class("writes")
def delete_dataset_page(state: State, caller: Operator, dataset_id: DatasetId) -> Response:
    """Delete a dataset and show the list; show the dataset with the problem if a job needs it."""
    try:
        remove_dataset(state, caller, dataset_id)
    except InUse as error:
        return _dataset_page(state, caller, dataset_id, problem=error.detail)
    return see_other("/datasets")


def _list_page(
    state: AppState,
    caller: Caller,
    *,
    search: str = "",
    after: str | None = None,
    is_form_open: bool = False,
    form: DatasetForm | None = None,
    problems: dict[str, str] | None = None,
    status_code: HTTPStatus = HTTPStatus.OK,
) -> Response:
    with state.database.read() as session:
        rows = datasets.list_datasets(session, caller.project_id, search=search, limit=DATASETS_PER_PAGE, after=after)
        documents: list[dict[str, Any]] = [dataset_out(row).model_dump(mode="json") for row in rows.items]
    is_processing = any(document["status"] == "processing" for document in documents)
    may_write = caller.has_scope("write")
    uploads = read_uploads(state.database, caller.project_id, "datasets") if may_write else []
    return page(
        "datasets.html",
        status_code=status_code,
        section="datasets",
        datasets=documents,
        dataset_views=dataset_views,
        may_write=may_write,
        search=search,
        older=page_url("/datasets", search=search, after=documents[-1]["id"]) if rows.has_more else None,
        newest=page_url("/datasets", search=search) if after else None,
        refresh_seconds=REFRESH_SECONDS if is_processing and not problems else 0,
        form=form or DatasetForm(),
        problems=problems or {},
        is_form_open=is_form_open or bool(problems or uploads) or not (documents or after or search),
        sources=SOURCES if state.settings.s3_sources else [each for each in SOURCES if each[0] != "s3"],
        builtin=BUILTIN,
        uploads=uploads,
    )


def _dataset_page(
    state: AppState,
    caller: Caller,
    dataset_id: str,
    *,
    split: str = "train",
    label: int | None = None,
    first: int = 0,
    order: dataset_views.ClassOrder = "name",
    problem: str | None = None,
) -> Response:
    with state.database.read() as session:
        row = datasets.get(session, caller.project_id, dataset_id)
        document = dataset_out(row).model_dump(mode="json")
        files = parse_stored_files(row.files)
    readers = service.read_readers(state.database, caller.project_id, dataset_id, limit=NUM_JOBS + 1)
    profiles, unreadable = _profiles(state, document, files)
    rows = dataset_views.class_rows(document, profiles, order) if profiles else []
    return page(
        "dataset.html",
        status_code=HTTPStatus.CONFLICT if problem else HTTPStatus.OK,
        section="datasets",
        dataset=document,
        dataset_views=dataset_views,
        may_write=caller.has_scope("write"),
        profiles=profiles,
        unreadable=unreadable,
        order=order,
        class_rows=rows,
        gallery=dataset_views.gallery(document, profiles, split=split, label=label, first=first),
        jobs=readers[:NUM_JOBS],
        has_more_jobs=len(readers) > NUM_JOBS,
        refresh_seconds=REFRESH_SECONDS if document["status"] == "processing" else 0,
        problem=problem,
    )


def _profiles(
    state: AppState, document: dict[str, Any], files: list[StoredFile]
) -> tuple[dict[str, SplitProfile], str | None]:
    """Return the profiles by split, and why they cannot be read. No transaction waits for the store."""
    try:
        return read_profiles(state.store, files, seed=document["id"]), None
    except StorageFailed as error:
        return {}, error.detail
