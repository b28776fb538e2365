"""Manage projects from the command line; the API gives no project access to another."""

from __future__ import annotations

from collections.abc import Iterator

from core.errors import InvalidRequest
from core.settings import load_settings
from core.store import projects, quotas
from core.store.db import Database, open_database

_DEFAULT = "default"
_LIMITS = ("max_jobs", "max_stored_bytes", "max_upload_bytes")


def create(name: str) -> str:
    """Create a project and return its id."""
    with _database().write() as session:
        return projects.create(session, name).id


def lines() -> Iterator[str]:
    """Yield one line per project."""
    with _database().read() as session:
        for project in projects.list_projects(session):
            limits = [f"{name}={value}" for name in _LIMITS if (value := getattr(project, name)) is not None]
            num_unfinished = quotas.count_unfinished(session, project.id)
            usage = f"{num_unfinished:,} unfinished jobs, {quotas.get_stored_bytes(session, project.id):,} B"
            yield f"{project.id}  {project.name}  {usage}  {' '.join(limits) or 'limits of the settings'}"


def set_limits(project_id: str, **limits: str | None) -> None:
    """Set limits of a project: a number, or `default` for the limit of the settings; None leaves a limit unchanged.

    Raises ``NotFound``, and ``InvalidRequest`` for an invalid limit.
    """
    values = {name: _limit(name, text) for name, text in limits.items() if text is not None}
    with _database().write() as session:
        project = projects.get(session, project_id)
        for name, value in values.items():
            setattr(project, name, value)


def _limit(name: str, text: str) -> int | None:
    if text == _DEFAULT:
        return None
    minimum = 1 if name == "max_upload_bytes" else 0
    if not (text.isascii() and text.isdecimal() and minimum <= int(text[:19]) < 2**63):
        raise InvalidRequest(
            f"{text[:40]!r} is not a valid {name}: use an integer of at least {minimum}, or `{_DEFAULT}`."
        )
    return int(text)


def _database() -> Database:
    return open_database(load_settings())
