"""The page of API keys: list, create, rotate and revoke. A new secret is shown once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Annotated, Literal, get_args

from anyio import to_thread
from fastapi import APIRouter, Depends, Form
from fastapi.responses import Response

from api.dashboard.endpoints import PageRoute
from api.dashboard.forms import FormToken, idempotency_key, problem_texts
from api.dashboard.rendering import page, see_other
from api.deps import AppState, Caller, State, get_admin
from api.keys import endpoints, service
from api.keys.schemas import OVERLAP_SECONDS, ApiKeyOut, KeyCreate, KeyRotate, Scope
from api.rate_limit import rate_class
from api.request_body import validate_as
from core.errors import InvalidRequest, NotFound, PotstillError
from core.store import keys

KEYS_PER_PAGE = 25
# Offered overlaps of a rotation, in seconds.
OVERLAPS = ((86_400, "one day"), (3_600, "one hour"), (7 * 86_400, "seven days"), (0, "no overlap: it ends now"))

Administrator = Annotated[Caller, Depends(get_admin)]
KeyState = Literal["active", "expired", "revoked"]

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key with what the page derives from it."""

    key: ApiKeyOut
    state: KeyState
    is_own: bool  # the key of this session
    replaced_by: str | None


@dataclass(frozen=True, slots=True)
class KeyForm:
    """Values of the form of a new key."""

    name: str = ""
    scope: str = "write"
    expires_on: str = ""


@router.get("/keys")
@rate_class("reads")
def keys_page(state: State, caller: Administrator, after: str | None = None) -> Response:
    """List the keys of the project, newest first, including revoked ones."""
    return _page(state, caller, after=after or None)


@router.post("/keys")
@rate_class("writes")
async def create_key(
    state: State,
    caller: Administrator,
    token: FormToken,
    *,
    name: Annotated[str, Form(max_length=500)] = "",
    scope: Annotated[str, Form(max_length=20)] = "",
    expires_on: Annotated[str, Form(max_length=40)] = "",
) -> Response:
    """Create a key as ``POST /v1/api-keys`` does, and show its secret."""
    form = KeyForm(name.strip(), scope, expires_on.strip())
    try:
        request = validate_as(KeyCreate, _document(form))
        response = await endpoints.create_from(state, caller, idempotency_key(token), request)
    except PotstillError as error:
        return await to_thread.run_sync(partial(_page, state, caller, form=form, error=error))
    return _secret_page(response)


@router.post("/keys/{key_id}/rotate")
@rate_class("writes")
async def rotate_key(
    state: State,
    caller: Administrator,
    key_id: str,
    token: FormToken,
    overlap_seconds: Annotated[int, Form()] = OVERLAP_SECONDS,
) -> Response:
    """Replace a key as ``POST /v1/api-keys/{key_id}/rotate`` does, and show the new secret."""
    try:
        request = validate_as(KeyRotate, {"overlap_seconds": overlap_seconds})
        response = await endpoints.rotate_from(state, caller, idempotency_key(token), key_id, request)
    except NotFound:
        raise
    except PotstillError as error:
        return await to_thread.run_sync(partial(_page, state, caller, error=error))
    return _secret_page(response)


@router.post("/keys/{key_id}/revoke")
@rate_class("writes")
def revoke_key(state: State, caller: Administrator, key_id: str) -> Response:
    """Revoke a key as ``DELETE /v1/api-keys/{key_id}`` does; revoking it again changes nothing."""
    try:
        endpoints.revoke_key(key_id, caller, state)
    except NotFound:
        raise
    except PotstillError as error:
        return _page(state, caller, error=error)
    return see_other("/keys")


def _document(form: KeyForm) -> dict[str, object]:
    """Return the body of the request. A scope includes those before it; a date is midnight in UTC."""
    scopes = get_args(Scope)
    if form.scope not in scopes:
        raise InvalidRequest.for_field("/scopes", "choose what the key allows")
    included = list(scopes[: scopes.index(form.scope) + 1])
    expires_at = f"{form.expires_on}T00:00:00Z" if form.expires_on else None
    return {"name": form.name, "scopes": included, "expires_at": expires_at}


def _page(
    state: AppState,
    caller: Caller,
    *,
    after: str | None = None,
    form: KeyForm | None = None,
    error: PotstillError | None = None,
) -> Response:
    with state.database.read() as session:
        found = keys.list_page(session, caller.project_id, limit=KEYS_PER_PAGE, after=after)
        shown = [service.key_out(key) for key in found.items]
    now = datetime.now(UTC)
    successors = {key.replaces: key.id for key in shown if key.replaces}
    return page(
        "keys.html",
        status_code=HTTPStatus(error.status) if error else HTTPStatus.OK,
        section="keys",
        keys=[KeyView(key, _state(key, now), key.id == caller.key_id, successors.get(key.id)) for key in shown],
        form=form or KeyForm(),
        problems=problem_texts(error),
        overlaps=OVERLAPS,
        tomorrow=f"{datetime.fromtimestamp(now.timestamp() + 86_400, UTC):%Y-%m-%d}",
        older=f"/keys?after={shown[-1].id}" if found.has_more else None,
        newest="/keys" if after else None,
    )


def _state(key: ApiKeyOut, now: datetime) -> KeyState:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "active"


def _secret_page(response: Response) -> Response:
    """Show the secret of a created key. A repeated request gets none, because the service does not store it."""
    created = json.loads(bytes(response.body))
    return page("key_secret.html", section="keys", key=created)
