"""What a method says about itself before any tensor exists: its parameters and what it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from core.spec.document import StrictModel

Family = Literal["transformer", "cnn", "hybrid", "mlp"]

_READS_DATASET: Final = "reads a dataset"  # marks the fields that name one
DatasetReference = Annotated[str, Field(min_length=1, max_length=200), _READS_DATASET]


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a method asks of a job. ``max_teachers`` ``None`` means any number."""

    min_teachers: int = 1
    max_teachers: int | None = 1
    teacher: tuple[str, ...] = ("logits",)
    student: tuple[str, ...] = ("logits",)
    student_families: tuple[Family, ...] = ()  # empty: any
    teacher_families: tuple[Family, ...] = ()
    labels: bool = True
    headless: bool = False  # the student has no classifier, and whose classes teachers know is all the same


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """The method's entry in the catalogue. ``caches``: what it asks of teachers once for each view, if anything."""

    summary: str
    paper: str
    year: int
    when: str
    needs: Requirements
    caches: tuple[str, ...] = ()
    example: Mapping[str, Any] = field(default_factory=dict)  # parameters that have no default


class MethodParams(StrictModel):
    """Base of every method's parameters; ``name`` tells them apart on the wire."""

    about: ClassVar[MethodInfo]
    name: str

    def datasets(self) -> dict[str, str]:
        """The datasets that the method reads beside the job's own, by the field that names each."""
        marked = (name for name, field in type(self).model_fields.items() if _READS_DATASET in field.metadata)
        return {name: getattr(self, name) for name in marked}
