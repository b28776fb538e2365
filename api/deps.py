"""What endpoints ask for: the parts of the service, the caller, the page of a list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from anyio import to_thread
from fastapi import Depends, Query, Request

from api.auth import Caller, Gate
from api.inspector import Inspector
from api.live import Live
from api.telemetry import Telemetry
from core.errors import Forbidden
from core.queue import Hints
from core.settings import Settings
from core.store.artifacts import ArtifactStore
from core.store.db import Database

__all__ = [
    "After",
    "Caller",
    "Limit",
    "Parts",
    "Reader",
    "ServiceParts",
    "Writer",
    "caller",
    "reader",
    "recalled_reader",
    "writer",
]

MAX_LIMIT = 100


@dataclass(frozen=True, slots=True)
class ServiceParts:
    """Everything that lives as long as the app. The dashboard finds it in ``app.state.parts`` too."""

    settings: Settings
    database: Database
    store: ArtifactStore
    hints: Hints
    inspector: Inspector
    live: Live
    telemetry: Telemetry
    gate: Gate
    cookie_secret: str

    @property
    def incoming(self) -> Path:
        """Where uploads are while they arrive."""
        return self.settings.home / "incoming"


# What waits for nothing is `async` all the same: FastAPI sends every other one through the thread pool. And each takes
# the request alone: a dependency of a dependency costs FastAPI as much as all that we do to answer a poll. That the
# operations need a key, `api.openapi` declares.


async def service_parts(request: Request) -> ServiceParts:
    """The parts of the app that serves this request."""
    parts: ServiceParts = request.app.state.parts
    return parts


async def caller(request: Request) -> Caller:
    """Whoever sent the request. Raises :class:`NotAuthenticated`."""
    parts = await service_parts(request)
    return await to_thread.run_sync(parts.gate.identify, request)


async def reader(request: Request) -> Caller:
    """A caller who may read. Raises :class:`NotAuthenticated`, :class:`Forbidden`."""
    return _with_scope(await caller(request), "read")


async def recalled_reader(request: Request) -> Caller:
    """A caller who might read when last asked about: whoever takes this looks at the key again, with what it reads.

    Raises :class:`NotAuthenticated`, :class:`Forbidden`.
    """
    parts = await service_parts(request)
    who = parts.gate.recall(request) or await caller(request)
    return _with_scope(who, "read")


async def writer(request: Request) -> Caller:
    """A caller who may change things. Raises :class:`NotAuthenticated`, :class:`Forbidden`."""
    return _with_scope(await caller(request), "write")


Parts = Annotated[ServiceParts, Depends(service_parts)]
Reader = Annotated[Caller, Depends(reader)]
Writer = Annotated[Caller, Depends(writer)]

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="At most so many.")]
After = Annotated[
    str | None, Query(max_length=64, description="The id of the last object of the page before.", examples=[None])
]


def _with_scope(who: Caller, scope: str) -> Caller:
    # admin includes write includes read
    enough = {"read": {"read", "write", "admin"}, "write": {"write", "admin"}}[scope]
    if not enough & set(who.scopes):
        raise Forbidden(f"This needs a key with the scope {scope}; this one has {', '.join(who.scopes) or 'none'}.")
    return who
