"""Table of the newest log lines of jobs; only ``core.store.job_logs`` changes it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from core.store.base import Base, Id, ProjectRef


class JobLog(Base):
    """The last log lines of a job's newest attempt, redacted, oldest first."""

    __tablename__ = "job_logs"

    job_id: Mapped[Id] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    project_id: Mapped[ProjectRef]
    attempt: Mapped[int]
    lines: Mapped[list[Any]]
    updated_at: Mapped[datetime]
