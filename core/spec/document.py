"""The base of every part of the wire contract: frozen, documented, unknown fields refused."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

NOT_AVAILABLE = "not_available"


# Where a schema holds others; not `default` and the like, which hold values.
_INNER = ("schema", "fields", "items_schema", "choices", "values_schema", "definitions")


def _keep_json_types(schema: Any) -> None:
    """Let every number and boolean of a schema take nothing else."""
    if isinstance(schema, list | tuple):
        for each in schema:
            _keep_json_types(each)
        return
    if not isinstance(schema, dict):
        return
    match schema.get("type"):
        case "float" | "bool":
            schema["strict"] = True
        case "int" if not schema.get("metadata", {}).get("potstill_number"):
            # Not strict: that would refuse 3.0, which is an integer in JSON.
            inner = {**schema, "metadata": {**schema.get("metadata", {}), "potstill_number": True}}
            schema.clear()
            schema |= core_schema.no_info_before_validator_function(_number, inner)
        case None:  # fields or choices by name
            for each in schema.values():
                _keep_json_types(each)
        case _:
            for key in _INNER:
                _keep_json_types(schema.get(key))


def _number(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


class StrictModel(BaseModel):
    """A value that somebody sent; it is never edited, only derived from."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """As the JSON Schema says: pydantic alone takes `true` and `"3"` for numbers, and `"yes"` for a boolean."""
        schema = handler(source)
        _keep_json_types(schema)
        return schema


def not_available(what: str) -> PydanticCustomError:
    """The error of a field that the contract names and this version does not offer yet."""
    return PydanticCustomError(NOT_AVAILABLE, "{what} is not available in this version", {"what": what})
