"""Warnings about networks that guess, and about teachers that teach little."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from core.evaluate.accuracy import Accuracy
from core.evaluate.chance import Chance, is_below
from core.job_warnings import JobWarning
from core.spec.teacher_names import teacher_subject

MIN_RISE_AT_CHANCE = 1.1  # of a loss, relative to its start, that explains an accuracy at chance
MIN_RISE = 2.0  # of a loss that is a divergence whatever the accuracy
MIN_TOP1_ON_AUGMENTED = 0.5
MIN_RISE_WITH_WEIGHTS = 10.0  # the same for a student with given weights, whose first loss may be small
MIN_IMAGES = 100  # for a comparison with a baseline or with the student
_BETTER_TEACHER = "Use a more accurate teacher, or train it longer"
_DIVERGED_FIX = "Lower training.learning_rate, increase training.warmup_epochs, or set training.gradient_clip."


def quality_warnings(
    student: Accuracy | None,
    teachers: Sequence[Accuracy | None],
    labels_N: Tensor,
    num_classes: int | None,
    *,
    loss_ratio: float | None,
    has_weights: bool,
) -> Iterator[JobWarning]:
    """Yield warnings of teachers and a student that guess, of teachers below the student, and of a divergence.

    ``num_classes`` is None without labels or without classifiers. For the rest see :func:`divergence_warning`.
    """
    at_chance = False
    if num_classes is not None:
        for index, teacher in enumerate(teachers):
            warning = (
                None
                if teacher is None
                else teacher_warning(index, teacher.top1, labels_N, num_classes, num_teachers=len(teachers))
            )
            if warning is None and teacher is not None and student is not None:
                warning = worse_teacher_warning(
                    index, teacher.top1, student.top1, len(labels_N), num_teachers=len(teachers)
                )
            if warning is not None:
                yield warning
        if student is not None:
            chance = Chance.from_labels(labels_N, num_classes)
            at_chance = chance.includes(student.top1)
            yield from student_warnings(student, chance)
    diverged = divergence_warning(loss_ratio, at_chance=at_chance, has_weights=has_weights)
    if diverged is not None:
        yield diverged


def teacher_warning(
    index: int, top1: float, labels_N: Tensor, num_classes: int, *, num_teachers: int
) -> JobWarning | None:
    """Warn of a teacher at or below chance, or below 1.5 times chance, on a split with these labels."""
    chance = Chance.from_labels(labels_N, num_classes)
    if num_classes < 2 or not chance.is_poor(top1):
        return None
    name = teacher_subject(index, num_teachers)
    return JobWarning(
        code="teacher_at_chance",
        field=f"/teachers/{index}",
        message=f"{name} classifies {_percent(top1)} of {chance.num_images:,} test images correctly, and "
        f"{_baseline(chance)}: the student learns from outputs that carry almost no information.",
        fix="Compare the order of the teacher's classes and its mean and std with the dataset, or train it longer.",
    )


def below_baseline_warning(
    index: int, top1: float, baseline: float, num_images: int, *, num_teachers: int
) -> JobWarning | None:
    """Warn of a teacher that is less accurate than a simple classifier of pixels on the same test images."""
    if num_images < MIN_IMAGES or not is_below(top1, baseline, num_images):
        return None
    name = teacher_subject(index, num_teachers)
    return JobWarning(
        code="teacher_below_baseline",
        field=f"/teachers/{index}",
        message=f"{name} classifies {_percent(top1)} of {num_images:,} test images correctly. A classifier of "
        f"their pixels, fitted on training images, reaches {_percent(baseline)}: the student probably learns more from "
        "the labels alone.",
        fix=f"{_BETTER_TEACHER}; compare with method scratch.",
    )


def augmented_images_warning(index: int, top1: float, num_images: int, *, num_teachers: int) -> JobWarning | None:
    """Warn of a teacher that is wrong on most of the augmented training images that it is shown."""
    if top1 >= MIN_TOP1_ON_AUGMENTED:
        return None
    name = teacher_subject(index, num_teachers)
    return JobWarning(
        code="teacher_wrong_on_augmented",
        field=f"/teachers/{index}",
        message=f"{name} is wrong on {_percent(1 - top1)} of {num_images:,} training images as the training "
        "augments them: most of its decisions are wrong labels.",
        fix="Use a weaker training.augmentation, soft instead of hard decisions of the teacher, or a teacher that was "
        "trained with this augmentation at this image size.",
    )


def worse_teacher_warning(
    index: int, teacher: float, student: float, num_images: int, *, num_teachers: int
) -> JobWarning | None:
    """Warn of a teacher that is less accurate than the student that it taught, on ``num_images`` test images."""
    if num_images < MIN_IMAGES or not is_below(teacher, student, num_images):
        return None
    name = teacher_subject(index, num_teachers)
    return JobWarning(
        code="teacher_below_student",
        field=f"/teachers/{index}",
        message=f"{name} classifies {_percent(teacher)} of {num_images:,} test images correctly, and the "
        f"student that it taught {_percent(student)}: the teacher adds little to the labels, or takes away from them.",
        fix=f"{_BETTER_TEACHER}; compare with method scratch.",
    )


def baseline_warning(difference: float, low: float, high: float) -> JobWarning:
    """Warn of a student that is less accurate than its baseline, with the difference and its 95 % interval."""
    return JobWarning(
        code="student_below_baseline",
        field="/method",
        message=f"the student is {100 * abs(difference):.1f} points less accurate than the same network trained by "
        f"labels alone (95 % interval: {100 * abs(high):.1f} to {100 * abs(low):.1f}): the teacher harms.",
        fix=f"{_BETTER_TEACHER}, give its loss less weight, or use method scratch.",
    )


def student_warnings(accuracy: Accuracy, chance: Chance) -> Iterator[JobWarning]:
    """Yield warnings of a student that is at or below chance, or that predicts the same class for all images."""
    if chance.includes(accuracy.top1):
        yield JobWarning(
            code="student_at_chance",
            field="/training",
            message=f"the student classifies {_percent(accuracy.top1)} of {chance.num_images:,} test images correctly, "
            f"and {_baseline(chance)}.",
            fix="Train for more epochs, lower training.learning_rate, or check the labels and the teacher.",
        )
    if chance.constant < 1 and bool((accuracy.predictions == accuracy.predictions[0]).all()):
        yield JobWarning(
            code="student_constant",
            field="/training",
            message=f"the student predicts class {int(accuracy.predictions[0])} for all {chance.num_images:,} test "
            "images.",
            fix=_DIVERGED_FIX,
        )


def divergence_warning(
    loss_ratio: float | None, *, at_chance: bool = False, has_weights: bool = False
) -> JobWarning | None:
    """Warn of a training whose loss rose. ``loss_ratio``: its end relative to its start, None if unknown.

    ``at_chance`` tells that the student's accuracy is that of guessing, ``has_weights`` that it did not start from
    random weights.
    """
    limit = MIN_RISE_AT_CHANCE if at_chance else MIN_RISE_WITH_WEIGHTS if has_weights else MIN_RISE
    if loss_ratio is None or loss_ratio < limit:
        return None
    return JobWarning(
        code="student_diverged",
        field="/training/learning_rate",
        message=f"the training diverged: its loss ended at {loss_ratio:.3g} times the loss of its first step.",
        fix=_DIVERGED_FIX,
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _baseline(chance: Chance) -> str:
    return f"{_percent(chance.constant)} would be correct by always predicting one class"
