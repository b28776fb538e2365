"""What endpoints ask for: the parts of the service, the caller, the page of a list."""

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
from api.rate_limit import Rates, class_of
from api.telemetry import Telemetry
from core.broker import Broker
from core.errors import Forbidden
from core.settings import Settings
from core.store import audit
from core.store.artifact_store import ArtifactStore
from core.store.db import Database, Session

__all__ = [
    "NO_NUL",
    "Admin",
    "After",
    "AppState",
    "Caller",
    "Limit",
    "Parts",
    "Reader",
    "Writer",
    "caller",
    "reader",
    "recalled_reader",
    "writer",
]

MAX_LIMIT = 100


@dataclass(frozen=True, slots=True)
class AppState:
    """Everything that lives as long as the app. The dashboard finds it in ``app.state.parts`` too."""

    settings: Settings
    database: Database
    store: ArtifactStore
    hints: Broker
    inspector: Inspector
    live: JobWatcher
    telemetry: Telemetry
    gate: Authenticator
    rates: Rates
    cookie_secret: str

    @property
    def incoming(self) -> Path:
        """Where uploads are while they arrive."""
        return self.settings.home / "incoming"

    @contextmanager
    def change(self, who: Caller, action: str, object_id: str | None) -> Iterator[Session]:
        """A unit of work that changes something on the caller's behalf, and says so in the audit log.

        Raises what :meth:`Database.write` raises. Nothing is written where the block raises.
        """
        with self.database.write() as session:
            yield session
            audit.record(session, who, action, object_id)


# What waits for nothing is `async` all the same: FastAPI sends every other one through the thread pool. And each takes
# the request alone: a dependency of a dependency costs FastAPI as much as all that we do to answer a poll. That the
# operations need a key, `api.openapi` declares.


async def service_parts(request: Request) -> AppState:
    """The parts of the app that serves this request."""
    parts: AppState = request.app.state.parts
    return parts


async def caller(request: Request) -> Caller:
    """Whoever sent the request. Raises :class:`NotAuthenticated`, :class:`RateLimited`."""
    parts = await service_parts(request)
    who = await to_thread.run_sync(parts.gate.identify, request)
    await parts.rates.require(who.key_id, class_of(request))
    return who


async def reader(request: Request) -> Caller:
    """A caller who may read. Raises :class:`NotAuthenticated`, :class:`Forbidden`."""
    return _with_scope(await caller(request), "read")


async def recalled_reader(request: Request) -> Caller:
    """A caller who might read when last asked about: whoever takes this looks at the key again, with what it reads.

    Raises :class:`NotAuthenticated`, :class:`Forbidden`, :class:`RateLimited`.
    """
    parts = await service_parts(request)
    who = parts.gate.recall(request)
    if who is None:
        who = await caller(request)
    else:
        await parts.rates.require(who.key_id, "reads")
    return _with_scope(who, "read")


async def writer(request: Request) -> Caller:
    """A caller who may change things. Raises :class:`NotAuthenticated`, :class:`Forbidden`."""
    return from_request(_with_scope(await caller(request), "write"), request)


async def admin(request: Request) -> Caller:
    """A caller who may manage keys. Raises :class:`NotAuthenticated`, :class:`Forbidden`."""
    return from_request(_with_scope(await caller(request), "admin"), request)


def from_request(who: Caller, request: Request) -> Caller:
    """The caller with what the audit log says of a change: in which request, and from where."""
    return replace(who, request_id=request.scope["state"]["request_id"], client_address=client_address(request))


Parts = Annotated[AppState, Depends(service_parts)]
Reader = Annotated[Caller, Depends(reader)]
Writer = Annotated[Caller, Depends(writer)]
Admin = Annotated[Caller, Depends(admin)]

NO_NUL = r"^[^\x00]*$"  # for texts that a query asks for: no database takes a NUL character

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="At most so many.")]
After = Annotated[
    str | None, Query(max_length=64, description="The id of the last object of the page before.", examples=[None])
]


def _with_scope(who: Caller, scope: str) -> Caller:
    if not who.may(scope):
        raise Forbidden(f"This needs a key with the scope {scope}; this one has {', '.join(who.scopes) or 'none'}.")
    return who
