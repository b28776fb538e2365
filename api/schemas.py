"""Base classes of all response documents."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema


def rfc3339(time: datetime) -> str:
    """Format a time in UTC with milliseconds, e.g. ``2026-11-24T08:30:00.125Z``."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Timestamp = Annotated[
    datetime,
    PlainSerializer(rfc3339, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


class Out(BaseModel):
    """A response document. Fields have no defaults, so every field is set explicitly (null if unknown)."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Failure(Out):
    """Why an operation failed."""

    code: str = Field(description="Stable machine-readable code.")
    message: str = Field(description="What happened and how to fix it.")


Item = TypeVar("Item", bound=Out)


class Page(Out, Generic[Item]):
    """A page of a list. While `has_more`, request the next page with `?after=` and the last id."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool
