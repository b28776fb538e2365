"""Table of the counters for Prometheus, which belong to no project."""

from __future__ import annotations

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from core.store.base import Base


class StoredCounter(Base):
    """Amount to add to a series; maintained by ``core.store.counters``."""

    __tablename__ = "counters"

    id: Mapped[str] = mapped_column(String(400), primary_key=True)  # of a merged row: its series
    series: Mapped[str] = mapped_column(String(400))
    amount: Mapped[int]  # in thousandths for seconds
