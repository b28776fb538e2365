"""Table of offered views; only ``core.store.view_offers`` changes it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from core.store.base import Base, Id, Keyword, ProjectRef


class OfferedViews(Base):
    """Views of a running job whose teacher outputs idle workers may compute (:class:`core.reporting.ViewOffer`)."""

    __tablename__ = "offered_views"

    job_id: Mapped[Id] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    project_id: Mapped[ProjectRef]
    attempt: Mapped[int]  # that offers them
    accelerator: Mapped[Keyword]  # cpu, cuda
    cache_id: Mapped[Id]  # of the cache folder that the job's worker reads
    views_key: Mapped[str] = mapped_column(String(64))
    next_view: Mapped[int]  # the first one of which shards may be missing
    num_views: Mapped[int]
    num_shards: Mapped[int] = mapped_column(server_default="0")  # missing ones for which no worker has come yet
    failures: Mapped[int] = mapped_column(default=0)  # of processes that claimed views in this attempt
    created_at: Mapped[datetime]
