"""Base class of the API's response documents."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, ValidatorFunctionWrapHandler, WrapValidator


class Document(BaseModel):
    """A response of the API. Immutable; fields that this version does not know are attributes too."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    def to_dict(self) -> dict[str, Any]:
        """Return the document as plain JSON values."""
        return self.model_dump(mode="json")


def _accept_new(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Accept a word that a later version of the service has added to an enumeration."""
    try:
        return validate(value)
    except ValidationError:
        if isinstance(value, str):
            return value
        raise


ACCEPT_NEW = WrapValidator(_accept_new)
