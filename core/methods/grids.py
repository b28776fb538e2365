"""For methods that compare patch by patch: how a student comes to the grid of its teacher."""

from __future__ import annotations

from core.methods.base import Setting


def way_to_grid(setting: Setting, grid: tuple[int, int]) -> str:
    """What to change in the spec so that the student has the teacher's grid of patches, in words."""
    size = setting.student.preprocessing.image_size
    rows, columns = grid
    if rows == columns and size % rows == 0 and setting.student_anatomy.is_vit:
        return f"set the student's patch_size to {size // rows}, for the teacher's {rows} × {columns} patches"
    return (
        f"choose image_size and patch_size so that the student has {rows} × {columns} patches as the teacher has, or "
        "another teacher"
    )
