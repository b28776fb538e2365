"""Table of sweeps; only ``core.store.sweeps`` and ``core.store.sweep_progress`` change it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from core.store.base import Base, Id, ProjectRef


class Sweep(Base):
    """Jobs that were created together and differ in a few fields; ``jobs.sweep_id`` refers to it."""

    __tablename__ = "sweeps"
    __table_args__ = (Index("ix_sweeps_list", "project_id", "id"),)

    id: Mapped[Id] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectRef]
    name: Mapped[str | None]
    spec: Mapped[dict[str, Any]]  # the base spec, as the client sent it
    grid: Mapped[dict[str, Any]]  # values by field
    points: Mapped[list[Any]]  # merge patches of the spec
    fields: Mapped[list[Any]]  # the varied fields, in the order of the grid
    num_jobs: Mapped[int]  # that were created; some may be deleted
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]  # when its last job ended; None again after a retry
