"""From a method's parameters to the method: follows the names in ``core.spec.methods.METHODS``."""

from __future__ import annotations

from importlib import import_module

from core.methods.base import Method, Setting
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
