"""Pages of models: the registry with a form that adds one, and a model with its files and lineage."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, BackgroundTasks, Form, Request
from fastapi.responses import Response

from api.dashboard import model_registry, model_views
from api.dashboard.endpoints import Operator, PageRoute, Viewer
from api.dashboard.model_form import ModelForm
from api.dashboard.rendering import page, page_url, see_other
from api.dashboard.uploads import read_uploads
from api.deps import AppState, Caller, Search, State
from api.downloads import StoredContent, file_response
from api.models.endpoints import create_from_upload, remove_model
from api.models.schemas import ModelFromUpload
from api.rate_limit import rate_class
from api.references import ModelId
from api.request_body import validate_as
from core.errors import InUse, NotFound, PotstillError

MODELS_PER_PAGE = 25
REFRESH_SECONDS = 2  # while a model is processing

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/models")
@rate_class("reads")
def models_page(
    state: State, caller: Viewer, after: str | None = None, *, search: Search = "", add: bool = False
) -> Response:
    """List the models, newest first; with ``add`` the form is open."""
    return _list_page(state, caller, search=search.strip(), after=after or None, is_form_open=add)


@router.post("/models")
@rate_class("uploads")
async def add_model(
    state: State, caller: Operator, background: BackgroundTasks, form: Annotated[ModelForm, Form()]
) -> Response:
    """Add a model as ``POST /v1/models`` does, and show its page; show the problems in the form."""
    try:
        fields = validate_as(ModelFromUpload, form.document())
        response = await create_from_upload(caller, form.key, fields, state=state, background=background)
    except PotstillError as error:
        if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise
        status, problems = HTTPStatus(error.status), form.problems(error)
        return await to_thread.run_sync(
            lambda: _list_page(state, caller, form=form, problems=problems, status_code=status)
        )
    return see_other(f"/models/{json.loads(bytes(response.body))['id']}")


@router.get("/models/{model_id}")
@rate_class("reads")
def model_page(state: State, caller: Viewer, model_id: ModelId) -> Response:
    """Show a model."""
    return _model_page(state, caller, model_id)


@router.get("/models/{model_id}/files/{name}")
@rate_class("reads")
def model_file(request: Request, state: State, caller: Viewer, model_id: ModelId, name: str) -> Response:
    """Download a file of a model."""
    file = model_registry.find_file(state.database, caller.project_id, model_id, name)
    if file is None:
        raise NotFound(f"The model has no file {name[:80]!r}.")
    content = StoredContent(file.key, file.name, "application/octet-stream", file.size_bytes, file.sha256)
    return file_response(request, state.store, content)


@router.post("/models/{model_id}/delete")
@rate_class("writes")
def delete_model_page(state: State, caller: Operator, model_id: ModelId) -> Response:
    """Delete a model and show the list; show the model with the problem if a job needs it."""
    try:
        remove_model(state, caller, model_id)
    except InUse as error:
        return _model_page(state, caller, model_id, problem=error.detail)
    return see_other("/models")


def _list_page(
    state: AppState,
    caller: Caller,
    *,
    search: str = "",
    after: str | None = None,
    is_form_open: bool = False,
    form: ModelForm | None = None,
    problems: dict[str, str] | None = None,
    status_code: HTTPStatus = HTTPStatus.OK,
) -> Response:
    listing = model_registry.list_models(
        state.database, caller.project_id, search=search, limit=MODELS_PER_PAGE, after=after
    )
    is_processing = any(entry.model["status"] == "processing" for entry in listing.models)
    may_write = caller.has_scope("write")
    uploads = read_uploads(state.database, caller.project_id, "models") if may_write else []
    return page(
        "models.html",
        status_code=status_code,
        section="models",
        entries=listing.models,
        model_views=model_views,
        may_write=may_write,
        search=search,
        older=page_url("/models", search=search, after=listing.models[-1].model["id"]) if listing.has_more else None,
        newest=page_url("/models", search=search) if after else None,
        refresh_seconds=REFRESH_SECONDS if is_processing and not problems else 0,
        form=form or ModelForm(),
        problems=problems or {},
        is_form_open=is_form_open or bool(problems or uploads),
        uploads=uploads,
    )


def _model_page(state: AppState, caller: Caller, model_id: str, *, problem: str | None = None) -> Response:
    found = model_registry.read_model(state.database, state.store, caller.project_id, model_id)
    return page(
        "model.html",
        status_code=HTTPStatus.CONFLICT if problem else HTTPStatus.OK,
        section="models",
        entry=found.entry,
        model=found.entry.model,
        files=found.files,
        licenses=found.licenses,
        ancestors=model_views.ancestors(found.lineage),
        descendants=model_views.descendants(found.lineage),
        is_truncated=found.lineage["truncated"],
        model_views=model_views,
        may_write=caller.has_scope("write"),
        refresh_seconds=REFRESH_SECONDS if found.entry.model["status"] == "processing" else 0,
        problem=problem,
    )
