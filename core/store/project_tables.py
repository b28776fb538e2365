"""The tables of projects themselves: what they are, who may act for them, and who did."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from core.store.base import Base, Id, OwnedBy, Word


class Project(Base):
    """What owns everything else."""

    __tablename__ = "projects"

    id: Mapped[Id] = mapped_column(primary_key=True)
    name: Mapped[str]
    created_at: Mapped[datetime]
    served_at: Mapped[datetime | None]  # when a job of it was last claimed
    # Limits of its own; None: the setting's. Where that may be none, 0 is none.
    max_jobs: Mapped[int | None]
    max_stored_bytes: Mapped[int | None]
    max_upload_bytes: Mapped[int | None]


class ProjectUsage(Base):
    """What a project stores; ``core.store.quotas`` keeps it true."""

    __tablename__ = "project_usage"

    project_id: Mapped[OwnedBy] = mapped_column(primary_key=True)
    stored_bytes: Mapped[int]


class ApiKey(Base):
    """A key to a project. The secret is not here, only its hash."""

    __tablename__ = "api_keys"

    id: Mapped[Id] = mapped_column(primary_key=True)
    project_id: Mapped[OwnedBy] = mapped_column(index=True)
    name: Mapped[str]
    prefix: Mapped[Word]  # what may be shown of the token
    secret_hash: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[Any]]
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    replaces: Mapped[Id | None]  # the key that it was rotated from


class AuditEntry(Base):
    """Who changed what, and from where. Written with the change, never altered."""

    __tablename__ = "audit_log"
    __table_args__ = (
        Index("ix_audit_log_list", "project_id", "id"),
        Index("ix_audit_log_key", "project_id", "key_id", "id"),
        Index("ix_audit_log_action", "project_id", "action", "id"),
        Index("ix_audit_log_object", "project_id", "object_id", "id"),
        Index("ix_audit_log_created_at", "created_at"),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    project_id: Mapped[OwnedBy]
    key_id: Mapped[Id]  # outlives the key
    action: Mapped[Word]
    object_id: Mapped[Id | None]
    outcome: Mapped[Word]  # done, refused
    request_id: Mapped[str] = mapped_column(String(64))
    client_address: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
