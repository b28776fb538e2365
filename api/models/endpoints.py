"""``/v1/models``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, BackgroundTasks, Query, Request, Response

from api.deps import After, AppState, Caller, Limit, Reader, Search, State, Writer
from api.downloads import discard
from api.idempotency import IdempotencyKey, create_responses, idempotent_create
from api.models import service
from api.models.schemas import LineageOut, ModelCreate, ModelFromUpload, ModelOut
from api.multipart import FormRules, admit_upload, is_form, receive_form
from api.problems import problems
from api.rate_limit import rate_class
from api.references import REFERENCE_ERRORS, ModelId
from api.request_body import form_body, json_body, read_json, validate_as
from api.schemas import Page
from api.sniffing import require_weights
from core.errors import InUse, MalformedRequest, PayloadTooLarge, QuotaExceeded, UnsupportedMedia
from core.store import models, quotas
from core.store.db import Session

router = APIRouter(prefix="/v1/models", tags=["models"])

_JSON_TEXT = {"type": "string", "contentMediaType": "application/json"}
_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["file", "architecture"],
    "additionalProperties": False,
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "A safetensors file."},
        "architecture": {
            "type": "string",
            "maxLength": 200,
            "description": "A timm architecture, optionally with the tag of pretrained weights. Their classes, size "
            "and normalization are then the defaults.",
        },
        "arguments": {**_JSON_TEXT, "description": "An object with arguments of `timm.create_model`."},
        "name": {"type": "string", "maxLength": 200},
        "normalization": {**_JSON_TEXT, "description": '`{"mean": […], "std": […]}` of pixel values in 0…1'},
        "classes": {**_JSON_TEXT, "description": "The class names, in order of index."},
    },
}
_FORM_EXAMPLE = {"architecture": "resnet18", "arguments": '{"num_classes": 10}', "name": "my teacher"}


@router.post(
    "",
    status_code=202,
    response_model=ModelOut,
    responses=create_responses(MalformedRequest, PayloadTooLarge, QuotaExceeded, UnsupportedMedia, status=202),
)
@rate_class("uploads")
@json_body(ModelFromUpload, example={"architecture": "resnet18", "upload": "up_01jd3v5n8e6f7g8h9jkmnpqrst"})
@form_body(_FORM, model=ModelCreate, example=_FORM_EXAMPLE)
async def create_model(
    caller: Writer, key: IdempotencyKey, request: Request, state: State, background: BackgroundTasks
) -> Response:
    """Upload weights for a timm architecture, in a form or with a resumable upload (JSON with its id in `upload`).

    Only safetensors files are accepted; the header is checked at once. A background task then loads the file
    strictly and runs the model once: `processing`, then `ready`, or `failed` with the mismatch and the arguments that
    explain it. Prefixes of training wrappers, such as `module.`, are removed; `warnings` reports this.
    """
    if not is_form(request):
        body = validate_as(ModelFromUpload, await read_json(request))
        return await create_from_upload(caller, key, body, state=state, background=background)
    max_bytes = await to_thread.run_sync(admit_upload, state, caller)
    rules = FormRules(service.FORM_FIELDS, max_bytes, require_weights)
    background.add_task(state.broker.wake_model_workers)
    async with receive_form(request, rules, state.incoming) as form:
        fields = service.parse_form(form)

        async def prepare() -> Callable[[Session], ModelOut]:
            architecture = await state.inspector.canonical_architecture(fields.architecture)
            model_id, upload_key = await to_thread.run_sync(service.store_upload, state.store, form)

            def make(session: Session) -> ModelOut:
                model = service.create(
                    session,
                    caller.project_id,
                    fields.model_copy(update={"architecture": architecture}),
                    model_id=model_id,
                    upload_key=upload_key,
                    form=form,
                )
                quotas.require_storage(session, caller.project_id, state.settings)
                return service.model_out(model)

            return make

        identity = ["POST /v1/models", fields.model_dump(mode="json"), form.file.sha256]
        return await idempotent_create(state, caller, key, request=identity, prepare=prepare, status=202)


async def create_from_upload(
    caller: Caller, key: str | None, fields: ModelFromUpload, *, state: AppState, background: BackgroundTasks
) -> Response:
    """Create the model of a validated request with an upload. Raises the errors that ``POST /v1/models`` declares."""
    service.check_fields(fields)
    background.add_task(state.broker.wake_model_workers)

    async def prepare() -> Callable[[Session], ModelOut]:
        await to_thread.run_sync(service.check_upload, state.database, state.store, caller.project_id, fields)
        architecture = await state.inspector.canonical_architecture(fields.architecture)
        named = fields.model_copy(update={"architecture": architecture})

        def make(session: Session) -> ModelOut:
            quotas.require_storage(session, caller.project_id, state.settings)
            return service.model_out(service.create_from_upload(session, caller.project_id, named))

        return make

    identity = ["POST /v1/models", fields.model_dump(mode="json")]
    return await idempotent_create(state, caller, key, request=identity, prepare=prepare, status=202)


@router.get("", response_model=Page[ModelOut], responses=problems())
@rate_class("reads")
def list_models(
    caller: Reader,
    state: State,
    *,
    search: Annotated[
        Search, Query(description="Words, each of which the name, id or architecture contains, in any case.")
    ] = "",
    limit: Limit = 20,
    after: After = None,
) -> Page[ModelOut]:
    """List models, newest first: uploads and the students of jobs."""
    with state.database.read() as session:
        page = models.list_models(session, caller.project_id, search=search, limit=limit, after=after)
        return Page(data=[service.model_out(model) for model in page.items], has_more=page.has_more)


@router.get("/{model_id}", response_model=ModelOut, responses=problems(*REFERENCE_ERRORS))
@rate_class("reads")
def get_model(caller: Reader, model_id: ModelId, state: State) -> ModelOut:
    """Get a model."""
    with state.database.read() as session:
        return service.model_out(models.get(session, caller.project_id, model_id))


@router.get("/{model_id}/lineage", response_model=LineageOut, responses=problems(*REFERENCE_ERRORS))
@rate_class("reads")
def get_lineage(caller: Reader, model_id: ModelId, state: State) -> LineageOut:
    """Get the lineage of a model: its teachers, its job, and the jobs and compressed models that were made from it."""
    with state.database.read() as session:
        return service.lineage_out(session, caller.project_id, model_id)


@router.delete("/{model_id}", status_code=204, responses=problems(*REFERENCE_ERRORS, InUse))
@rate_class("writes")
def delete_model(caller: Writer, model_id: ModelId, state: State) -> None:
    """Delete a model that no unfinished job uses. A job whose student it is keeps its artifacts."""
    remove_model(state, caller, model_id)


def remove_model(state: AppState, caller: Caller, model_id: str) -> None:
    """Delete a model with the files that no job has. Raises ``NotFound``, ``InUse``."""
    with state.change(caller, "model.delete", model_id) as session:
        files = models.delete(session, caller.project_id, model_id)
    discard(state.store, files)
