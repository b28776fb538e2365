"""Image sizes of teachers at which their patch grids fit the student's."""

import pytest

from core.models.matched_size import matched_image_size
from core.models.plan import ModelPlan

ARGUMENTS = {"embed_dim": 24, "depth": 1, "num_heads": 3, "num_classes": 0, "in_chans": 3}
VIT = "vit_tiny_patch16_224"
DINOV2 = "vit_small_patch14_reg4_dinov2"


def plan(architecture, size, **arguments):
    sized = {"img_size": size} if architecture.startswith(("vit", "swin")) else {}
    return ModelPlan(architecture, {**arguments, **sized}, size)


def vit(architecture, size, patch_size):
    return plan(architecture, size, **ARGUMENTS, patch_size=patch_size)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (vit(VIT, 224, 16), vit(DINOV2, 518, 14), 196),
        (vit(VIT, 256, 16), vit(DINOV2, 518, 14), 224),
        (vit(VIT, 224, 16), vit("vit_small_patch16_dinov3", 256, 16), 224),
        (vit(VIT, 224, 32), vit(DINOV2, 518, 14), 196),  # the teacher's 14 × 14 patches are averaged to 7 × 7
        (vit(VIT, 224, 8), vit("vit_base_patch16_siglip_224", 224, 16), 448),
        (plan("resnet10t", 224, num_classes=0, in_chans=3), vit(DINOV2, 518, 14), 196),
        (vit(VIT, 224, 16), plan("resnet10t", 224, num_classes=0, in_chans=3), None),
        (vit(VIT, 1024, 8), vit(DINOV2, 518, 14), None),  # 1792 pixels a side
    ],
)
def test_the_teachers_grid_is_the_students_or_a_multiple(student, teacher, expected):
    assert matched_image_size(teacher, student) == expected
