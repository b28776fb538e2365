"""Resumable uploads that a form offers: unfinished ones to continue, and complete ones to use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from api.uploads.service import upload_out
from core.store import uploads
from core.store.db import Database

Kind = Literal["datasets", "models"]

MAX_UPLOADS = 20
MODEL_SUFFIX = ".safetensors"


def read_uploads(database: Database, project_id: str, kind: Kind) -> Sequence[Mapping[str, Any]]:
    """Read the newest uploads that nothing was made from, those whose file name fits the kind."""
    with database.read() as session:
        found = [upload_out(row) for row in uploads.list_unused(session, project_id, limit=MAX_UPLOADS)]
    return [each.model_dump(mode="json") for each in found if _kind(each.filename) == kind]


def _kind(filename: str) -> Kind:
    return "models" if filename.lower().endswith(MODEL_SUFFIX) else "datasets"
