"""``/v1/datasets``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

from anyio import to_thread
from fastapi import APIRouter, BackgroundTasks, Path, Query, Request, Response

from api.datasets import service
from api.datasets.images import image_response
from api.datasets.schemas import DatasetCreate, DatasetOut, UploadedDataset, UploadSource
from api.deps import After, AppState, Limit, Reader, Search, State, Writer
from api.downloads import discard
from api.idempotency import IdempotencyKey, create_responses, idempotent_create
from api.multipart import FormRules, admit_upload, is_form, receive_form
from api.problems import problems
from api.rate_limit import rate_class
from api.references import REFERENCE_ERRORS, DatasetId
from api.request_body import form_body, json_body, read_json, validate_as
from api.schemas import Page
from api.sniffing import require_archive
from core.errors import (
    InUse,
    MalformedRequest,
    NotAvailable,
    PayloadTooLarge,
    QuotaExceeded,
    UnsupportedMedia,
)
from core.ingest_errors import UrlNotAllowed
from core.spec.dataset_layout import LayoutOptions
from core.store import datasets, quotas
from core.store.artifact_store import parse_stored_files
from core.store.db import Session
from core.store.keys import Caller

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

_FORM: dict[str, Any] = {
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
        "license": {"type": "string", "maxLength": 100, "description": "License of the images, such as `cc-by-4.0`."},
        **{
            name: {
                "type": "string",
                "default": "auto",
                "description": field.description,
                **({} if name == "splits" else {"enum": list(get_args(field.annotation))}),
            }
            for name, field in LayoutOptions.model_fields.items()
        },
    },
}


@router.post(
    "",
    status_code=202,
    response_model=DatasetOut,
    responses=create_responses(
        MalformedRequest,
        NotAvailable,
        UrlNotAllowed,
        PayloadTooLarge,
        QuotaExceeded,
        UnsupportedMedia,
        status=202,
    ),
)
@rate_class("uploads")
@json_body(DatasetCreate, example={"name": "digits", "source": {"type": "builtin", "name": "digits"}})
@form_body(_FORM)
async def create_dataset(
    caller: Writer, key: IdempotencyKey, request: Request, state: State, background: BackgroundTasks
) -> Response:
    """Create a dataset from a built-in dataset, an uploaded file, a resumable upload, or a URL.

    A background task checks the images: `processing`, then `ready` or `failed`. Broken images are listed under
    `rejected` and left out. The file is one of:

    * a zip or tar of `train/CLASS/*.jpg` and `test/` or `val/` with the same class folders. Folder names only have to
      contain the split (`seg_train`, `val2017`), and the classes may be outermost (`CLASS/train/*.jpg`);
    * a zip or tar with one level of class folders: a fifth of each class becomes the `test` split;
    * a zip or tar of images without class folders, optionally under `train/` and `test/`: unlabeled, `num_classes`
      is null;
    * a zip or tar of any folders, with the field `labels` set to `none`: unlabeled; `train/` and `test/` are splits;
    * a Parquet file, or a zip or tar of shards (`train-*.parquet`, `test-*.parquet`), as on the Hugging Face
      hub: a column of encoded images (bytes, or a struct with `bytes`), a column `label` (numbers or text; class
      names come from the file's `huggingface` metadata), and optionally a column `split`. Rejected rows are named
      `FILE.parquet#ROW`, counted from 0.

    Where the folders can be read in two ways, the dataset is `failed` with the code `layout_unclear`, and the message
    names the readings. The fields `splits` and `class_from` choose one. Choices and finds that deserve a look, such as
    the same image in both splits, are listed under `warnings`.

    Files of any size can be sent in parts: create an upload (`POST /v1/uploads`), send its bytes, and use the source
    `{"type": "upload", "upload": "up_…"}`.

    A dataset of the Hugging Face hub is `{"type": "huggingface", "repo": "owner/name", "revision": "main"}`, optionally
    with `config` and `split`: its Parquet files are downloaded.

    A bucket that the operator has allowed is `{"type": "s3", "url": "s3://bucket/pets.zip"}`, or a folder of it.

    A URL source is `{"type": "url", "url": "https://…"}`. The ingest worker downloads it, only from public addresses
    and within the limits of uploads. If the download fails, the dataset is `failed` with the code `url_not_allowed`,
    `download_failed` or `download_too_large`.
    """
    background.add_task(state.broker.wake_dataset_workers)
    if is_form(request):
        return await _create_from_upload(caller, key, request, state)
    return await create_from_source(caller, key, validate_as(DatasetCreate, await read_json(request)), state)


async def create_from_source(caller: Caller, key: str | None, body: DatasetCreate, state: AppState) -> Response:
    """Create the dataset of a validated request. Raises the errors that ``POST /v1/datasets`` declares."""
    source = service.check_source(body, state.settings)

    async def prepare() -> Callable[[Session], DatasetOut]:
        if isinstance(source, UploadSource):
            await to_thread.run_sync(service.check_upload, state.database, state.store, caller.project_id, source)
        return lambda session: service.dataset_out(
            service.create_from_source(
                session, caller.project_id, state.settings, name=body.name, source=source, license=body.license
            )
        )

    identity = ["POST /v1/datasets", body.model_dump(mode="json")]
    return await idempotent_create(state, caller, key, request=identity, prepare=prepare, status=202)


async def _create_from_upload(caller: Caller, key: str | None, request: Request, state: AppState) -> Response:
    max_bytes = await to_thread.run_sync(admit_upload, state, caller)
    rules = FormRules(frozenset(UploadedDataset.model_fields), max_bytes, require_archive)
    async with receive_form(request, rules, state.incoming) as form:
        fields = validate_as(UploadedDataset, form.fields)

        async def prepare() -> Callable[[Session], DatasetOut]:
            dataset_id, stored = await to_thread.run_sync(service.store_upload, state.store, form)

            def make(session: Session) -> DatasetOut:
                dataset = service.create_uploaded(
                    session, caller.project_id, dataset_id=dataset_id, fields=fields, form=form, stored=stored
                )
                quotas.require_storage(session, caller.project_id, state.settings)
                return service.dataset_out(dataset)

            return make

        identity = ["POST /v1/datasets", form.fields, form.file.sha256]
        return await idempotent_create(state, caller, key, request=identity, prepare=prepare, status=202)


@router.get("", response_model=Page[DatasetOut], responses=problems())
@rate_class("reads")
def list_datasets(
    caller: Reader,
    state: State,
    *,
    search: Annotated[Search, Query(description="Words, each of which the name or id contains, in any case.")] = "",
    limit: Limit = 20,
    after: After = None,
) -> Page[DatasetOut]:
    """List datasets, newest first."""
    with state.database.read() as session:
        page = datasets.list_datasets(session, caller.project_id, search=search, limit=limit, after=after)
        return Page(data=[service.dataset_out(dataset) for dataset in page.items], has_more=page.has_more)


@router.get("/{dataset_id}", response_model=DatasetOut, responses=problems(*REFERENCE_ERRORS))
@rate_class("reads")
def get_dataset(caller: Reader, dataset_id: DatasetId, state: State) -> DatasetOut:
    """Get a dataset."""
    with state.database.read() as session:
        return service.dataset_out(datasets.get(session, caller.project_id, dataset_id))


_IMAGE_BODY = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}
_IMAGE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The image file, as it was uploaded.", **_IMAGE_BODY},
    304: {"description": "The image matches `If-None-Match`."},
}
_IMAGE_PATH = "/{dataset_id}/images/{split}/{index}"


@router.head(_IMAGE_PATH, include_in_schema=False)
@router.get(_IMAGE_PATH, response_class=Response, responses={**problems(*REFERENCE_ERRORS), **_IMAGE})
@rate_class("reads")
def get_image(
    caller: Reader,
    dataset_id: DatasetId,
    split: Literal["train", "test"],
    index: Annotated[int, Path(ge=0, description="Position in the split, whose images are ordered by path.")],
    *,
    request: Request,
    state: State,
) -> Response:
    """Get one image of a dataset, as it was uploaded."""
    with state.database.read() as session:
        dataset = datasets.get(session, caller.project_id, dataset_id)
        files = parse_stored_files(dataset.files)
    return image_response(request, state.store, files, split, index)


@router.delete("/{dataset_id}", status_code=204, responses=problems(*REFERENCE_ERRORS, InUse))
@rate_class("writes")
def delete_dataset(caller: Writer, dataset_id: DatasetId, state: State) -> None:
    """Delete a dataset that no unfinished job uses."""
    remove_dataset(state, caller, dataset_id)


def remove_dataset(state: AppState, caller: Caller, dataset_id: str) -> None:
    """Delete a dataset with its files. Raises ``NotFound``, ``InUse``."""
    with state.change(caller, "dataset.delete", dataset_id) as session:
        files = datasets.delete(session, caller.project_id, dataset_id)
    discard(state.store, files)
