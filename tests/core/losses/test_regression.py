"""Regression of normalized features: values of the official codes of VkD and G2SD, drawn from seed 0."""

import pytest
import torch
import torch.nn.functional as F

from core.losses import normalized_regression


def drawn(*draws):
    torch.manual_seed(0)
    student, teacher = (scale * torch.randn(shape) for scale, shape in draws)
    return student.requires_grad_(), teacher


def test_standardized_features_match_vkds_code_for_detection():
    student, teacher_map = drawn((3, (18, 8)), (2, (2, 8, 3, 3)))
    rows = teacher_map.permute(0, 2, 3, 1).reshape(-1, 8)

    loss = normalized_regression(student, rows, normalization="standard")
    loss.backward()

    assert loss.item() == pytest.approx(0.6908449725667093, rel=1e-5)
    assert student.grad.norm().item() == pytest.approx(0.017028255722614745, rel=1e-5)


def test_the_teachers_layer_norm_matches_g2sds_code():
    student, teacher = drawn((2, (4, 10, 8)), (3, (4, 10, 8)))

    loss = normalized_regression(student, teacher, normalization="layer", beta=2.0, eps=1e-6)
    loss.backward()

    assert loss.item() == pytest.approx(0.9458099866499454, rel=1e-5)
    assert student.grad.norm().item() == pytest.approx(0.04129347292905415, rel=1e-5)


def test_standardization_removes_scale_and_shift_of_every_channel():
    student, teacher = drawn((1, (6, 4)), (1, (6, 4)))
    expected = normalized_regression(student, teacher, normalization="standard")

    moved = normalized_regression(3 * student + 2, 0.5 * teacher - 1, normalization="standard")

    assert moved.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_constant_channels_leave_value_and_gradient_finite(constant):
    student, teacher = torch.full((5, 3), constant, requires_grad=True), torch.randn(5, 3)

    loss = normalized_regression(student, teacher, normalization="standard")
    loss.backward()

    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_the_student_is_not_normalized_by_a_layer_norm():
    student, teacher = drawn((1, (6, 4)), (1, (6, 4)))

    loss = normalized_regression(student, teacher, normalization="layer", beta=0.5)

    assert loss.item() == pytest.approx(F.smooth_l1_loss(student, F.layer_norm(teacher, (4,)), beta=0.5).item())


@pytest.mark.parametrize(
    ("student", "teacher", "normalization", "words"),
    [((4, 8), (4, 1), "layer", "same shape"), ((8,), (8,), "layer", "same shape"), ((1, 8), (1, 8), "standard", "two")],
)
def test_features_that_would_broadcast_and_a_single_row_are_rejected(student, teacher, normalization, words):
    with pytest.raises(ValueError, match=words):
        normalized_regression(torch.zeros(student), torch.zeros(teacher), normalization=normalization)
