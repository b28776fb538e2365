"""Messages for pydantic's errors in the words of JSON: a list, an object, a whole number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from core.spec.patterns import PATTERN_MESSAGES

_INTEGER, _NUMBER, _BOOLEAN, _STRING, _LIST, _OBJECT = (
    "a whole number", "a number", "true or false", "a string", "a list", "an object",
)  # fmt: skip

_EXPECTED_BY_TYPE = {
    "int_type": _INTEGER,
    "int_from_float": _INTEGER,
    "float_type": _NUMBER,
    "finite_number": "a finite number",
    "bool_type": _BOOLEAN,
    "string_type": _STRING,
    "list_type": _LIST,
    "tuple_type": _LIST,
    "set_type": _LIST,
    "frozen_set_type": _LIST,
    "iterable_type": _LIST,
    "dict_type": _OBJECT,
    "mapping_type": _OBJECT,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "dataclass_type": _OBJECT,
    "none_required": "null",
}

_JSON_TYPES = (((int, float), _NUMBER), ((str,), _STRING), ((list, tuple), _LIST), ((Mapping,), _OBJECT))

# The input of these is text, for example a query parameter.
_EXPECTED_IN_TEXT = {"int_parsing": _INTEGER, "float_parsing": _NUMBER, "bool_parsing": _BOOLEAN}

_OTHER_MESSAGES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "missing": lambda _: "it is missing",
    "greater_than": lambda ctx: f"must be greater than {_number(ctx['gt'])}",
    "greater_than_equal": lambda ctx: f"must be at least {_number(ctx['ge'])}",
    "less_than": lambda ctx: f"must be less than {_number(ctx['lt'])}",
    "less_than_equal": lambda ctx: f"must be at most {_number(ctx['le'])}",
    "multiple_of": lambda ctx: f"must be a multiple of {_number(ctx['multiple_of'])}",
    "string_too_short": lambda ctx: f"at least {_count(ctx['min_length'], 'character')} expected",
    "string_too_long": lambda ctx: f"at most {_count(ctx['max_length'], 'character')} accepted",
    "too_short": lambda ctx: f"at least {_count(ctx['min_length'], 'entry')} expected",
    "too_long": lambda ctx: f"at most {_count(ctx['max_length'], 'entry')} accepted",
    "string_pattern_mismatch": lambda ctx: PATTERN_MESSAGES.get(ctx["pattern"], f"must match {ctx['pattern']}"),
    "literal_error": lambda ctx: f"must be {ctx['expected']}",
    "enum": lambda ctx: f"must be {ctx['expected']}",
    "value_error": lambda ctx: _lower_first(str(ctx["error"])),
}

_MAX_NUMBER_CHARACTERS = 30
_PYDANTIC_SUBJECT = "Input should be "


def field_message(error: Mapping[str, Any]) -> str:
    """Return the message of one of pydantic's errors: what the field expects, and the JSON type that it got."""
    kind = error["type"]
    if kind in {"too_short", "too_long"} and isinstance(error.get("input"), str):  # of a secret
        kind = f"string_{kind}"
    if kind in _EXPECTED_BY_TYPE:
        return f"{_EXPECTED_BY_TYPE[kind]} is expected{_not_input(kind, error)}"
    if kind in _EXPECTED_IN_TEXT:
        return f"{_EXPECTED_IN_TEXT[kind]} is expected"
    if kind in _OTHER_MESSAGES:
        return _OTHER_MESSAGES[kind](error.get("ctx", {}))
    message = str(error["msg"])
    if message.startswith(_PYDANTIC_SUBJECT):
        return f"must be {message.removeprefix(_PYDANTIC_SUBJECT)}"
    return _lower_first(message)


def json_type(value: Any) -> str | None:
    """Return the JSON type of a value with its article; None for other values."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    return next((name for kinds, name in _JSON_TYPES if isinstance(value, kinds)), None)


def _not_input(kind: str, error: Mapping[str, Any]) -> str:
    if "input" not in error:
        return ""
    value = error["input"]
    if kind in {"int_from_float", "finite_number"}:
        return f", not {value}"
    got = json_type(value)
    if isinstance(value, str) and _EXPECTED_BY_TYPE[kind] in {_INTEGER, _NUMBER} and _is_number(value):
        return f", not a string; write {value.strip()} without quotes"
    return "" if got is None else f", not {got}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return len(text) <= _MAX_NUMBER_CHARACTERS


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _count(number: int, noun: str) -> str:
    plural = {"entry": "entries"}.get(noun, f"{noun}s")
    return f"{number} {noun} is" if number == 1 else f"{number} {plural} are"


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
