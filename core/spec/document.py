"""Base class of all models of the API contract: frozen, strict types, unknown fields refused."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

NOT_AVAILABLE = "not_available"


# Keys whose values are schemas; others, such as `default`, hold values.
_SCHEMA_KEYS = ("schema", "fields", "items_schema", "choices", "values_schema", "definitions")


def _keep_json_types(schema: Any) -> None:
    """Make every number and boolean of a schema accept no other JSON type."""
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
            # Not strict: strict mode refuses 3.0, which is an integer in JSON.
            inner = {**schema, "metadata": {**schema.get("metadata", {}), "potstill_number": True}}
            schema.clear()
            schema |= core_schema.no_info_before_validator_function(_require_number, inner)
        case None:  # fields or choices by name
            for each in schema.values():
                _keep_json_types(each)
        case _:
            for key in _SCHEMA_KEYS:
                _keep_json_types(schema.get(key))


def _require_number(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


class StrictModel(BaseModel):
    """An immutable value from a client; unknown fields and implicit type conversions are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Accept only the types of the JSON Schema; pydantic converts `"3"` to a number and `"yes"` to a boolean."""
        schema = handler(source)
        _keep_json_types(schema)
        return schema
