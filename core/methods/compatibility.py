"""Which level of the student learns from which level of the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from core.data.views import steps_per_epoch
from core.errors import FieldError, InvalidSpec
from core.methods.base import MethodContext, invalid_architecture, invalid_param
from core.models.structure import FeatureLevel, ModelStructure

Pairs = tuple[tuple[int, int], ...]


def pair_levels(
    student: ModelStructure,
    teacher: ModelStructure,
    given: Sequence[tuple[int, int]] | None,
    *,
    count: int,
    method: str,
) -> Pairs:
    """Pairs of (student level, teacher level): those given, or ``count`` at equal relative depth, the last included.

    Raises ``InvalidSpec`` where a network shows no levels, or a given level does not exist.
    """
    check_levels(student, "student", method)
    check_levels(teacher, "teachers/0", method)
    if given is None:
        count = min(count, len(student.levels), len(teacher.levels))
        return tuple(
            zip(evenly_spaced(len(student.levels), count), evenly_spaced(len(teacher.levels), count), strict=True)
        )
    for mine, theirs in given:
        _check_level(mine, len(student.levels), f"the student {student.architecture}")
        _check_level(theirs, len(teacher.levels), f"the teacher {teacher.architecture}")
    return tuple(given)


def evenly_spaced(depth: int, count: int) -> tuple[int, ...]:
    """``count`` of ``depth`` levels at even distances, the last one among them: (12, 4) gives 2, 5, 8, 11."""
    return tuple(-(-depth * (place + 1) // count) - 1 for place in range(count))


def check_levels(anatomy: ModelStructure, whose: str, method: str) -> tuple[FeatureLevel, ...]:
    """The levels of a network. Raises ``InvalidSpec`` where it shows none."""
    if not anatomy.levels:
        raise invalid_architecture(
            whose,
            f"{method} compares inner features, and timm's {anatomy.architecture} does not give them; use another "
            "architecture or a method that needs logits alone, such as kd",
        )
    return anatomy.levels


def _check_level(index: int, depth: int, whose: str) -> None:
    if index >= depth:
        raise invalid_param("layers", f"{whose} has levels 0 to {depth - 1}, there is no {index}")


def grid_hint(setting: MethodContext, grid: tuple[int, int]) -> str:
    """What to change in the spec so that the student has the teacher's grid of patches, in words."""
    size = setting.student.preprocessing.image_size
    rows, columns = grid
    if rows == columns and size % rows == 0 and setting.student_structure.is_vit:
        return f"set the student's patch_size to {size // rows}, for the teacher's {rows} × {columns} patches"
    return (
        f"choose image_size and patch_size so that the student has {rows} × {columns} patches as the teacher has, or "
        "another teacher"
    )


def embedding_width(anatomy: ModelStructure, whose: str, method: str) -> int:
    """Width of what the classifier reads. Raises ``InvalidSpec`` where nothing can be read."""
    if anatomy.embedding is None:
        raise invalid_architecture(
            whose,
            f"{method} compares what the classifiers read, and timm's {anatomy.architecture} does not show it; use "
            "another architecture or a method that needs logits alone, such as kd",
        )
    return anatomy.embedding


def check_batch(setting: MethodContext, method: str, *, num_samples: int = 2) -> None:
    """Raise ``InvalidSpec`` where the smallest batch has fewer than ``num_samples`` samples to compare."""
    smallest = setting.num_samples // steps_per_epoch(setting.num_samples, setting.batch_size)
    if smallest < num_samples:
        pointer = "/training/batch_size"
        detail = (
            f"{method} compares the samples of a batch: with {setting.num_samples} training samples in batches of at "
            f"most {setting.batch_size} some have only {smallest}; it needs {num_samples}"
        )
        raise InvalidSpec(f"{pointer}: {detail}", errors=[FieldError(pointer, detail)])
