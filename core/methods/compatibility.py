"""Checks that student and teacher offer what a method compares: levels, embeddings, patch grids, batches.

Each check raises ``InvalidSpec`` at the field of the spec that has to change. ``model_field`` is ``student`` or
``teachers/0``, and ``method`` is the method's name for the message.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from core.data.views import steps_per_epoch
from core.errors import InvalidSpec, SpecCannotRun
from core.methods.base import MethodContext, invalid_architecture, invalid_param
from core.models.structure import FeatureLevel, ModelStructure

Pairs = tuple[tuple[int, int], ...]


def check_levels(structure: ModelStructure, model_field: str, method: str) -> tuple[FeatureLevel, ...]:
    """Return the feature levels of a network. Raises ``InvalidSpec`` if it exposes none."""
    if not structure.levels:
        raise invalid_architecture(
            model_field,
            f"{method} compares inner features, and timm's {structure.architecture} does not expose them; use another "
            "architecture or a method that needs only logits, such as kd",
        )
    return structure.levels


def pair_levels(
    student: ModelStructure,
    teacher: ModelStructure,
    layers: Sequence[tuple[int, int]] | None,
    *,
    count: int,
    method: str,
) -> Pairs:
    """Pair student and teacher levels: ``layers`` if given, else ``count`` pairs at equal relative depth.

    Pairs at equal relative depth include the last level of both. Raises ``InvalidSpec`` if a network exposes no
    levels, or a given level does not exist.
    """
    check_levels(student, "student", method)
    check_levels(teacher, "teachers/0", method)
    if layers is None:
        count = min(count, len(student.levels), len(teacher.levels))
        return tuple(
            zip(evenly_spaced(len(student.levels), count), evenly_spaced(len(teacher.levels), count), strict=True)
        )
    for student_level, teacher_level in layers:
        _check_level(student_level, len(student.levels), f"the student {student.architecture}")
        _check_level(teacher_level, len(teacher.levels), f"the teacher {teacher.architecture}")
    return tuple(layers)


def evenly_spaced(depth: int, count: int) -> tuple[int, ...]:
    """Indices of ``count`` of ``depth`` levels at equal distances, including the last: (12, 4) gives 2, 5, 8, 11."""
    return tuple(-(-depth * (index + 1) // count) - 1 for index in range(count))


def middle_level(depth: int) -> int:
    """Index of the level at half of the depth: 5 of 12, 2 of 5, 0 of 1."""
    return (depth - 1) // 2


def _check_level(index: int, depth: int, network: str) -> None:
    if index >= depth:
        raise invalid_param("layers", f"{network} has levels 0 to {depth - 1}; level {index} does not exist")


def embedding_width(structure: ModelStructure, model_field: str, method: str) -> int:
    """Return the width of the classifier's input. Raises ``InvalidSpec`` if it cannot be read."""
    if structure.embedding is None:
        raise invalid_architecture(
            model_field,
            f"{method} compares embeddings (the classifier's input), and timm's {structure.architecture} does not "
            "expose it; use another architecture or a method that needs only logits, such as kd",
        )
    return structure.embedding


def last_level(
    structure: ModelStructure,
    model_field: str,
    method: str,
    *,
    fix: str = "or a method that needs only logits, such as kd",
) -> FeatureLevel:
    """Return the last features of a network, after its final norm. Raises ``InvalidSpec`` if it does not expose them.

    ``fix`` is what a user can do besides using another architecture.
    """
    if structure.last is None:
        raise invalid_architecture(
            model_field,
            f"{method} compares the last features, and timm's {structure.architecture} does not expose them; use "
            f"another architecture, {fix}",
        )
    return structure.last


def grid_hint(context: MethodContext, grid: tuple[int, int]) -> str:
    """Describe how to change the spec so that the student's patch grid equals the teacher's ``grid``."""
    size = context.student.preprocessing.image_size
    rows, columns = grid
    if rows == columns and size % rows == 0 and context.student_structure.is_vit:
        return f"set the student's patch_size to {size // rows}, for the teacher's {rows} × {columns} patches"
    return (
        f"choose image_size and patch_size so that the student has the teacher's {rows} × {columns} patches, or use "
        "another teacher"
    )


def check_batch(context: MethodContext, method: str, *, num_samples: int = 2) -> None:
    """Raise ``InvalidSpec`` if the smallest batch has fewer than ``num_samples`` samples to compare."""
    smallest = context.num_samples // steps_per_epoch(context.num_samples, context.batch_size)
    if smallest < num_samples:
        raise InvalidSpec.for_field(
            "/training/batch_size",
            f"{method} compares the samples of a batch: with {context.num_samples} training samples in batches of at "
            f"most {context.batch_size} some have only {smallest}; it needs {num_samples}",
        )


def return_all_logits(
    student: nn.Module,
    method: str,
    *,
    tokens: str = "a distillation token",
    fix: str = "choose a ViT as student, or method kd",
) -> None:
    """Make a student return the logits of its distillation heads too, in training mode.

    The switch is a plain attribute, as in timm, and in no state dict. Raises ``SpecCannotRun`` for a student without
    ``tokens``.
    """
    set_distilled_training = getattr(student, "set_distilled_training", None)
    if set_distilled_training is None:
        raise SpecCannotRun(f"{method} needs a student with {tokens}, {type(student).__name__} has none; {fix}")
    set_distilled_training(True)
