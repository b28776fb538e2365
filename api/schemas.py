"""What every resource's documents have in common on the wire."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema


def rfc3339(moment: datetime) -> str:
    """A moment in UTC with milliseconds, e.g. ``2026-11-24T08:30:00.125Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Moment = Annotated[
    datetime,
    PlainSerializer(rfc3339, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


class Out(BaseModel):
    """An answer. Nothing has a default, so that no field is forgotten (null is said)."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Failure(Out):
    """Why something failed."""

    code: str = Field(description="A stable word.")
    message: str = Field(description="What happened and how to mend it.")


Item = TypeVar("Item", bound=Out)


class Page(Out, Generic[Item]):
    """A part of a list; go on with `?after=` and the last id while `has_more`."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool
