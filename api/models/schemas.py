"""A model on the wire, and the form that it is uploaded with."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from api.datasets.schemas import Name
from api.schemas import Failure, Moment, Out
from core.spec.document import StrictModel
from core.spec.facts import Normalization

ClassName = Annotated[str, Field(min_length=1, max_length=200)]


class ModelCreate(StrictModel):
    """The fields beside the file; `arguments`, `normalization` and `classes` are JSON texts in the form."""

    name: Name | None = Field(default=None, description="Null: the file's name.")
    architecture: Annotated[str, Field(min_length=1, max_length=200)] = Field(description="A timm name.")
    arguments: dict[str, JsonValue] = Field(default_factory=dict, description="For `timm.create_model`.")
    normalization: Normalization | None = Field(default=None, description="Of the pictures it was trained on.")
    classes: list[ClassName] | None = Field(default=None, max_length=100_000, description="Names, in order of index.")


class ModelOut(Out):
    """Weights that jobs may start from or learn from."""

    id: str
    object: Literal["model"] = "model"
    name: str
    status: Literal["processing", "ready", "failed"]
    job: str | None = Field(description="The job whose student it is; null for an upload.")
    architecture: str
    arguments: dict[str, Any]
    normalization: dict[str, Any] | None
    num_classes: int | None
    classes: list[str] | None
    channels: int | None
    image_size: int | None
    parameters: int | None
    size_bytes: int | None
    error: Failure | None
    created_at: Moment
    finished_at: Moment | None
