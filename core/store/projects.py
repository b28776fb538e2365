"""Projects: the owners of all other objects."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from core.errors import NotFound
from core.ids import new_id
from core.store.db import utc_now
from core.store.project_tables import Project


def create(session: Session, name: str) -> Project:
    """Add a project."""
    project = Project(id=new_id("prj"), name=name, created_at=utc_now(session))
    session.add(project)
    session.flush()
    return project


def get(session: Session, project_id: str) -> Project:
    """Load a project. Raises ``NotFound``, which lists the known projects."""
    known = {project.id: project for project in list_projects(session)}
    if project_id not in known:
        raise NotFound(f"There is no project {project_id[:60]}; known: {', '.join(known) or 'none'}.")
    return known[project_id]


def find(session: Session, names: Sequence[str]) -> list[str]:
    """Return the ids of the projects with one of these ids or names."""
    if not names:
        return []
    statement = select(Project.id).where(or_(Project.id.in_(names), Project.name.in_(names)))
    return list(session.scalars(statement.order_by(Project.id).limit(2)))


def list_projects(session: Session) -> list[Project]:
    """List all projects, oldest first."""
    return list(session.scalars(select(Project).order_by(Project.id)))
