"""Types and ranges of constructor arguments, read from the signatures of timm's classes.

timm itself reports a wrong value with an error of Python or torch, or not at all: `depth: 0` builds a model without
blocks.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal

from torch import nn

from core.errors import InvalidSpec
from core.models.meta_device import build_on_meta
from core.spec.field_messages import json_type
from core.spec.parse import pointer as json_pointer

_SCALARS = (bool, int, float, str)
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", list: "a list"}
_RATE = re.compile(r"(^|_)(drop|dropout|rate)(_|$)")
_POSITIVE = re.compile(r"ratio|multiplier|width")  # numbers that scale a layer: 0 leaves nothing of it


@dataclass(frozen=True, slots=True)
class ArgumentType:
    """Values that one argument accepts. ``kinds`` is empty if the signature does not say it.

    ``is_size``: the value counts or sizes parts of the model, so it is at least 1.
    """

    kinds: frozenset[type]
    choices: tuple[Any, ...] = ()
    is_size: bool = False


@cache
def argument_types(architecture: str) -> Mapping[str, ArgumentType]:
    """Return the arguments of an architecture by name, without those for any other keyword.

    Raises the exceptions of timm for an architecture that cannot be built.
    """
    parameters = _parameters(type(build_on_meta(architecture, {})))
    return {name: _argument_type(parameter) for name, parameter in parameters.items()}


def check_values(architecture: str, arguments: Mapping[str, Any], *, pointer: str) -> dict[str, Any]:
    """Return the arguments of an existing architecture, with whole numbers such as 4.0 as integers where needed.

    Raises:
        InvalidSpec: With the pointer of the first argument whose type or range is wrong.
    """
    types = argument_types(architecture)
    checked = {}
    for name, value in arguments.items():
        expected = types.get(name)
        checked[name] = value if expected is None else _as_integers(value, expected)
        problem = None if expected is None or value is None else _problem(name, checked[name], expected)
        if problem is not None:
            raise InvalidSpec.for_field(pointer + json_pointer([name]), problem)
    return checked


def shape_problem(value: Any, expected: ArgumentType) -> str | None:
    """Return the reason if a list is given for a single value or the reverse; timm accepts some of these."""
    if not expected.kinds or (isinstance(value, list) == (list in expected.kinds)):
        return None
    if isinstance(value, list) or not expected.kinds & {type(value), *_wider(value)}:
        return f"{_expected(expected)} is expected, not {json_type(value)}"
    return None


def _parameters(kind: type[nn.Module]) -> dict[str, inspect.Parameter]:
    """Named parameters of the first constructor that has some: a subclass may only pass them on."""
    for each in kind.__mro__:
        if "__init__" not in vars(each) or each in {nn.Module, object}:
            continue
        try:
            hints = typing.get_type_hints(vars(each)["__init__"])
        except (NameError, TypeError):  # an annotation that only a type checker can resolve
            hints = {}
        named = {
            name: parameter.replace(annotation=hints.get(name, parameter.annotation))
            for name, parameter in list(inspect.signature(vars(each)["__init__"]).parameters.items())[1:]
            if parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
        }
        if named:
            return named
    return {}


def _argument_type(parameter: inspect.Parameter) -> ArgumentType:
    default = parameter.default
    is_size = any(type(number) is int and number >= 1 for number in _flat(default))
    if parameter.annotation is parameter.empty:
        kinds = frozenset({type(default)}) if type(default) in _SCALARS else frozenset()
        if kinds & {int, float}:  # many sizes without an annotation are also accepted for each stage
            kinds |= {int, float, list}
        return ArgumentType(kinds, is_size=is_size)
    leaves = list(_leaves(parameter.annotation))
    choices = tuple(value for leaf in leaves if typing.get_origin(leaf) is Literal for value in typing.get_args(leaf))
    if any(_kind(leaf) is None for leaf in leaves):
        return ArgumentType(frozenset(), is_size=is_size)
    found = frozenset(kind for leaf in leaves if (kind := _kind(leaf)) not in {NoneType, None})
    return ArgumentType(found, choices if len(leaves) == 1 else (), is_size)


def _leaves(annotation: Any) -> Iterator[Any]:
    """Members of a union, and of unions in it."""
    if typing.get_origin(annotation) in {typing.Union, UnionType}:
        for member in typing.get_args(annotation):
            yield from _leaves(member)
    else:
        yield annotation


def _kind(leaf: Any) -> type | None:
    """Return the JSON type of an annotation; None if any value may be valid, as for layers."""
    origin = typing.get_origin(leaf)
    if leaf in {*_SCALARS, NoneType}:
        return typing.cast("type", leaf)
    if origin is Literal:
        return type(typing.get_args(leaf)[0])
    if origin in {tuple, list, Sequence}:
        members = list(_nested(leaf))
        return list if all(member in {bool, int, float, NoneType} for member in members) else None
    return None


def _nested(annotation: Any) -> Iterator[Any]:
    """Scalars of a list's annotation."""
    for leaf in _leaves(annotation):
        arguments = [argument for argument in typing.get_args(leaf) if argument is not Ellipsis]
        if arguments and typing.get_origin(leaf) is not Literal:
            for argument in arguments:
                yield from _nested(argument)
        else:
            yield leaf


def _problem(name: str, value: Any, expected: ArgumentType) -> str | None:
    """Return what is wrong with a value for certain, or None."""
    if expected.choices and not isinstance(value, list) and value not in expected.choices:
        choices = ", ".join(repr(choice) for choice in expected.choices)
        return f"{name} must be one of {choices}, not {_short(value)}"
    if expected.kinds and not expected.choices:
        for part in _flat(value):
            if not expected.kinds & {type(part), *_wider(part)} and not (isinstance(value, list) and _is_number(part)):
                if list in expected.kinds and not isinstance(part, str | bool | dict):
                    continue  # a single number for a list
                if isinstance(value, list):
                    return f"numbers are expected in {name}, not {_got(part)}"
                return f"{_expected(expected)} is expected for {name}, not {_got(part)}"
        if value == [] and expected.is_size:
            return f"{name} has no entries; at least one is expected"
    return _range_problem(name, value, expected)


def _range_problem(name: str, value: Any, expected: ArgumentType) -> str | None:
    numbers = [part for part in _flat(value) if _is_number(part)]
    lowest, highest = min(numbers, default=1), max(numbers, default=0)
    if expected.is_size and lowest < 1:
        return f"{name} must be at least 1, not {lowest}"
    if lowest < 0:
        return f"{name} must be at least 0, not {lowest}"
    if lowest == 0 and _POSITIVE.search(name) and not _RATE.search(name):
        return f"{name} must be greater than 0"
    if highest >= 1 and float in expected.kinds and _RATE.search(name):
        return f"{name} must be less than 1, not {highest}"
    return None


def _as_integers(value: Any, expected: ArgumentType) -> Any:
    """Return whole floats as integers where the argument takes no other numbers: JSON does not distinguish them."""
    if float in expected.kinds or not expected.kinds & {int, list}:
        return value
    if isinstance(value, list):
        return (
            value if list not in expected.kinds or not expected.is_size else [_as_integers(v, expected) for v in value]
        )
    is_whole = isinstance(value, float) and value.is_integer()
    return int(value) if is_whole and (int in expected.kinds or expected.is_size) else value


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for part in value:
            yield from _flat(part)
    else:
        yield value


def _wider(value: Any) -> tuple[type, ...]:
    return (float,) if type(value) is int else ()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _expected(expected: ArgumentType) -> str:
    return " or ".join(text for kind, text in _NAMES.items() if kind in expected.kinds)


def _got(value: Any) -> str:
    return _short(value) if isinstance(value, float) else str(json_type(value))


def _short(value: Any) -> str:
    return repr(value)[:80]
