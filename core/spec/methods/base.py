"""What a method says about itself before any tensor exists: its parameters and what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from core.spec.document import Document

Family = Literal["transformer", "cnn", "hybrid", "mlp"]


@dataclass(frozen=True, slots=True)
class Needs:
    """What a method asks of a job. ``max_teachers`` ``None`` means any number."""

    min_teachers: int = 1
    max_teachers: int | None = 1
    teacher: tuple[str, ...] = ("logits",)
    student: tuple[str, ...] = ("logits",)
    student_families: tuple[Family, ...] = ()  # empty: any
    labels: bool = True


@dataclass(frozen=True, slots=True)
class About:
    """The method's entry in the catalogue."""

    summary: str
    paper: str
    year: int
    when: str
    needs: Needs
    caches: tuple[str, ...] = ()


class MethodParams(Document):
    """Base of every method's parameters; ``name`` tells them apart on the wire."""

    about: ClassVar[About]
    name: str
