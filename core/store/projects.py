"""Projects: what owns everything else."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.ids import new_id
from core.store.db import utc_now
from core.store.tables import Project


def create(session: Session, name: str) -> Project:
    """Add a project."""
    project = Project(id=new_id("prj"), name=name, created_at=utc_now(session))
    session.add(project)
    session.flush()
    return project


def list_projects(session: Session) -> list[Project]:
    """All projects, oldest first."""
    return list(session.scalars(select(Project).order_by(Project.id)))
