"""Build a compression step from its parameters, by the registry ``core.spec.compression.COMPRESSION_STEPS``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from core.compress.base import CompressionStep
from core.spec.compression import COMPRESSION_STEPS, StepParams


def implementation(name: str) -> type[CompressionStep[Any]]:
    """Import the class that implements the step ``name``."""
    module, _, class_name = COMPRESSION_STEPS[name].implementation.partition(":")
    step_class: type[CompressionStep[Any]] = getattr(import_module(module), class_name)
    assert issubclass(step_class, CompressionStep), f"{step_class} is not a CompressionStep"
    return step_class


def build_step(params: StepParams) -> CompressionStep[Any]:
    """Build the step that ``params`` select."""
    return implementation(params.name)(params)
