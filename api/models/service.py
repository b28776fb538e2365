"""Logic of the model endpoints, without HTTP."""

from __future__ import annotations

from typing import Any

from api.datasets.service import name_from_filename
from api.models.schemas import LineageOut, ModelCreate, ModelFromUpload, ModelOut
from api.multipart import SNIFF_BYTES, Form
from api.problems import invalid_field
from api.references import check_name
from api.request_body import parse_json, validate_as
from api.sniffing import require_weights
from api.uploads.service import find_complete, lock_complete
from core.ids import new_id
from core.models.safetensors_header import MAX_HEADER_BYTES, read_header
from core.store import lineage, models
from core.store.artifact_store import ArtifactStore
from core.store.db import Database, Session
from core.store.tables import Model

_UPLOAD_POINTER = "/upload"
FORM_FIELDS = frozenset({"name", "architecture", "arguments", "normalization", "classes"})
_JSON_FIELDS = ("arguments", "normalization", "classes")
_FORBIDDEN_ARGUMENTS = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


def parse_form(form: Form) -> ModelCreate:
    """Validate the form's fields. Raises :class:`InvalidRequest`."""
    document: dict[str, Any] = dict(form.fields)
    for name in _JSON_FIELDS:
        if name in document:
            document[name] = parse_json(document[name], at=f"/{name}") if document[name].strip() else None
    if document.get("arguments", {}) is None:
        del document["arguments"]
    fields = validate_as(ModelCreate, document)
    check_fields(fields)
    return fields


def check_fields(fields: ModelCreate) -> None:
    """Check what the schema cannot express. Raises :class:`InvalidRequest`."""
    for name in _FORBIDDEN_ARGUMENTS:
        if name in fields.arguments:
            raise invalid_field(f"/arguments/{name}", f"{name} is not allowed: the weights are in the file")
    _check_against_arguments(fields)


def _check_against_arguments(fields: ModelCreate) -> None:
    """Compare normalization and classes with the arguments. Raises :class:`InvalidRequest`."""
    channels, num_classes = fields.arguments.get("in_chans"), fields.arguments.get("num_classes")
    channels = 3 if channels is None else channels
    if fields.normalization is not None and isinstance(channels, int):
        problem = fields.normalization.channels_error(channels)
        if problem is not None:
            raise invalid_field("/normalization/mean", problem)
    if fields.classes is not None and isinstance(num_classes, int) and len(fields.classes) != num_classes:
        raise invalid_field(
            "/classes", f"{len(fields.classes)} names are given, and arguments.num_classes is {num_classes}"
        )


def store_upload(store: ArtifactStore, form: Form) -> tuple[str, str]:
    """Check the file's header and store the file for the ingest worker; return the model's id and the file's key.

    Raises :class:`UnsupportedMedia` for an invalid or incomplete safetensors file.
    """
    read_header(form.file.path)
    model_id = new_id("mdl")
    return model_id, store.put(f"uploads/{model_id}/file", form.file.path).key


def check_upload(database: Database, store: ArtifactStore, project_id: str, fields: ModelFromUpload) -> None:
    """Check that an upload is complete, and the header of its file.

    Raises :class:`InvalidRequest`, and :class:`UnsupportedMedia` for an invalid or incomplete safetensors file.
    """
    with database.read() as session:
        upload = find_complete(session, project_id, fields.upload, _UPLOAD_POINTER)
    require_weights(upload.read_head(store, SNIFF_BYTES))
    read_header(upload.read_head(store, 8 + MAX_HEADER_BYTES), size_bytes=upload.size_bytes)


def create(
    session: Session, project_id: str, fields: ModelCreate, *, model_id: str, upload_key: str, form: Form
) -> Model:
    """Create a model whose file is stored. After a rollback, garbage collection deletes the file.

    Raises :class:`InvalidRequest` for a name that ``weights`` cannot refer to.
    """
    return _create(
        session,
        project_id,
        fields,
        filename=form.file.filename,
        upload_key=upload_key,
        size_bytes=form.file.size_bytes,
        model_id=model_id,
    )


def create_from_upload(session: Session, project_id: str, fields: ModelFromUpload) -> Model:
    """Create a model from a complete upload. Raises :class:`InvalidRequest`."""
    upload = lock_complete(session, project_id, fields.upload, _UPLOAD_POINTER)
    return _create(session, project_id, fields, filename=upload.filename, upload_id=upload.id)


def _create(session: Session, project_id: str, fields: ModelCreate, *, filename: str, **file: Any) -> Model:
    name = fields.name or name_from_filename(filename)
    check_name(name, is_keyword_reserved=True)
    return models.create(
        session,
        project_id,
        name=name,
        architecture=fields.architecture,
        arguments=fields.arguments,
        normalization=None if fields.normalization is None else fields.normalization.model_dump(mode="json"),
        classes=fields.classes,
        **file,
    )


def lineage_out(session: Session, project_id: str, model_id: str) -> LineageOut:
    """Read the lineage of a model as a response document. Raises :class:`NotFound`."""
    found = lineage.lineage(session, project_id, model_id)
    return LineageOut.model_validate(
        {
            "model": model_id,
            "nodes": [
                {
                    "id": node.id,
                    "object": node.kind,
                    "name": node.name,
                    "exists": node.exists,
                    "details": dict(node.details),
                }
                for node in found.nodes
            ],
            "edges": [{"source": edge.source, "target": edge.target, "role": edge.role} for edge in found.edges],
            "truncated": found.is_truncated,
        }
    )


def model_out(model: Model) -> ModelOut:
    """Convert a model row to its response document."""
    info = model.info or {}
    given = "job" if model.job_id is not None else "request"
    return ModelOut.model_validate(
        {
            "id": model.id,
            "name": model.name,
            "status": model.status,
            "job": model.job_id,
            "parent": model.parent_id,
            "architecture": model.architecture,
            "arguments": model.arguments,
            "normalization": info.get("normalization") or model.normalization,
            "normalization_source": info.get("normalization_source") or (given if model.normalization else None),
            "num_classes": model.num_classes,
            "classes": model.classes,
            "channels": model.channels,
            "image_size": model.image_size,
            "parameters": model.parameters,
            "size_bytes": model.size_bytes,
            "warnings": info.get("warnings", []),
            "error": model.error,
            "created_at": model.created_at,
            "finished_at": model.finished_at,
        }
    )
