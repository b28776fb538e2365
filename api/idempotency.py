"""Requests that create an object: executed once per ``Idempotency-Key``; repeated requests get the first response."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

import anyio
import structlog
from anyio import to_thread
from fastapi import Depends, Header
from fastapi.responses import JSONResponse, Response

from api.deps import AppState
from api.problems import problems
from api.schemas import Out
from core.errors import IdempotencyKeyReused, InvalidRequest, PotstillError, RequestInFlight
from core.store import audit, idempotency
from core.store.db import DatabaseUnavailable, Session
from core.store.keys import Caller

REPLAYED = "Idempotent-Replayed"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")

log = structlog.get_logger(__name__)

Make = Callable[[Session], Out]


def idempotency_key(
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="1 to 255 visible ASCII characters. Requests with the same key are executed once.",
        ),
    ] = None,
) -> str | None:
    """Return the request's key. Raises :class:`InvalidRequest` if it is invalid."""
    if idempotency_key is not None and not _KEY.fullmatch(idempotency_key):
        raise InvalidRequest("Idempotency-Key must be 1 to 255 visible ASCII characters, a UUID for example.")
    return idempotency_key


IdempotencyKey = Annotated[str | None, Depends(idempotency_key)]


def create_responses(*errors: type[PotstillError], status: int) -> dict[int | str, dict[str, Any]]:
    """Return the responses of an operation that creates an object, for OpenAPI."""
    replayed = {
        REPLAYED: {"description": "`true` if this is the response to an earlier request.", "schema": {"type": "string"}}
    }
    return {**problems(*errors, IdempotencyKeyReused, RequestInFlight), status: {"headers": replayed}}


async def idempotent_create(
    state: AppState,
    caller: Caller,
    key: str | None,
    *,
    request: Any,
    prepare: Callable[[], Awaitable[Make]],
    status: int,
    action: str = "create",
    redact_on_replay: frozenset[str] = frozenset(),
) -> Response:
    """Create an object and return it, or repeat the response of an earlier request with the same key.

    ``request`` identifies the request, as JSON. ``prepare`` checks it and returns a function that creates the object;
    this function, the stored response and the audit log entry share one transaction. Fields in ``redact_on_replay``
    are not stored: they are null in a repeated response.
    """
    new: idempotency.FirstRequest | None = None
    if key is not None:
        record = await to_thread.run_sync(_begin, state, caller, key, _fingerprint(request))
        if isinstance(record, idempotency.Replay):
            return JSONResponse(record.body, record.status, headers={REPLAYED: "true"})
        new = record
    try:
        make = await prepare()
        create = partial(
            _create, state, caller, make, new=new, status=status, action=action, redact_on_replay=redact_on_replay
        )
        body = await to_thread.run_sync(create)
    except BaseException:
        if new is not None:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(_abandon, state, new)
        raise
    event = f"{body['object']}.created"
    log.info(event, id=body["id"], project_id=caller.project_id)
    return JSONResponse(body, status)


def _begin(
    state: AppState, caller: Caller, key: str, fingerprint: str
) -> idempotency.FirstRequest | idempotency.Replay:
    with state.database.write() as session:
        return idempotency.begin(session, caller.project_id, key, fingerprint)


def _create(
    state: AppState,
    caller: Caller,
    make: Make,
    *,
    new: idempotency.FirstRequest | None,
    status: int,
    action: str,
    redact_on_replay: frozenset[str],
) -> dict[str, Any]:
    with state.database.write() as session:
        body = make(session).model_dump(mode="json")
        audit.record(session, caller, f"{body['object']}.{action}", body["id"])
        if new is not None:
            idempotency.finish(session, new, status, {**body, **dict.fromkeys(redact_on_replay)})
    return body


def _abandon(state: AppState, new: idempotency.FirstRequest) -> None:
    """Delete the record: nothing was created, so the client may fix its request and reuse the key."""
    # If the database is unavailable, the record expires after a minute.
    with suppress(DatabaseUnavailable), state.database.write() as session:
        idempotency.abandon(session, new)


def _fingerprint(request: Any) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
