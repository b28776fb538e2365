"""Image size of a teacher at which its patch grid fits the student's, so that no features have to be interpolated."""

from __future__ import annotations

from core.models import catalog
from core.models.plan import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE, ModelPlan
from core.models.structure import inspect_structure

MIN_DETAIL = 0.75  # pixels a side that the teacher sees, relative to the student's


def matched_image_size(teacher: ModelPlan, student: ModelPlan) -> int | None:
    """Return the size in pixels a side at which a ViT teacher's patch grid is the student's, or a multiple of it.

    A student with patches of 16 at 224 pixels gives a teacher with patches of 14 the size 196. A multiple is taken
    where the teacher would see less than three quarters of the student's pixels a side, as for a CNN of 224 pixels
    with a last map of 7 × 7. Return None for a teacher that is no ViT or cannot change its size.
    """
    own = inspect_structure(teacher.architecture, teacher.arguments, teacher.image_size)
    target = inspect_structure(student.architecture, student.arguments, student.image_size)
    if not (own.is_vit and own.last and target.last and catalog.resamples_positions(teacher.architecture)):
        return None
    rows, columns = target.last.grid
    patch_size, remainder = divmod(teacher.image_size, own.last.grid[0])
    if rows != columns or own.last.grid[0] != own.last.grid[1] or remainder:
        return None
    grid = rows
    while grid * patch_size < MIN_DETAIL * student.image_size:
        grid += rows
    size = grid * patch_size
    if not MIN_IMAGE_SIZE <= size <= MAX_IMAGE_SIZE:
        return None
    resized = inspect_structure(teacher.architecture, {**teacher.arguments, "img_size": size}, size)
    return size if resized.last is not None and resized.last.grid == (grid, grid) else None
