"""Which level of the student learns from which level of the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from core.methods.base import refuse, refuse_pair
from core.models.anatomy import Anatomy, Level

Pairs = tuple[tuple[int, int], ...]


def pair_levels(
    student: Anatomy, teacher: Anatomy, given: Sequence[tuple[int, int]] | None, *, count: int, method: str
) -> Pairs:
    """Pairs of (student level, teacher level): those given, or ``count`` at equal relative depth, the last included.

    Raises ``InvalidSpec`` where a network shows no levels, or a given level does not exist.
    """
    check_levels(student, "student", method)
    check_levels(teacher, "teachers/0", method)
    if given is None:
        count = min(count, len(student.levels), len(teacher.levels))
        return tuple(zip(evenly(len(student.levels), count), evenly(len(teacher.levels), count), strict=True))
    for mine, theirs in given:
        _check_level(mine, len(student.levels), f"the student {student.architecture}")
        _check_level(theirs, len(teacher.levels), f"the teacher {teacher.architecture}")
    return tuple(given)


def evenly(depth: int, count: int) -> tuple[int, ...]:
    """``count`` of ``depth`` levels at even distances, the last one among them: (12, 4) gives 2, 5, 8, 11."""
    return tuple(-(-depth * (place + 1) // count) - 1 for place in range(count))


def check_levels(anatomy: Anatomy, whose: str, method: str) -> tuple[Level, ...]:
    """The levels of a network. Raises ``InvalidSpec`` where it shows none."""
    if not anatomy.levels:
        raise refuse_pair(
            whose,
            f"{method} compares inner features, and timm's {anatomy.architecture} does not give them; use another "
            "architecture or a method that needs logits alone, such as kd",
        )
    return anatomy.levels


def _check_level(index: int, depth: int, whose: str) -> None:
    if index >= depth:
        raise refuse("layers", f"{whose} has levels 0 to {depth - 1}, there is no {index}")
