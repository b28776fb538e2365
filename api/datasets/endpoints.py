"""``/v1/datasets``: parse, delegate, status code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, BackgroundTasks, Request, Response

from api.datasets import service
from api.datasets.schemas import DatasetCreate, DatasetOut, UploadedDataset
from api.deps import After, AppState, Limit, Parts, Reader, Writer
from api.downloads import discard
from api.idempotency import IdempotencyKey, created, idempotent_create
from api.multipart import FormRules, admit_upload, is_form, received_form
from api.problems import problems
from api.request_body import read_json, validated
from api.schemas import Page
from api.sniffing import require_archive
from core.errors import (
    InUse,
    MalformedRequest,
    NotAvailable,
    NotFound,
    PayloadTooLarge,
    QuotaExceeded,
    UnsupportedMedia,
)
from core.ingest_errors import UrlNotAllowed
from core.store import datasets, quotas
from core.store.db import Session
from core.store.keys import Caller

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

_BODIES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/DatasetCreate"},
                "example": {"name": "digits", "source": {"type": "builtin", "name": "digits"}},
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "A zip or tar of an image folder or of Parquet files, or a Parquet file.",
                        },
                        "name": {"type": "string", "maxLength": 200},
                        "labels": {
                            "type": "string",
                            "enum": ["auto", "none"],
                            "default": "auto",
                            "description": "`auto`: folders, or a table's label column, are the classes. "
                            "`none`: the dataset is unlabelled, whatever the folders or columns say.",
                        },
                    },
                }
            },
        },
    }
}


@router.post(
    "",
    status_code=202,
    response_model=DatasetOut,
    responses=created(
        MalformedRequest,
        NotAvailable,
        UrlNotAllowed,
        PayloadTooLarge,
        QuotaExceeded,
        UnsupportedMedia,
        status=202,
    ),
    openapi_extra=_BODIES,
)
async def create_dataset(
    who: Writer, key: IdempotencyKey, request: Request, parts: Parts, background: BackgroundTasks
) -> Response:
    """Make a dataset from a builtin, from a file that is sent along, or from one that is fetched from a URL.

    It is checked in the background: `processing`, then `ready` or `failed`. A broken image is listed under
    `rejected` and left out. The file is one of

    * a zip or tar of `train/CLASS/*.jpg` with `test/` or `val/` beside it;
    * of one level of folders, which are the classes: a fifth of each is set apart as `test`;
    * of images alone, or under `train/` and `test/` without class folders: unlabelled, `num_classes` is null;
    * of any folders, with the field `labels` set to `none`: unlabelled, too; `train/` and `test/` stay splits;
    * a Parquet file, or a zip or tar of shards (`train-*.parquet`, `test-*.parquet`), as on the Hugging Face
      hub: a column of encoded images (bytes, or a struct with `bytes`), one called `label` (numbers or words;
      class names are taken from the file's `huggingface` metadata), and if you like one called `split`.
      Rejected rows are called `FILE.parquet#ROW`, counted from 0.

    A URL is `{"type": "url", "url": "https://…"}`. It is fetched by the ingest worker, from public addresses alone
    and within the limits of uploads; what cannot be fetched makes the dataset `failed`, with the code
    `url_not_allowed`, `download_failed` or `download_too_large`.
    """
    background.add_task(parts.hints.wake_dataset_workers)
    if is_form(request):
        return await _from_file(who, key, request, parts)
    asked = validated(DatasetCreate, await read_json(request))
    source = service.source_of(asked, parts.settings.network_policy)

    async def prepare() -> Callable[[Session], DatasetOut]:
        return lambda session: service.dataset_out(
            service.create_from(session, who.project_id, parts.settings, name=asked.name, source=source)
        )

    identity = ["POST /v1/datasets", asked.model_dump(mode="json")]
    return await idempotent_create(parts, who, key, request=identity, prepare=prepare, status=202)


async def _from_file(who: Caller, key: str | None, request: Request, parts: AppState) -> Response:
    most = await to_thread.run_sync(admit_upload, parts, who)
    rules = FormRules(frozenset({"name", "labels"}), most, require_archive)
    async with received_form(request, rules, parts.incoming) as form:
        fields = validated(UploadedDataset, form.fields)

        async def prepare() -> Callable[[Session], DatasetOut]:
            dataset_id, stored = await to_thread.run_sync(service.store_upload, parts.store, form)

            def make(session: Session) -> DatasetOut:
                made = service.create_uploaded(
                    session, who.project_id, dataset_id=dataset_id, fields=fields, form=form, stored=stored
                )
                quotas.require_room(session, who.project_id, parts.settings)
                return service.dataset_out(made)

            return make

        identity = ["POST /v1/datasets", form.fields, form.file.sha256]
        return await idempotent_create(parts, who, key, request=identity, prepare=prepare, status=202)


@router.get("", response_model=Page[DatasetOut], responses=problems())
def list_datasets(who: Reader, parts: Parts, limit: Limit = 20, after: After = None) -> Page[DatasetOut]:
    """Datasets, newest first."""
    with parts.database.read() as session:
        page = datasets.list_datasets(session, who.project_id, limit=limit, after=after)
        return Page(data=[service.dataset_out(each) for each in page.items], has_more=page.has_more)


@router.get("/{dataset_id}", response_model=DatasetOut, responses=problems(NotFound))
def get_dataset(dataset_id: str, who: Reader, parts: Parts) -> DatasetOut:
    """One dataset."""
    with parts.database.read() as session:
        return service.dataset_out(datasets.get(session, who.project_id, dataset_id))


@router.delete("/{dataset_id}", status_code=204, responses=problems(NotFound, InUse))
def delete_dataset(dataset_id: str, who: Writer, parts: Parts) -> None:
    """Delete a dataset that no unfinished job needs."""
    with parts.change(who, "dataset.delete", dataset_id) as session:
        files = datasets.delete(session, who.project_id, dataset_id)
    discard(parts.store, files)
