"""Projects: the owners of all other objects."""

from __future__ import annotations

from sqlalchemy import select
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


def list_projects(session: Session) -> list[Project]:
    """List all projects, oldest first."""
    return list(session.scalars(select(Project).order_by(Project.id)))
