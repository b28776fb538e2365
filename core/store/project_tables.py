"""Tables of projects: settings and usage, API keys, audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from core.store.base import Base, Id, Keyword, ProjectRef


class Project(Base):
    """Owner of all other rows."""

    __tablename__ = "projects"

    id: Mapped[Id] = mapped_column(primary_key=True)
    name: Mapped[str]
    created_at: Mapped[datetime]
    last_claimed_at: Mapped[datetime | None]  # latest claim of one of its jobs
    # Limits of this project. None: use the setting. 0: no limit, where the setting allows that.
    max_jobs: Mapped[int | None]
    max_stored_bytes: Mapped[int | None]
    max_upload_bytes: Mapped[int | None]


class ProjectUsage(Base):
    """Number of bytes that a project stores; maintained by ``core.store.quotas``."""

    __tablename__ = "project_usage"

    project_id: Mapped[ProjectRef] = mapped_column(primary_key=True)
    stored_bytes: Mapped[int]


class ApiKey(Base):
    """API key of a project. Only the hash of its secret is stored."""

    __tablename__ = "api_keys"

    id: Mapped[Id] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectRef] = mapped_column(index=True)
    name: Mapped[str]
    prefix: Mapped[Keyword]  # the public part of the token
    secret_hash: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[Any]]
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    replaces: Mapped[Id | None]  # the key that was rotated into this one


class AuditEntry(Base):
    """Audit log entry: key, action, object and client. Written with the change, never altered."""

    __tablename__ = "audit_log"
    __table_args__ = (
        Index("ix_audit_log_list", "project_id", "id"),
        Index("ix_audit_log_key", "project_id", "key_id", "id"),
        Index("ix_audit_log_action", "project_id", "action", "id"),
        Index("ix_audit_log_object", "project_id", "object_id", "id"),
        Index("ix_audit_log_created_at", "created_at"),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectRef]
    key_id: Mapped[Id]  # of an API key, which it outlives, or of the subject of a token
    subject: Mapped[str | None] = mapped_column(String(255))  # of the token
    action: Mapped[Keyword]
    object_id: Mapped[Id | None]
    outcome: Mapped[Keyword]  # done, refused
    request_id: Mapped[str] = mapped_column(String(64))
    client_address: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
