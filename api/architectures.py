"""``/v1/architectures``: timm's architectures, listed by the inspector."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field

from api.deps import Limit, Reader, State
from api.problems import problems
from api.rate_limit import rate_class
from api.schemas import Out, Page
from core.errors import InvalidRequest
from core.spec.patterns import NO_NUL

router = APIRouter(prefix="/v1/architectures", tags=["models"])


class ArchitectureOut(Out):
    """A timm architecture."""

    model_config = ConfigDict(frozen=True, extra="allow")

    object: Literal["architecture"] = "architecture"
    name: str
    family: str = Field(description="`transformer`, `cnn`, `hybrid` or `mlp`.")
    parameters: int | None = Field(description="Number of parameters with ImageNet's classes and image size.")
    flops: float | None = Field(
        default=None, description="FLOPs of one image of `input_size`, two for a multiply-add; null: unknown."
    )
    input_size: list[int] = Field(description="Channels, height, width.")
    pretrained: bool = Field(description="Whether there are pretrained weights that can be loaded.")
    license: str | None = Field(
        default=None, description="License of the default pretrained weights; null: none is stated, or no weights."
    )
    licenses: dict[str, str | None] = Field(
        default_factory=dict, description="License of the weights by pretrained tag."
    )


@router.get("", response_model=Page[ArchitectureOut], responses=problems())
@rate_class("questions")
async def list_architectures(
    _: Reader,
    state: State,
    search: Annotated[
        str,
        # The pattern is only declared: the check below has a better error text.
        Query(max_length=200, json_schema_extra={"pattern": NO_NUL}, description="Words that the name must contain."),
    ] = "",
    limit: Limit = 20,
) -> Page[ArchitectureOut]:
    """List the architectures whose name matches, best match first; without a match, the nearest names."""
    if "\0" in search:
        raise InvalidRequest("search: the text contains a NUL character; remove it")
    # One entry more than the limit shows whether there are more.
    result = await state.inspector.call("architectures", {"search": search, "limit": limit + 1})
    architectures = [ArchitectureOut(**entry) for entry in result["data"]]
    return Page(data=architectures[:limit], has_more=len(architectures) > limit)
