"""Build a method from its parameters, by the registry ``core.spec.methods.METHODS``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

from core.methods.base import Method, MethodContext
from core.models.plan import ModelPlan
from core.models.structure import ModelStructure, inspect_structure
from core.spec.methods import METHODS, MethodParams


def implementation(name: str) -> type[Method]:
    """Import the class that implements the method ``name``."""
    module, _, class_name = METHODS[name].implementation.partition(":")
    method_class: type[Method] = getattr(import_module(module), class_name)
    assert issubclass(method_class, Method), f"{method_class} is not a Method"
    return method_class


def build_method(params: MethodParams, context: MethodContext) -> Method:
    """Build the method that ``params`` select; initial weights are drawn from torch's global generator."""
    build: type = implementation(params.name)
    method = build(params, context)
    assert isinstance(method, Method)
    return method


def plan_student_variant(
    params: MethodParams, student: ModelPlan, *, teachers: Callable[[], Sequence[ModelStructure]]
) -> ModelPlan:
    """Return the plan of the student variant that a method trains; the plan itself if the method has none.

    ``teachers`` is called only if the method has a variant. Raises ``InvalidSpec`` if the student has no such variant.
    """
    method = implementation(params.name)
    if method.student_variant.__func__ is Method.student_variant.__func__:  # type: ignore[attr-defined]
        return student
    structure = inspect_structure(student.architecture, student.arguments, student.image_size)
    return student.with_variant(method.student_variant(params, structure, teachers()))
