"""Tables of resumable uploads; only ``core.store.uploads`` changes them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from core.store.base import Base, Id, ProjectRef


class Upload(Base):
    """A file that a client sends in parts. It is complete once all its bytes are received."""

    __tablename__ = "uploads"
    __table_args__ = (
        Index("ix_uploads_list", "project_id", "id"),
        Index("ix_uploads_expires_at", "expires_at"),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectRef]
    filename: Mapped[str]
    tus_metadata: Mapped[str]  # the header Upload-Metadata
    size_bytes: Mapped[int]
    received_bytes: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]

    @property
    def is_complete(self) -> bool:
        """Whether all bytes are received."""
        return self.received_bytes == self.size_bytes


class UploadPart(Base):
    """A stored file with consecutive bytes of an upload."""

    __tablename__ = "upload_parts"

    upload_id: Mapped[Id] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True)
    start: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # offset of its first byte
    project_id: Mapped[ProjectRef]
    key: Mapped[str]
    size_bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
