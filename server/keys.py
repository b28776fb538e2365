"""Manage API keys from the command line: create the first key, or a new one after all keys are lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from core.errors import InvalidRequest, NotAuthenticated, NotFound
from core.settings import load_settings
from core.store import keys, projects
from core.store.db import Database, Session, open_database, utc_now

FIRST_PROJECT = "default"


def create(*, name: str, scopes: Sequence[str], project: str | None, days: float | None = None) -> str:
    """Create a key that expires after ``days`` and return its token. Raises ``InvalidRequest``, ``NotFound``."""
    unknown = [scope for scope in scopes if scope not in keys.SCOPES]
    if unknown:
        raise InvalidRequest(f"There is no scope {unknown[0]!r}; available: {', '.join(keys.SCOPES)}.")
    with _database().write() as session:
        expires_at = None if days is None else utc_now(session) + timedelta(days=days)
        owner = _project(session, project)
        return keys.create(session, owner, name=name, scopes=scopes, expires_at=expires_at).token


def is_valid(token: str) -> bool:
    """Whether the database accepts a key."""
    try:
        with _database().read() as session:
            keys.authenticate(session, token)
    except NotAuthenticated:
        return False
    return True


def lines() -> Iterator[str]:
    """Yield one line per key, by project."""
    with _database().read() as session:
        for project in projects.list_projects(session):
            for key in keys.list_keys(session, project.id):
                state = "revoked" if key.revoked_at else f"last used {key.last_used_at or 'never'}"
                if key.expires_at:
                    state += f", until {key.expires_at}"
                yield f"{key.id}  {key.prefix}…  {project.name}  {','.join(key.scopes)}  {key.name}  {state}"


def revoke(key_id: str) -> None:
    """Revoke a key. Raises ``NotFound``."""
    with _database().write() as session:
        for project in projects.list_projects(session):
            if any(key.id == key_id for key in keys.list_keys(session, project.id)):
                keys.revoke(session, project.id, key_id)
                return
    raise NotFound(f"There is no key {key_id}; `potstill-server keys list` lists the keys.")


def _database() -> Database:
    return open_database(load_settings())


def _project(session: Session, project_id: str | None) -> str:
    if project_id is not None:
        return projects.get(session, project_id).id
    existing = projects.list_projects(session)
    return existing[0].id if existing else projects.create(session, FIRST_PROJECT).id
