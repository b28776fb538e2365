"""What the model endpoints do, without HTTP."""

from __future__ import annotations

from typing import Any

from api.datasets.service import title_of
from api.models.schemas import ModelCreate, ModelOut
from api.multipart import Form
from api.request_body import parse_json, validated
from core.errors import FieldError, InvalidRequest
from core.ids import new_id
from core.models.safetensors_header import read_header
from core.store import models
from core.store.artifact_store import ArtifactStore
from core.store.db import Session
from core.store.tables import Model

FORM_FIELDS = frozenset({"name", "architecture", "arguments", "normalization", "classes"})
_JSON_FIELDS = ("arguments", "normalization", "classes")
_REFUSED = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


def parse_form(form: Form) -> ModelCreate:
    """The fields beside the file. Raises :class:`InvalidRequest`."""
    document: dict[str, Any] = dict(form.fields)
    for name in _JSON_FIELDS:
        if name in document:
            document[name] = parse_json(document[name], at=f"/{name}") if document[name].strip() else None
    if document.get("arguments", {}) is None:
        del document["arguments"]
    asked = validated(ModelCreate, document)
    for name in _REFUSED:
        if name in asked.arguments:
            detail = f"{name} is not accepted here: the weights are in the file"
            raise InvalidRequest(f"/arguments/{name}: {detail}.", errors=[FieldError(f"/arguments/{name}", detail)])
    return asked


def store_upload(store: ArtifactStore, form: Form) -> tuple[str, str]:
    """Check the file's header and keep the file for the ingest worker; the model's id and the file's key.

    Raises :class:`UnsupportedMedia` for what is not a whole safetensors file.
    """
    read_header(form.file.path)
    model_id = new_id("mdl")
    return model_id, store.put(f"uploads/{model_id}/file", form.file.path).key


def create(
    session: Session, project_id: str, asked: ModelCreate, *, model_id: str, upload_key: str, form: Form
) -> Model:
    """Add a model whose file is stored. If this is rolled back, the collector finds the file."""
    return models.create(
        session,
        project_id,
        name=asked.name or title_of(form.file.filename),
        architecture=asked.architecture,
        arguments=asked.arguments,
        normalization=None if asked.normalization is None else asked.normalization.model_dump(mode="json"),
        classes=asked.classes,
        upload_key=upload_key,
        size_bytes=form.file.size_bytes,
        model_id=model_id,
    )


def model_out(model: Model) -> ModelOut:
    """The model as everybody sees it."""
    return ModelOut.model_validate(
        {
            "id": model.id,
            "name": model.name,
            "status": model.status,
            "job": model.job_id,
            "architecture": model.architecture,
            "arguments": model.arguments,
            "normalization": model.normalization,
            "num_classes": model.num_classes,
            "classes": model.classes,
            "channels": model.channels,
            "image_size": model.image_size,
            "parameters": model.parameters,
            "size_bytes": model.size_bytes,
            "error": model.error,
            "created_at": model.created_at,
            "finished_at": model.finished_at,
        }
    )
