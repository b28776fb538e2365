"""``/v1/api-keys``."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request, Response

from api.deps import Admin, After, AppState, Caller, Limit, State
from api.idempotency import IdempotencyKey, create_responses, idempotent_create
from api.keys import service
from api.keys.schemas import ApiKeyOut, KeyCreate, KeyRotate, NewApiKeyOut
from api.problems import problems
from api.rate_limit import rate_class
from api.request_body import json_body, read_json, validate_as
from api.schemas import Page
from core.errors import (
    Conflict,
    LastAdminKey,
    MalformedRequest,
    NotFound,
    PayloadTooLarge,
    QuotaExceeded,
    UnsupportedMedia,
)
from core.store import keys
from core.store.db import Session

router = APIRouter(prefix="/v1/api-keys", tags=["project"])

_TOKEN = frozenset({"token"})
_ERRORS = (MalformedRequest, PayloadTooLarge, UnsupportedMedia, QuotaExceeded)


@router.post(
    "",
    status_code=201,
    response_model=NewApiKeyOut,
    responses=create_responses(*_ERRORS, status=201),
)
@rate_class("writes")
@json_body(KeyCreate, example={"name": "laptop", "scopes": ["read", "write"], "expires_in_days": 90})
async def create_key(caller: Admin, key: IdempotencyKey, request: Request, state: State) -> Response:
    """Create an API key for this project, with no scope that your key lacks.

    Only this response contains the `token`; the service stores a hash of it. A repeated request with the same
    `Idempotency-Key` creates no second key, and its response has a null `token`.
    """
    return await create_from(state, caller, key, validate_as(KeyCreate, await read_json(request)))


async def create_from(state: AppState, caller: Caller, key: str | None, body: KeyCreate) -> Response:
    """Create a key; ``key`` is an ``Idempotency-Key``. Raises what :func:`api.keys.service.create` raises."""
    max_keys = state.settings.quota_keys

    async def prepare() -> Callable[[Session], NewApiKeyOut]:
        return lambda session: service.new_key_out(service.create(session, caller, body, max_keys=max_keys))

    identity = ["POST /v1/api-keys", body.model_dump(mode="json")]
    return await idempotent_create(
        state, caller, key, request=identity, prepare=prepare, status=201, redact_on_replay=_TOKEN
    )


@router.get("", response_model=Page[ApiKeyOut], responses=problems())
@rate_class("reads")
def list_keys(caller: Admin, state: State, limit: Limit = 20, after: After = None) -> Page[ApiKeyOut]:
    """List the project's keys, newest first, including revoked keys."""
    with state.database.read() as session:
        page = keys.list_page(session, caller.project_id, limit=limit, after=after)
        return Page(data=[service.key_out(key) for key in page.items], has_more=page.has_more)


@router.get("/{key_id}", response_model=ApiKeyOut, responses=problems(NotFound))
@rate_class("reads")
def get_key(key_id: str, caller: Admin, state: State) -> ApiKeyOut:
    """Get an API key."""
    with state.database.read() as session:
        return service.key_out(keys.get(session, caller.project_id, key_id))


@router.delete("/{key_id}", status_code=204, responses=problems(NotFound, LastAdminKey))
@rate_class("writes")
def revoke_key(key_id: str, caller: Admin, state: State) -> None:
    """Revoke an API key immediately and permanently; it remains in the list.

    The project's last active admin key cannot be revoked: create another one first, or rotate it.
    """
    with state.change(caller, "api_key.revoke", key_id) as session:
        keys.revoke(session, caller.project_id, key_id, keep_last_admin=True)


@router.post(
    "/{key_id}/rotate",
    status_code=201,
    response_model=NewApiKeyOut,
    responses=create_responses(*_ERRORS, NotFound, Conflict, status=201),
)
@rate_class("writes")
@json_body(KeyRotate, example={"overlap_seconds": 3600}, required=False)
async def rotate_key(key_id: str, caller: Admin, key: IdempotencyKey, request: Request, state: State) -> Response:
    """Create a key with the same name and scopes that `replaces` this key.

    The old key stays valid for `overlap_seconds` (default: one day) and then expires, so that its users have time
    to switch. The new key expires when the old key would have expired, unless the body sets another time. Only this
    response contains the `token`. The body may be empty.
    """
    body = validate_as(KeyRotate, await read_json(request) if await request.body() else {})
    return await rotate_from(state, caller, key, key_id, body)


async def rotate_from(state: AppState, caller: Caller, key: str | None, key_id: str, body: KeyRotate) -> Response:
    """Rotate a key; ``key`` is an ``Idempotency-Key``. Raises what :func:`api.keys.service.rotate` raises."""
    max_keys = state.settings.quota_keys

    async def prepare() -> Callable[[Session], NewApiKeyOut]:
        return lambda session: service.new_key_out(service.rotate(session, caller, key_id, body, max_keys=max_keys))

    identity = ["POST /v1/api-keys/rotate", key_id, body.model_dump(mode="json")]
    return await idempotent_create(
        state, caller, key, request=identity, prepare=prepare, status=201, action="rotate", redact_on_replay=_TOKEN
    )
