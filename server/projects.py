"""Projects from the command line: there is no request by which one project could see another."""

from __future__ import annotations

from collections.abc import Iterator

from core.errors import InvalidRequest
from core.settings import load_settings
from core.store import projects, quotas
from core.store.db import Database, open_database

_DEFAULT = "default"
_LIMITS = ("max_jobs", "max_stored_bytes", "max_upload_bytes")


def create(name: str) -> str:
    """Make a project and return its id."""
    with _database().write() as session:
        return projects.create(session, name).id


def lines() -> Iterator[str]:
    """A line for each project."""
    with _database().read() as session:
        for project in projects.list_projects(session):
            own = [f"{name}={value}" for name in _LIMITS if (value := getattr(project, name)) is not None]
            used = (
                f"{quotas.unfinished(session, project.id):,} unfinished jobs, {quotas.stored(session, project.id):,} B"
            )
            yield f"{project.id}  {project.name}  {used}  {' '.join(own) or 'limits of the settings'}"


def set_limits(project_id: str, **limits: str | None) -> None:
    """Give a project limits of its own: numbers, or `default` for the settings'; None leaves one as it is.

    Raises ``NotFound``, and ``InvalidRequest`` for what is no limit.
    """
    wanted = {name: _limit(name, text) for name, text in limits.items() if text is not None}
    with _database().write() as session:
        project = projects.get(session, project_id)
        for name, value in wanted.items():
            setattr(project, name, value)


def _limit(name: str, text: str) -> int | None:
    if text == _DEFAULT:
        return None
    least = 1 if name == "max_upload_bytes" else 0
    if not (text.isascii() and text.isdecimal() and least <= int(text[:19]) < 2**63):
        raise InvalidRequest(f"{text[:40]!r} cannot be {name}: give a whole number from {least} on, or `{_DEFAULT}`.")
    return int(text)


def _database() -> Database:
    return open_database(load_settings())
