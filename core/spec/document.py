"""The base of every part of the wire contract: frozen, documented, unknown fields refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

NOT_AVAILABLE = "not_available"


class Document(BaseModel):
    """A value that somebody sent; it is never edited, only derived from."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def not_available(what: str) -> PydanticCustomError:
    """The error of a field that the contract names and this version does not offer yet."""
    return PydanticCustomError(NOT_AVAILABLE, "{what} is not available in this version", {"what": what})
