"""A dataset on the wire, and what it can be made from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from api.schemas import Failure, Moment, Out
from core.fetch.targets import MAX_URL_CHARACTERS
from core.spec.document import StrictModel

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class BuiltinSource(StrictModel):
    """Data that comes with the service."""

    type: Literal["builtin"]
    name: Literal["digits", "mnist-5k"]


class UrlSource(StrictModel):
    """A file that the ingest worker fetches."""

    type: Literal["url"]
    url: Annotated[str, StringConstraints(min_length=1, max_length=MAX_URL_CHARACTERS)] = Field(
        description="https, of a public address; a signed link may be used.", examples=["https://example.com/pets.zip"]
    )
    labels: Literal["auto", "none"] = Field(default="auto", description="As for a file that is sent along.")


class LaterSource(BaseModel):
    """Named by the contract, not offered by this version: answered 422 `not_available`, and never looked at."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: Literal["upload", "huggingface"]


class DatasetCreate(StrictModel):
    """A dataset from a source that the service reads by itself."""

    name: Name | None = Field(default=None, description="Null: the source's own name.")
    source: Annotated[BuiltinSource | UrlSource | LaterSource, Field(discriminator="type")]


class SplitOut(Out):
    """One split."""

    num_samples: int


class RejectedOut(Out):
    """A file that was left out."""

    path: str
    reason: str = Field(description="In words.")
    code: str | None = Field(default=None, description="A stable word for it; null in datasets of earlier versions.")


class DatasetOut(Out):
    """Images to learn from."""

    id: str
    object: Literal["dataset"] = "dataset"
    name: str
    status: Literal["processing", "ready", "failed"]
    source: dict[str, Any] = Field(description="As it was given; of a URL without its query, which may be a secret.")
    splits: dict[str, SplitOut] | None
    num_classes: int | None = Field(description="Null while processing, and for an unlabelled dataset.")
    classes: list[str] | None = Field(description="Null while processing, and for an unlabelled dataset.")
    channels: int | None
    image_size: int | None = Field(description="Pixels a side that jobs use where nobody says a size.")
    fingerprint: str | None = Field(description="Of the decoded content and labels, whatever the packing.")
    size_bytes: int | None = Field(description="As it is stored; while processing, of the file that was sent.")
    rejected: list[RejectedOut] = Field(description="Files that were left out, each with the reason.")
    error: Failure | None
    created_at: Moment
    finished_at: Moment | None


class UploadedDataset(StrictModel):
    """The fields beside the file."""

    name: Name | None = None
    labels: Literal["auto", "none"] = "auto"
