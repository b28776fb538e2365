"""From a method's parameters to the method: follows the names in ``core.spec.methods.METHODS``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from core.methods.base import Method, Setting
from core.models.anatomy import Anatomy, examine
from core.models.forms import Form
from core.spec.methods import METHODS, MethodParams


def implementation(name: str) -> type[Method]:
    """The class that implements the method ``name``."""
    module, _, class_name = METHODS[name].implementation.partition(":")
    found: type[Method] = getattr(import_module(module), class_name)
    assert issubclass(found, Method), f"{found} is not a Method"
    return found


def build_method(params: MethodParams, setting: Setting) -> Method:
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
    teachers: Callable[[], Sequence[Anatomy]],
) -> Form | None:
    """The form that the asked student takes with a method; None leaves it as it is.

    Raises ``InvalidSpec`` where the student cannot take it.
    """
    method = implementation(params.name)
    if method.form.__func__ is Method.form.__func__:  # type: ignore[attr-defined]
        return None  # no need to look at anybody
    return method.form(params, examine(architecture, arguments, image_size), teachers())
