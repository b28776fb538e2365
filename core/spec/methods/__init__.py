"""The registry of methods: one line a method ties its parameters to its implementation.

Implementations are named, not imported, so that this package stays free of torch.
``tests/core/methods/test_registry.py`` holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from core.spec.methods.base import About, Family, MethodParams, Needs
from core.spec.methods.deit import DeitParams
from core.spec.methods.kd import KdParams
from core.spec.methods.scratch import ScratchParams


@dataclass(frozen=True, slots=True)
class MethodEntry:
    """A method's parameters and the class that implements it, as ``module:Class``."""

    params: type[MethodParams]
    implementation: str


METHODS: dict[str, MethodEntry] = {
    "scratch": MethodEntry(ScratchParams, "core.methods.scratch:Scratch"),
    "kd": MethodEntry(KdParams, "core.methods.kd:Kd"),
    "deit": MethodEntry(DeitParams, "core.methods.deit:Deit"),
}

if TYPE_CHECKING:
    MethodSpec = MethodParams
else:
    MethodSpec = Annotated[
        Union[tuple(entry.params for entry in METHODS.values())],  # noqa: UP007 - built from the registry
        Field(discriminator="name"),
    ]

__all__ = ["METHODS", "About", "Family", "MethodEntry", "MethodParams", "MethodSpec", "Needs"]
