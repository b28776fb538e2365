"""Warnings of networks that guess, and of trainings that diverged."""

import pytest
import torch

from core.evaluate.accuracy import score
from core.evaluate.quality_warnings import (
    augmented_images_warning,
    below_baseline_warning,
    divergence_warning,
    quality_warnings,
    teacher_warning,
)

LABELS = torch.arange(400) % 4


def accuracy(predictions):
    return score(torch.nn.functional.one_hot(predictions, 4).float(), LABELS)


PERFECT, PERMUTED, CONSTANT = accuracy(LABELS), accuracy((LABELS + 1) % 4), accuracy(torch.zeros(400).long())


def codes(student, *teachers, loss_ratio=0.5, has_weights=False, num_classes=4, labels=LABELS):
    return [
        warning.code
        for warning in quality_warnings(
            student, teachers, labels, num_classes, loss_ratio=loss_ratio, has_weights=has_weights
        )
    ]


def test_good_networks_give_no_warning():
    assert codes(PERFECT, PERFECT) == []


def test_a_teacher_with_a_permuted_head_is_at_chance():
    (warning,) = quality_warnings(PERFECT, [PERFECT, PERMUTED], LABELS, 4, loss_ratio=0.5, has_weights=False)

    assert (warning.code, warning.field) == ("teacher_at_chance", "/teachers/1")
    assert "0.0 % of 400 test images" in warning.message
    assert "25.0 % would be correct by always predicting one class" in warning.message
    assert "order" in warning.fix


def test_a_teacher_below_one_and_a_half_times_chance_gives_the_same_warning():
    assert teacher_warning(0, 0.37, LABELS, 4, num_teachers=1).code == "teacher_at_chance"
    assert teacher_warning(0, 0.38, LABELS, 4, num_teachers=1) is None


def correct_on(count):
    """Accuracy of a network that is right on the first ``count`` of the 400 images."""
    return accuracy(torch.where(torch.arange(400) < count, LABELS, (LABELS + 1) % 4))


def test_a_teacher_below_its_student_gives_a_warning():
    (warning,) = quality_warnings(correct_on(340), [correct_on(280)], LABELS, 4, loss_ratio=0.5, has_weights=False)

    assert (warning.code, warning.field) == ("teacher_below_student", "/teachers/0")
    assert "70.0 % of 400 test images" in warning.message
    assert "85.0 %" in warning.message
    assert "scratch" in warning.fix
    assert codes(correct_on(340), correct_on(330)) == []  # within the sampling error
    assert codes(correct_on(280), correct_on(340)) == []
    assert codes(correct_on(340), correct_on(90)) == ["teacher_at_chance"]


def test_few_images_do_not_compare_teacher_and_student():
    few = torch.arange(40) % 4
    student, teacher = (score(torch.nn.functional.one_hot(p, 4).float(), few) for p in (few, few.clamp(max=2)))

    assert codes(student, teacher, labels=few) == []


def test_a_teacher_below_a_classifier_of_pixels_gives_a_warning():
    warning = below_baseline_warning(1, 0.30, 0.40, 400, num_teachers=2)

    assert (warning.code, warning.field) == ("teacher_below_baseline", "/teachers/1")
    assert below_baseline_warning(1, 0.38, 0.40, 400, num_teachers=2) is None
    assert below_baseline_warning(1, 0.30, 0.40, 90, num_teachers=2) is None


def test_a_teacher_that_is_wrong_on_most_augmented_images_gives_a_warning():
    warning = augmented_images_warning(0, 0.45, 1_000, num_teachers=1)

    assert (warning.code, warning.field) == ("teacher_wrong_on_augmented", "/teachers/0")
    assert "55.0 % of 1,000 training images" in warning.message
    assert augmented_images_warning(0, 0.5, 1_000, num_teachers=1) is None


def test_a_student_at_chance_that_predicts_one_class():
    assert codes(PERMUTED) == ["student_at_chance"]
    assert codes(CONSTANT) == ["student_at_chance", "student_constant"]


@pytest.mark.parametrize(
    ("student", "ratio", "has_weights", "expected"),
    [
        (CONSTANT, 1.05, False, ["student_at_chance", "student_constant"]),
        (CONSTANT, 1.2, False, ["student_at_chance", "student_constant", "student_diverged"]),
        (PERFECT, 1.9, False, []),
        (PERFECT, 2.5, False, ["student_diverged"]),
        (PERFECT, 2.5, True, []),  # its first loss was small
        (PERFECT, 12.0, True, ["student_diverged"]),
    ],
)
def test_a_rising_loss_is_a_divergence(student, ratio, has_weights, expected):
    assert codes(student, loss_ratio=ratio, has_weights=has_weights) == expected


def test_without_labels_or_classifier_only_the_loss_counts():
    unlabeled = torch.full((9,), -1)

    assert codes(None, None, labels=unlabeled, num_classes=None) == []
    assert codes(None, None, labels=unlabeled, num_classes=None, loss_ratio=4.0) == ["student_diverged"]


def test_a_training_without_a_step_gives_no_warning():
    assert divergence_warning(None, at_chance=True) is None


def test_one_class_gives_no_warning():
    one = score(torch.zeros(9, 1), torch.zeros(9).long())

    assert codes(one, one, labels=torch.zeros(9).long(), num_classes=1) == []
