"""Every stored file that a row names: what a backup must hold."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.store.artifacts import StoredFile
from core.store.tables import Artifact, Checkpoint, Dataset, Model, Teacher


def named_files(session: Session) -> dict[str, StoredFile | None]:
    """All files that rows name, by key; None of an upload, of which nothing is known but its key."""
    found: dict[str, StoredFile | None] = {}
    for uploads in (Dataset.upload_key, Model.upload_key):
        found |= dict.fromkeys(key for key in session.scalars(select(uploads).where(uploads.is_not(None))) if key)
    for files in (Dataset.files, Model.files, Teacher.files, Checkpoint.files):
        for documents in session.scalars(select(files)):
            found |= {document["key"]: StoredFile.from_json(document) for document in documents}
    for row in session.execute(select(Artifact.key, Artifact.size_bytes, Artifact.sha256)):
        found[row.key] = StoredFile(row.key, row.size_bytes, row.sha256)
    return found
