"""``/v1/uploads``: resumable uploads with the tus protocol 1.0."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Header, Request, Response

from api.deps import After, Limit, Reader, State, Writer
from api.downloads import DirectTransferUnavailable, discard
from api.idempotency import IdempotencyKey, create_responses, idempotent_create
from api.problems import problems
from api.rate_limit import rate_class
from api.request_body import json_body, media_type, no_body, raw_body, read_json, validate_as
from api.schemas import Page
from api.uploads import service, tus
from api.uploads.schemas import DirectUploadDone, DirectUploadOut, UploadOut
from core.errors import (
    Conflict,
    InUse,
    MalformedRequest,
    NotFound,
    PayloadTooLarge,
    QuotaExceeded,
    UnsupportedMedia,
)
from core.store import quotas, uploads
from core.store.db import Session

PREFIX = "/v1/uploads"

router = APIRouter(prefix=PREFIX, tags=["uploads"])

_INT64 = 2**63 - 1
TusVersion = Annotated[
    str | None,
    Header(alias="Tus-Resumable", description="Version of the protocol.", json_schema_extra={"enum": [tus.VERSION]}),
]
_UPLOAD_HEADERS = {
    name: {"schema": {"type": "string"}} for name in ("Upload-Offset", "Upload-Length", "Upload-Expires")
}


def _responses(status: int, responses: dict[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """Add the headers of a successful response to the responses of an operation."""
    described = responses.get(status, {})
    return {**responses, status: {**described, "headers": {**described.get("headers", {}), **_UPLOAD_HEADERS}}}


@router.options("", status_code=204, responses=problems())
@rate_class("reads")
def get_upload_options(caller: Reader, state: State) -> Response:
    """Get the version, the extensions and the maximum size of uploads, in headers."""
    with state.database.read() as session:
        max_bytes = quotas.load_quotas(session, caller.project_id, state.settings).upload_bytes
    headers = {
        "Tus-Version": tus.VERSION,
        "Tus-Extension": tus.EXTENSIONS,
        "Tus-Max-Size": str(max_bytes),
        "Tus-Checksum-Algorithm": ",".join(tus.CHECKSUM_ALGORITHMS),
    }
    return Response(status_code=204, headers=headers)


@router.post(
    "",
    status_code=201,
    response_model=UploadOut,
    responses=_responses(
        201, create_responses(PayloadTooLarge, QuotaExceeded, tus.ProtocolVersionUnsupported, status=201)
    ),
)
@rate_class("uploads")
@no_body
async def create_upload(
    caller: Writer,
    key: IdempotencyKey,
    state: State,
    *,
    upload_length: Annotated[
        int, Header(alias="Upload-Length", ge=1, le=_INT64, description="Size of the file in bytes.")
    ],
    upload_metadata: Annotated[
        str,
        Header(
            alias="Upload-Metadata",
            max_length=tus.MAX_METADATA_CHARACTERS,
            description="`key BASE64, key BASE64`. `filename` gives datasets and models their default name.",
        ),
    ] = "",
    version: TusVersion = None,
) -> Response:
    """Create an upload (tus 1.0, with the extensions creation, expiration, checksum and termination).

    Any tus client works: `Location` is the address for the bytes. Send them with PATCH, in one request or many; after
    an interruption, continue at the `Upload-Offset` of a HEAD request. Then create a dataset with the source
    `{"type": "upload", "upload": "up_…"}`, or a model with the field `upload`. An upload is deleted when the dataset
    or model is ready, and a day after its last byte otherwise.
    """
    tus.require_version(version)
    filename = tus.parse_filename(upload_metadata)

    def check_size() -> None:
        with state.database.read() as session:
            max_bytes = quotas.load_quotas(session, caller.project_id, state.settings).upload_bytes
        if upload_length > max_bytes:
            raise PayloadTooLarge(f"The file is larger than the maximum of {max_bytes:,} bytes.")

    async def prepare() -> Callable[[Session], UploadOut]:
        await to_thread.run_sync(check_size)
        return lambda session: service.upload_out(
            service.create(
                session,
                caller.project_id,
                state.settings,
                size_bytes=upload_length,
                filename=filename,
                tus_metadata=upload_metadata,
            )
        )

    identity = ["POST /v1/uploads", upload_length, upload_metadata]
    response = await idempotent_create(state, caller, key, request=identity, prepare=prepare, status=201)
    response.headers["Location"] = f"{PREFIX}/{json.loads(bytes(response.body))['id']}"
    return response


@router.get("", response_model=Page[UploadOut], responses=problems())
@rate_class("reads")
def list_uploads(caller: Reader, state: State, limit: Limit = 20, after: After = None) -> Page[UploadOut]:
    """List uploads, newest first."""
    with state.database.read() as session:
        page = uploads.list_uploads(session, caller.project_id, limit=limit, after=after)
        return Page(data=[service.upload_out(upload) for upload in page.items], has_more=page.has_more)


@router.get("/{upload_id}", response_model=UploadOut, responses=_responses(200, problems(NotFound)))
@rate_class("reads")
def get_upload(upload_id: str, caller: Reader, state: State, response: Response) -> UploadOut:
    """Get an upload. HEAD gives its offset in `Upload-Offset`, as tus clients expect."""
    with state.database.read() as session:
        upload = uploads.get(session, caller.project_id, upload_id)
    response.headers.update(tus.upload_headers(upload))
    return service.upload_out(upload)


@router.patch(
    "/{upload_id}",
    status_code=204,
    responses=_responses(
        204,
        problems(
            NotFound,
            Conflict,
            uploads.UploadOffsetMismatch,
            tus.ProtocolVersionUnsupported,
            PayloadTooLarge,
            UnsupportedMedia,
            QuotaExceeded,
            tus.ChecksumMismatch,
        ),
    ),
)
@rate_class("writes")
@raw_body(tus.OFFSET_STREAM)
async def append_to_upload(
    upload_id: str,
    caller: Writer,
    request: Request,
    state: State,
    *,
    upload_offset: Annotated[
        int, Header(alias="Upload-Offset", ge=0, le=_INT64, description="Position of the first byte in the file.")
    ],
    upload_checksum: Annotated[
        str | None,
        Header(
            alias="Upload-Checksum",
            max_length=200,
            description="`sha1 BASE64` or `sha256 BASE64` of the body; a body with another checksum is not added.",
        ),
    ] = None,
    version: TusVersion = None,
) -> Response:
    """Send the next bytes of an upload. Bytes that arrive before a broken connection count.

    With `Upload-Checksum` the body counts as a whole or not at all. The response's `Upload-Offset` is the position of
    the next byte.
    """
    tus.require_version(version)
    checksum = tus.parse_checksum(upload_checksum)
    upload = await to_thread.run_sync(service.open_for_append, state, caller.project_id, upload_id, upload_offset)
    if media_type(request) != tus.OFFSET_STREAM:
        raise UnsupportedMedia(f"Send the bytes with Content-Type: {tus.OFFSET_STREAM}.")
    upload = await service.Receiver(state, caller, upload, checksum).receive(request.stream())
    return Response(status_code=204, headers=tus.upload_headers(upload))


@router.post(
    "/{upload_id}/direct",
    response_model=DirectUploadOut,
    responses=problems(NotFound, uploads.UploadOffsetMismatch, DirectTransferUnavailable, QuotaExceeded),
)
@rate_class("writes")
@no_body
def get_direct_url(upload_id: str, caller: Writer, state: State) -> DirectUploadOut:
    """Get a URL that takes the whole file with one PUT request, directly to the service's bucket.

    Send the file there, then call `complete`. The bytes do not pass through the API.
    """
    direct = service.sign_upload(state, caller.project_id, upload_id)
    return DirectUploadOut(url=direct.url, expires_at=direct.expires_at)


@router.post(
    "/{upload_id}/complete",
    response_model=UploadOut,
    responses=problems(NotFound, uploads.UploadOffsetMismatch, MalformedRequest, PayloadTooLarge, UnsupportedMedia),
)
@rate_class("writes")
@json_body(DirectUploadDone, example={"sha256": "0" * 64})
async def complete_upload(upload_id: str, caller: Writer, request: Request, state: State) -> UploadOut:
    """Complete an upload whose file was sent to the URL of `direct`."""
    upload = await to_thread.run_sync(service.find, state, caller.project_id, upload_id)
    body = validate_as(DirectUploadDone, await read_json(request))

    def complete() -> UploadOut:
        file = service.find_direct(state, upload, body.sha256)
        with state.change(caller, "upload.complete", upload_id) as session:
            return service.upload_out(service.add_direct(session, state.settings, upload, file))

    return await to_thread.run_sync(complete)


@router.delete("/{upload_id}", status_code=204, responses=problems(NotFound, InUse, tus.ProtocolVersionUnsupported))
@rate_class("writes")
def delete_upload(upload_id: str, caller: Writer, state: State, version: TusVersion = None) -> None:
    """Delete an upload that no processing dataset or model reads."""
    if version is not None:
        tus.require_version(version)
    with state.change(caller, "upload.delete", upload_id) as session:
        keys = [part.key for part in uploads.list_parts(session, upload_id)]
        uploads.delete(session, caller.project_id, upload_id)
    discard(state.store, keys)
