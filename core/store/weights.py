"""The stored files of the weights that a spec refers to: a model, the student of a job, or a checkpoint."""

from __future__ import annotations

from sqlalchemy.orm import Session

from core.store import checkpoints, jobs, models
from core.store.artifact_store import StoredFile, parse_stored_files

WEIGHTS_FILES = ("model.safetensors", "config.json")


def weights_files(session: Session, project_id: str, reference: str) -> list[StoredFile]:
    """Return ``model.safetensors`` and ``config.json`` of a reference (``mdl_…``, ``job_…``, ``ckpt_…``).

    Raises ``NotFound``.
    """
    if reference.startswith("mdl_"):
        return parse_stored_files(models.get(session, project_id, reference).files)
    if reference.startswith("ckpt_"):
        return checkpoints.model_files(checkpoints.find(session, project_id, reference))
    artifacts = [jobs.get_artifact(session, project_id, reference, name) for name in WEIGHTS_FILES]
    return [StoredFile(artifact.key, artifact.size_bytes, artifact.sha256) for artifact in artifacts]
