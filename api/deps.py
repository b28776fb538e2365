"""Dependencies of endpoints: the application state, the caller, the parameters of a list."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from anyio import to_thread
from fastapi import Depends, Query, Request

from api.auth import Authenticator, Caller
from api.auth_throttle import client_address
from api.inspector import Inspector
from api.job_watch import JobWatcher
from api.rate_limit import RateLimiter, request_rate_class
from api.telemetry import Telemetry
from core.broker import Broker
from core.errors import Forbidden
from core.settings import Settings
from core.spec.patterns import NO_NUL
from core.store import audit
from core.store.artifact_store import ArtifactStore
from core.store.db import Database, Session

__all__ = [
    "Admin",
    "After",
    "AppState",
    "Caller",
    "Limit",
    "Reader",
    "Search",
    "State",
    "Writer",
    "get_app_state",
    "get_cached_reader",
    "get_caller",
    "get_reader",
    "get_writer",
]

MAX_LIMIT = 100


@dataclass(frozen=True, slots=True)
class AppState:
    """Objects that live as long as the app; stored in ``app.state.app_state``."""

    settings: Settings
    database: Database
    store: ArtifactStore
    broker: Broker
    inspector: Inspector
    watcher: JobWatcher
    telemetry: Telemetry
    authenticator: Authenticator
    rate_limiter: RateLimiter
    cookie_secret: str

    @property
    def incoming(self) -> Path:
        """Directory of uploads that are being received."""
        return self.settings.home / "incoming"

    @contextmanager
    def change(self, caller: Caller, action: str, object_id: str | None) -> Iterator[Session]:
        """Open a write transaction that also records the change in the audit log.

        Nothing is written if the block raises. Raises what :meth:`Database.write` raises.
        """
        with self.database.write() as session:
            yield session
            audit.record(session, caller, action, object_id)


# All dependencies are `async`: FastAPI runs the others in the thread pool. Each takes only the request: resolving a
# dependency of a dependency costs FastAPI as much as the rest of a poll. `api.openapi` declares the security scheme.


async def get_app_state(request: Request) -> AppState:
    """Return the state of the app that serves this request."""
    state: AppState = request.app.state.app_state
    return state


async def get_caller(request: Request) -> Caller:
    """Authenticate the request and count it. Raises :class:`NotAuthenticated`, :class:`RateLimited`."""
    state = await get_app_state(request)
    caller = await to_thread.run_sync(state.authenticator.identify, request)
    await state.rate_limiter.require(caller.key_id, request_rate_class(request))
    request.state.caller = caller  # for `api.references`
    return caller


async def get_reader(request: Request) -> Caller:
    """Return a caller with the scope ``read``. Raises :class:`NotAuthenticated`, :class:`Forbidden`."""
    return _with_scope(await get_caller(request), "read")


async def get_cached_reader(request: Request) -> Caller:
    """Return a caller that had the scope ``read`` at its last database check.

    The endpoint must check the key again in the transaction that reads its data. Raises :class:`NotAuthenticated`,
    :class:`Forbidden`, :class:`RateLimited`.
    """
    state = await get_app_state(request)
    caller = state.authenticator.cached_caller(request)
    if caller is None:
        caller = await get_caller(request)
    else:
        await state.rate_limiter.require(caller.key_id, request_rate_class(request))
    return _with_scope(caller, "read")


async def get_writer(request: Request) -> Caller:
    """Return a caller with the scope ``write``. Raises :class:`NotAuthenticated`, :class:`Forbidden`."""
    return with_request_info(_with_scope(await get_caller(request), "write"), request)


async def get_admin(request: Request) -> Caller:
    """Return a caller with the scope ``admin``. Raises :class:`NotAuthenticated`, :class:`Forbidden`."""
    return with_request_info(_with_scope(await get_caller(request), "admin"), request)


def with_request_info(caller: Caller, request: Request) -> Caller:
    """Add the request id and the client's address, which the audit log records with a change."""
    return replace(caller, request_id=request.scope["state"]["request_id"], client_address=client_address(request))


# Routes with one of these need a rate class (`api.route_checks`).
CALLER_DEPENDENCIES = frozenset({get_caller, get_reader, get_cached_reader, get_writer, get_admin})


State = Annotated[AppState, Depends(get_app_state)]
Reader = Annotated[Caller, Depends(get_reader)]
Writer = Annotated[Caller, Depends(get_writer)]
Admin = Annotated[Caller, Depends(get_admin)]


Search = Annotated[str, Query(max_length=200, pattern=NO_NUL)]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Maximum number of objects.")]
After = Annotated[
    str | None, Query(max_length=64, description="Id of the last object of the previous page.", examples=[None])
]


def _with_scope(caller: Caller, scope: str) -> Caller:
    if not caller.has_scope(scope):
        raise Forbidden(
            f"This needs a key with the scope {scope}; this key has {', '.join(caller.scopes) or 'no scopes'}."
        )
    return caller
