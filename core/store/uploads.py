"""Resumable uploads: parts in the artifact store, and their order in the database.

A part is stored before the transaction that adds it, under a key that no other part has. The transaction adds it only
where the upload ends at that moment, so of two clients that send the same bytes one wins, and no reader sees a half
written file. Datasets and models read an upload once it is complete; it is deleted when one of them is ready.

Lock order: dataset or model, then upload, then the counter of stored bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy import delete as sql_delete
from sqlalchemy.orm import Session

from core.errors import Conflict, InUse
from core.ids import new_id
from core.store.artifact_store import StoredFile
from core.store.db import utc_now
from core.store.pagination import Page, not_found, paginate_newest_first, require_id
from core.store.quotas import add_stored
from core.store.tables import Dataset, Model
from core.store.upload_tables import Upload, UploadPart


class UploadOffsetMismatch(Conflict):
    """The bytes do not start where the upload ends; send the bytes from ``Upload-Offset`` of a HEAD request."""

    code = "upload_offset_mismatch"
    title = "The upload continues at another offset"


def create(
    session: Session, project_id: str, *, size_bytes: int, filename: str, tus_metadata: str, retention_hours: float
) -> Upload:
    """Create an upload without bytes."""
    now = utc_now(session)
    upload = Upload(
        id=new_id("up"),
        project_id=project_id,
        filename=filename,
        tus_metadata=tus_metadata,
        size_bytes=size_bytes,
        received_bytes=0,
        created_at=now,
        expires_at=now + timedelta(hours=retention_hours),
    )
    session.add(upload)
    session.flush()
    return upload


def part_prefix(upload_id: str) -> str:
    """Return the folder of keys of an upload."""
    return f"uploads/{upload_id}"


def get(session: Session, project_id: str, upload_id: str) -> Upload:
    """Load an upload of the project. Raises ``NotFound``."""
    return _find(session, project_id, upload_id)


def get_for_use(session: Session, project_id: str, upload_id: str) -> Upload:
    """Load an upload that a dataset or model of this transaction will read; it cannot be deleted before the commit.

    Raises ``NotFound``.
    """
    return _find(session, project_id, upload_id, is_shared=True)


def list_uploads(session: Session, project_id: str, *, limit: int = 20, after: str | None = None) -> Page[Upload]:
    """List the project's uploads, newest first. Raises ``InvalidRequest`` if ``after`` is not the id of an upload."""
    statement = select(Upload).where(Upload.project_id == project_id)
    return paginate_newest_first(session, statement, Upload.id, limit=limit, after=after, prefix="up")


def list_unused(session: Session, project_id: str, *, limit: int) -> Sequence[Upload]:
    """List the project's uploads that no processing dataset or model reads, newest first."""
    statement = select(Upload).where(Upload.project_id == project_id, Upload.expires_at > utc_now(session), ~_is_read())
    return session.scalars(statement.order_by(Upload.id.desc()).limit(limit)).all()


def count(session: Session, project_id: str) -> int:
    """Count the uploads of the project."""
    return session.scalars(select(func.count()).select_from(Upload).where(Upload.project_id == project_id)).one()


def add_parts(
    session: Session, upload: Upload, start: int, files: Sequence[StoredFile], expires_at: datetime
) -> Upload:
    """Add stored parts that begin at ``start``. Raises ``UploadOffsetMismatch``, and ``NotFound`` if it was deleted."""
    num_bytes = sum(file.size_bytes for file in files)
    statement = (
        update(Upload)
        .where(Upload.id == upload.id, Upload.received_bytes == start)
        .values(received_bytes=Upload.received_bytes + num_bytes, expires_at=expires_at)
        .returning(Upload)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    changed = session.scalars(statement).one_or_none()
    if changed is None:
        current = get(session, upload.project_id, upload.id)
        raise offset_mismatch(current, start)
    for file in files:
        session.add(
            UploadPart(
                upload_id=upload.id,
                start=start,
                project_id=upload.project_id,
                key=file.key,
                size_bytes=file.size_bytes,
                sha256=file.sha256,
            )
        )
        start += file.size_bytes
    session.flush()
    add_stored(session, upload.project_id, num_bytes)
    return changed


def offset_mismatch(upload: Upload, start: int) -> UploadOffsetMismatch:
    """Return the error for bytes that begin elsewhere than at the end of the upload."""
    return UploadOffsetMismatch(
        f"The upload continues at offset {upload.received_bytes:,}, not at {start:,}; send the bytes from there.",
        extra={"offset": upload.received_bytes},
    )


def list_parts(session: Session, upload_id: str) -> list[StoredFile]:
    """List the parts of an upload in order."""
    parts = select(UploadPart).where(UploadPart.upload_id == upload_id).order_by(UploadPart.start)
    return [StoredFile(part.key, part.size_bytes, part.sha256) for part in session.scalars(parts)]


def delete(session: Session, project_id: str, upload_id: str) -> None:
    """Delete an upload; delete its files after the commit. Raises ``NotFound``, and ``InUse`` while it is ingested."""
    upload = _find(session, project_id, upload_id, is_exclusive=True)
    for table in (Dataset, Model):
        reader = session.scalars(select(table.id).where(table.upload_id == upload.id).limit(1)).first()
        if reader is not None:
            raise InUse(f"{reader} is made from this upload and is still processing; wait, or delete {reader}.")
    _delete(session, upload)


def consume(session: Session, upload_id: str) -> None:
    """Delete the upload of a dataset or model that has become ready, unless another one reads it too."""
    statement = select(Upload).where(Upload.id == upload_id, ~_is_read()).with_for_update()
    upload = session.scalars(statement.execution_options(populate_existing=True)).one_or_none()
    if upload is not None:
        _delete(session, upload)


def prune_expired(session: Session) -> str | None:
    """Delete one upload that has expired and that nothing reads; return its id, or None if there is none."""
    statement = (
        select(Upload)
        .where(Upload.expires_at < utc_now(session), ~_is_read())
        .order_by(Upload.expires_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    upload = session.scalars(statement.execution_options(populate_existing=True)).one_or_none()
    if upload is None:
        return None
    _delete(session, upload)
    return upload.id


def _is_read() -> ColumnElement[bool]:
    readers = (select(table.id).where(table.upload_id == Upload.id).exists() for table in (Dataset, Model))
    return or_(*readers)


def _delete(session: Session, upload: Upload) -> None:
    session.execute(sql_delete(Upload).where(Upload.id == upload.id).execution_options(synchronize_session=False))
    session.expunge(upload)
    add_stored(session, upload.project_id, -upload.received_bytes)


def _find(
    session: Session, project_id: str, upload_id: str, *, is_shared: bool = False, is_exclusive: bool = False
) -> Upload:
    require_id(upload_id, "up", "upload")
    statement = select(Upload).where(Upload.id == upload_id, Upload.project_id == project_id)
    if is_shared or is_exclusive:
        statement = statement.with_for_update(read=is_shared)
    upload = session.scalars(statement.execution_options(populate_existing=True)).one_or_none()
    if upload is None:
        raise not_found("upload", upload_id)
    return upload
