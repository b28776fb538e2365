"""From a method's parameters to the method: follows the names in ``core.spec.methods.METHODS``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from core.methods.base import Method, MethodContext
from core.models.structure import ModelStructure, inspect_structure
from core.models.student_variants import StudentVariant
from core.spec.methods import METHODS, MethodParams


def implementation(name: str) -> type[Method]:
    """The class that implements the method ``name``."""
    module, _, class_name = METHODS[name].implementation.partition(":")
    found: type[Method] = getattr(import_module(module), class_name)
    assert issubclass(found, Method), f"{found} is not a Method"
    return found


def build_method(params: MethodParams, setting: MethodContext) -> Method:
    """Build the method that ``params`` are for; its modules draw their first weights from torch's generator."""
    build: type = implementation(params.name)
    method = build(params, setting)
    assert isinstance(method, Method)
    return method


def student_form(
    params: MethodParams,
    architecture: str,
    arguments: Mapping[str, Any],
    *,
    image_size: int,
    teachers: Callable[[], Sequence[ModelStructure]],
) -> StudentVariant | None:
    """The form that the asked student takes with a method; None leaves it as it is.

    Raises ``InvalidSpec`` where the student cannot take it.
    """
    method = implementation(params.name)
    if method.student_variant.__func__ is Method.student_variant.__func__:  # type: ignore[attr-defined]
        return None  # no need to look at anybody
    return method.student_variant(params, inspect_structure(architecture, arguments, image_size), teachers())
