"""Schemas of models and of the upload form."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from api.datasets.schemas import Name
from api.schemas import Failure, Out, Timestamp
from core.job_warnings import JobWarning
from core.spec.document import StrictModel
from core.spec.info import NormalizationSource, UploadNormalization

ClassName = Annotated[str, Field(min_length=1, max_length=200)]


class ModelCreate(StrictModel):
    """Form fields of an upload, without the file; `arguments`, `normalization` and `classes` are JSON texts."""

    name: Name | None = Field(default=None, description="Null: the file's name.")
    architecture: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        description="A timm architecture, optionally with the tag of pretrained weights."
    )
    arguments: dict[str, JsonValue] = Field(default_factory=dict, description="Arguments of `timm.create_model`.")
    normalization: UploadNormalization | None = Field(
        default=None, description="Normalization of the training images, of pixel values in 0…1."
    )
    classes: list[ClassName] | None = Field(default=None, max_length=100_000, description="Names, in order of index.")


class ModelOut(Out):
    """A model with weights, usable as a teacher or to initialize a student."""

    id: str
    object: Literal["model"] = "model"
    name: str
    status: Literal["processing", "ready", "failed"]
    job: str | None = Field(description="The job whose student it is; null for an upload.")
    architecture: str
    arguments: dict[str, Any]
    normalization: dict[str, Any] | None = Field(
        description="Of pixel values in 0…1. While `processing`, null if the upload gave none."
    )
    normalization_source: NormalizationSource | None = Field(
        description="Where `normalization` comes from: the `request`; timm's configuration of the `architecture`; the "
        "`default`, which scales to -1…1; the `job` that made the model. Null: not known yet."
    )
    num_classes: int | None
    classes: list[str] | None
    channels: int | None
    image_size: int | None
    parameters: int | None
    size_bytes: int | None
    warnings: list[JobWarning] = Field(description="What the check assumed or changed; `field` is one of the form.")
    error: Failure | None
    created_at: Timestamp
    finished_at: Timestamp | None
