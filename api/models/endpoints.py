"""``/v1/models``: parse, delegate, status code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, BackgroundTasks, Request, Response

from api.deps import After, Limit, Parts, Reader, Writer
from api.downloads import discard
from api.idempotency import IdempotencyKey, created, idempotent_create
from api.models import service
from api.models.schemas import ModelOut
from api.multipart import FormRules, admit_upload, received_form
from api.problems import problems
from api.schemas import Page
from api.sniffing import require_weights
from core.errors import InUse, MalformedRequest, NotFound, PayloadTooLarge, QuotaExceeded, UnsupportedMedia
from core.store import models, quotas
from core.store.db import Session

router = APIRouter(prefix="/v1/models", tags=["models"])

_JSON_TEXT = {"type": "string", "contentMediaType": "application/json"}
_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "architecture"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "safetensors, nothing else."},
                        "architecture": {"type": "string", "maxLength": 200, "description": "A timm name."},
                        "arguments": {**_JSON_TEXT, "description": "An object for `timm.create_model`."},
                        "name": {"type": "string", "maxLength": 200},
                        "normalization": {**_JSON_TEXT, "description": '`{"mean": […], "std": […]}`'},
                        "classes": {**_JSON_TEXT, "description": "The class names, in order of index."},
                    },
                },
                "example": {"architecture": "resnet18", "arguments": '{"num_classes": 10}', "name": "my teacher"},
            }
        },
    }
}


@router.post(
    "",
    status_code=202,
    response_model=ModelOut,
    responses=created(MalformedRequest, PayloadTooLarge, QuotaExceeded, UnsupportedMedia, status=202),
    openapi_extra=_FORM,
)
async def create_model(
    who: Writer, key: IdempotencyKey, request: Request, parts: Parts, background: BackgroundTasks
) -> Response:
    """Upload weights for a timm architecture.

    Only safetensors is read; its header is checked at once. Then the file is loaded strictly and run
    once in the background: `processing`, then `ready`, or `failed` with what does not fit.
    """
    most = await to_thread.run_sync(admit_upload, parts, who)
    rules = FormRules(service.FORM_FIELDS, most, require_weights)
    background.add_task(parts.hints.wake_model_workers)
    async with received_form(request, rules, parts.incoming) as form:
        asked = service.parse_form(form)

        async def prepare() -> Callable[[Session], ModelOut]:
            await parts.inspector.require_architecture(asked.architecture)
            model_id, upload_key = await to_thread.run_sync(service.store_upload, parts.store, form)

            def make(session: Session) -> ModelOut:
                made = service.create(
                    session, who.project_id, asked, model_id=model_id, upload_key=upload_key, form=form
                )
                quotas.require_room(session, who.project_id, parts.settings)
                return service.model_out(made)

            return make

        identity = ["POST /v1/models", asked.model_dump(mode="json"), form.file.sha256]
        return await idempotent_create(parts, who, key, request=identity, prepare=prepare, status=202)


@router.get("", response_model=Page[ModelOut], responses=problems())
def list_models(who: Reader, parts: Parts, limit: Limit = 20, after: After = None) -> Page[ModelOut]:
    """Models, newest first: uploads and the students of jobs."""
    with parts.database.read() as session:
        page = models.list_models(session, who.project_id, limit=limit, after=after)
        return Page(data=[service.model_out(each) for each in page.items], has_more=page.has_more)


@router.get("/{model_id}", response_model=ModelOut, responses=problems(NotFound))
def get_model(model_id: str, who: Reader, parts: Parts) -> ModelOut:
    """One model."""
    with parts.database.read() as session:
        return service.model_out(models.get(session, who.project_id, model_id))


@router.delete("/{model_id}", status_code=204, responses=problems(NotFound, InUse))
def delete_model(model_id: str, who: Writer, parts: Parts) -> None:
    """Delete a model that no unfinished job needs. The job whose student it is keeps its files."""
    with parts.change(who, "model.delete", model_id) as session:
        files = models.delete(session, who.project_id, model_id)
    discard(parts.store, files)
