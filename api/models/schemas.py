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


class ModelFromUpload(ModelCreate):
    """A model to create from a complete resumable upload."""

    upload: Annotated[str, Field(min_length=1, max_length=64)] = Field(
        description="Id of the upload. It is deleted when the model is ready; a failed model leaves it.",
        examples=["up_01jd3v5n8e6f7g8h9jkmnpqrst"],
    )


class ModelOut(Out):
    """A model with weights, usable as a teacher or to initialize a student."""

    id: str
    object: Literal["model"] = "model"
    name: str
    status: Literal["processing", "ready", "failed"]
    job: str | None = Field(description="The job whose student it is; null for an upload.")
    parent: str | None = Field(
        description="The model that it was made from: for a compressed model the student; for a student the model "
        "whose weights it started from, or else its first teacher that is a model. Null: none."
    )
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


class LineageNode(Out):
    """A model, a job, a `teacher` of a job that is no model, an `artifact` (a compressed file), or a `checkpoint`."""

    id: str = Field(description="Of a teacher or an artifact: the job's id and a suffix.")
    object: Literal["model", "job", "teacher", "artifact", "checkpoint"]
    name: str | None
    exists: bool = Field(description="False: it was deleted.")
    details: dict[str, Any] = Field(
        description="Of a model `architecture`, `parameters` and `status`; of a job `method`, `dataset` and `status`; "
        "of a teacher `architecture` and `weights`; of an artifact `top1`, `size_bytes` and `latency_ms`; of a "
        "checkpoint `job`, `step` and `epoch`."
    )


class LineageEdge(Out):
    """`target` was made from `source`."""

    source: str
    target: str
    role: Literal["teacher", "initial_weights", "student", "compressed", "checkpoint"] = Field(
        description="What the source was to a job, or what the target is: the job's `student`, a `compressed` form, or "
        "a `checkpoint` of the job."
    )


class LineageOut(Out):
    """The networks and jobs that a model was made from, and those that were made from it."""

    object: Literal["lineage"] = "lineage"
    model: str
    nodes: list[LineageNode] = Field(description="Nearest first.")
    edges: list[LineageEdge]
    truncated: bool = Field(description="There are more nodes than are listed.")
