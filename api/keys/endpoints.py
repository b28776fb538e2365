"""``/v1/api-keys``: parse, delegate, status code."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request, Response

from api.deps import Admin, After, Limit, Parts
from api.idempotency import IdempotencyKey, created, idempotent_create
from api.keys import service
from api.keys.schemas import ApiKeyOut, KeyCreate, KeyRotate, NewApiKeyOut
from api.problems import problems
from api.request_body import json_body, read_json, validated
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
_PROBLEMS = (MalformedRequest, PayloadTooLarge, UnsupportedMedia, QuotaExceeded)


@router.post(
    "",
    status_code=201,
    response_model=NewApiKeyOut,
    responses=created(*_PROBLEMS, status=201),
    openapi_extra=json_body(KeyCreate, example={"name": "laptop", "scopes": ["read", "write"], "expires_in_days": 90}),
)
async def create_key(who: Admin, key: IdempotencyKey, request: Request, parts: Parts) -> Response:
    """Make a key for this project, with no more scopes than your own.

    Its `token` is in this answer and nowhere else, as only a hash of it is stored. So a repeated request with the
    same `Idempotency-Key` makes no second key, but is answered with `token` null.
    """
    asked = validated(KeyCreate, await read_json(request))
    most = parts.settings.quota_keys

    async def prepare() -> Callable[[Session], NewApiKeyOut]:
        return lambda session: service.new_key_out(service.create(session, who, asked, most=most))

    identity = ["POST /v1/api-keys", asked.model_dump(mode="json")]
    return await idempotent_create(parts, who, key, request=identity, prepare=prepare, status=201, shown_once=_TOKEN)


@router.get("", response_model=Page[ApiKeyOut], responses=problems())
def list_keys(who: Admin, parts: Parts, limit: Limit = 20, after: After = None) -> Page[ApiKeyOut]:
    """The project's keys, newest first, revoked ones included."""
    with parts.database.read() as session:
        page = keys.page(session, who.project_id, limit=limit, after=after)
        return Page(data=[service.key_out(each) for each in page.items], has_more=page.has_more)


@router.get("/{key_id}", response_model=ApiKeyOut, responses=problems(NotFound))
def get_key(key_id: str, who: Admin, parts: Parts) -> ApiKeyOut:
    """One key."""
    with parts.database.read() as session:
        return service.key_out(keys.get(session, who.project_id, key_id))


@router.delete("/{key_id}", status_code=204, responses=problems(NotFound, LastAdminKey))
def revoke_key(key_id: str, who: Admin, parts: Parts) -> None:
    """Revoke a key: it ends at once and for good, and stays in the list.

    The project's last admin key in force cannot be revoked: make another one first, or rotate it.
    """
    with parts.change(who, "api_key.revoke", key_id) as session:
        keys.revoke(session, who.project_id, key_id, keep_an_admin=True)


@router.post(
    "/{key_id}/rotate",
    status_code=201,
    response_model=NewApiKeyOut,
    responses=created(*_PROBLEMS, NotFound, Conflict, status=201),
    openapi_extra=json_body(KeyRotate, example={"overlap_seconds": 3600}, required=False),
)
async def rotate_key(key_id: str, who: Admin, key: IdempotencyKey, request: Request, parts: Parts) -> Response:
    """Replace a key by a new one with the same name and scopes, which `replaces` it.

    The old one stays good for `overlap_seconds` (a day, if you do not say) and then expires, so that nobody who
    uses it is cut off. The new one lives as long as the old one was to live, unless you say otherwise. `token` is
    shown once, as it is when a key is made. The body may be empty.
    """
    asked = validated(KeyRotate, await read_json(request) if await request.body() else {})
    most = parts.settings.quota_keys

    async def prepare() -> Callable[[Session], NewApiKeyOut]:
        return lambda session: service.new_key_out(service.rotate(session, who, key_id, asked, most=most))

    identity = ["POST /v1/api-keys/rotate", key_id, asked.model_dump(mode="json")]
    return await idempotent_create(
        parts, who, key, request=identity, prepare=prepare, status=201, action="rotate", shown_once=_TOKEN
    )
