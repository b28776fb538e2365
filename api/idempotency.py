"""Creating requests: checked, made once per ``Idempotency-Key``, and answered the same however often they are sent."""

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
            description="Any text of your own, 1 to 255 visible ASCII characters: the request is done once.",
        ),
    ] = None,
) -> str | None:
    """The request's key. Raises :class:`InvalidRequest` where it cannot be one."""
    if idempotency_key is not None and not _KEY.fullmatch(idempotency_key):
        raise InvalidRequest("Idempotency-Key must be 1 to 255 visible ASCII characters, a UUID for example.")
    return idempotency_key


IdempotencyKey = Annotated[str | None, Depends(idempotency_key)]


def created(*kinds: type[PotstillError], status: int) -> dict[int | str, dict[str, Any]]:
    """What a creating operation may answer, for OpenAPI."""
    replayed = {
        REPLAYED: {"description": "`true` where this answers an earlier request.", "schema": {"type": "string"}}
    }
    return {**problems(*kinds, IdempotencyKeyReused, RequestInFlight), status: {"headers": replayed}}


async def idempotent_create(
    parts: AppState,
    who: Caller,
    key: str | None,
    *,
    request: Any,
    prepare: Callable[[], Awaitable[Make]],
    status: int,
    action: str = "create",
    shown_once: frozenset[str] = frozenset(),
) -> Response:
    """Create something and answer it, or repeat the answer that this key had before.

    ``request`` is all that makes this request what it is, as JSON. ``prepare`` checks it and returns what
    creates the object; that, the record of the answer and the entry of the audit log are one transaction.
    Fields that are ``shown_once`` are kept nowhere: they are null when the answer is repeated.
    """
    new: idempotency.New | None = None
    if key is not None:
        begun = await to_thread.run_sync(_begin, parts, who, key, _fingerprint(request))
        if isinstance(begun, idempotency.Replay):
            return JSONResponse(begun.body, begun.status, headers={REPLAYED: "true"})
        new = begun
    try:
        make = await prepare()
        create = partial(_make, parts, who, make, new=new, status=status, action=action, shown_once=shown_once)
        body = await to_thread.run_sync(create)
    except BaseException:
        if new is not None:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(_abandon, parts, new)
        raise
    event = f"{body['object']}.created"
    log.info(event, id=body["id"], project_id=who.project_id)
    return JSONResponse(body, status)


def _begin(parts: AppState, who: Caller, key: str, fingerprint: str) -> idempotency.New | idempotency.Replay:
    with parts.database.write() as session:
        return idempotency.begin(session, who.project_id, key, fingerprint)


def _make(
    parts: AppState,
    who: Caller,
    make: Make,
    *,
    new: idempotency.New | None,
    status: int,
    action: str,
    shown_once: frozenset[str],
) -> dict[str, Any]:
    with parts.database.write() as session:
        body = make(session).model_dump(mode="json")
        audit.record(session, who, f"{body['object']}.{action}", body["id"])
        if new is not None:
            idempotency.finish(session, new, status, {**body, **dict.fromkeys(shown_once)})
    return body


def _abandon(parts: AppState, new: idempotency.New) -> None:
    """Nothing was created, so the client may mend its request and use the key again."""
    # Without a database the record is forgotten by itself, a minute later.
    with suppress(DatabaseUnavailable), parts.database.write() as session:
        idempotency.abandon(session, new)


def _fingerprint(request: Any) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
