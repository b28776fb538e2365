"""What is said to bring a student to its teacher's grid."""

from core.methods.grids import way_to_grid


def test_a_patch_size_is_named_where_one_gives_the_grid(setting):
    assert way_to_grid(setting, (8, 8)) == "set the student's patch_size to 2, for the teacher's 8 × 8 patches"


def test_other_grids_need_another_image_size(setting):
    assert way_to_grid(setting, (7, 7)).startswith("choose image_size and patch_size so that the student has 7 × 7")
