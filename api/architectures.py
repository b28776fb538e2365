"""``/v1/architectures``: timm's catalogue, as the inspector knows it."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field

from api.deps import NO_NUL, Limit, Parts, Reader
from api.problems import problems
from api.schemas import Out, Page
from core.errors import InvalidRequest

router = APIRouter(prefix="/v1/architectures", tags=["models"])


class ArchitectureOut(Out):
    """One timm architecture."""

    model_config = ConfigDict(frozen=True, extra="allow")

    object: Literal["architecture"] = "architecture"
    name: str
    family: str = Field(description="`transformer`, `cnn`, `hybrid` or `mlp`.")
    parameters: int | None = Field(description="In its ImageNet form.")
    input_size: list[int] = Field(description="Channels, height, width.")
    pretrained: bool = Field(description="Whether timm knows of pretrained weights.")


@router.get("", response_model=Page[ArchitectureOut], responses=problems())
async def list_architectures(
    _: Reader,
    parts: Parts,
    search: Annotated[
        str,
        # Declared, and refused below with a better word than a pattern's.
        Query(max_length=200, json_schema_extra={"pattern": NO_NUL}, description="Words that the name must have."),
    ] = "",
    limit: Limit = 20,
) -> Page[ArchitectureOut]:
    """The architectures whose name matches, best first; with no match, the nearest names."""
    if "\0" in search:
        raise InvalidRequest("search: the text holds a NUL character; leave it out")
    # One more than was asked for tells whether there are more.
    answer = await parts.inspector.ask("architectures", {"search": search, "limit": limit + 1})
    found = [ArchitectureOut(**entry) for entry in answer["data"]]
    return Page(data=found[:limit], has_more=len(found) > limit)
