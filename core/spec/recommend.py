"""Order the methods for a situation: the rules of ``GET /v1/methods/recommend`` and of the method ``auto``.

Each rule lists methods for one kind of teacher and student, the first choice first, with the reason. A method that
costs more than the compute budget moves behind the others. Where the quality benchmark has measured the gains of a pair
of families, methods with a significant gain come first, the largest gain at the top.

Sources of the order: ``published_gains.json``, and the sections of the methods' pages on when to choose them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from pydantic import Field

from core.spec.costs import relative_cost
from core.spec.document import StrictModel
from core.spec.gains import Gain, find_gain
from core.spec.methods import METHODS, Family
from core.spec.methods.auto import Compute

TeacherKind = Literal["none", "cnn", "transformer", "hybrid", "mlp"]

MAX_COST: dict[Compute, float] = {"small": 1.3, "medium": 2.5, "large": float("inf")}
"""Largest duration of a training step for each budget, relative to labels alone."""
FEW_IMAGES = 20_000
"""Training images below which a transformer learns little from labels alone."""


class Situation(StrictModel):
    """What a method is chosen for."""

    teacher: TeacherKind = Field(description="Family of the teacher; `none`: there is none.")
    student: Family = Field(description="Family of the student.")
    num_images: int = Field(ge=1, description="Training images.")
    labels: bool = Field(default=True, description="Whether the images have labels.")
    same_classes: bool = Field(
        default=True,
        description="Whether the teacher predicts the dataset's classes, or is trained or fine-tuned to. False: only "
        "its features are of use, as those of DINOv2 or SigLIP.",
    )
    num_teachers: int = Field(default=1, ge=1, le=8, description="Number of teachers.")
    compute: Compute = Field(
        default="medium",
        description="Budget for a training step, relative to labels alone: `small` (up to 1.3 times), `medium` (up to "
        "2.5 times) or `large` (any).",
    )


class Recommendation(NamedTuple):
    """One choice: the spec's ``method``, and why."""

    method: dict[str, Any]
    reason: str
    gain: Gain | None
    cost: float | None


class _Choice(NamedTuple):
    method: dict[str, Any]
    reason: str


def recommend(situation: Situation) -> list[Recommendation]:
    """Return the methods to try, the best first; empty if nothing can be learned: no teacher and no labels."""
    teacher = None if situation.teacher == "none" else situation.teacher
    found = [
        Recommendation(
            choice.method,
            choice.reason,
            find_gain(choice.method["name"], teacher=teacher, student=situation.student),
            relative_cost(choice.method["name"]),
        )
        for choice in _choices(situation)
        if _accepts(choice.method["name"], situation)
    ]
    return sorted(found, key=lambda each: (_exceeds_budget(each, situation.compute), *_measured_rank(each)))


def advice(situation: Situation) -> list[str]:
    """Return what helps in this situation beyond the method."""
    found = []
    has_classes = situation.teacher != "none" and situation.same_classes
    if has_classes and situation.labels and (situation.teacher, situation.student) == ("cnn", "transformer"):
        found.append(
            "A ViT assistant between the CNN and the student often teaches better: a teacher with weights distill."
        )
    if situation.teacher != "none" and not situation.same_classes and situation.labels:
        found.append(
            "The backbone has no classifier. Give it to the student as its distillation and fine-tune it on the labels "
            "in the same job, or give the teacher a training, which fine-tunes it on the classes first."
        )
    if has_classes and situation.labels and situation.num_images < FEW_IMAGES:
        found.append(
            "If there are more images without labels, name them as unlabeled_dataset: the student learns from them too."
        )
    if situation.labels and situation.num_images < FEW_IMAGES and situation.student == "transformer":
        found.append(f"With fewer than {FEW_IMAGES:,} images a transformer needs many epochs: at least 1,000 steps.")
    if situation.teacher == "none" and situation.labels:
        found.append("A teacher with weights train, such as a ResNet, usually helps more than a method without one.")
    return found


# --- rules --------------------------------------------------------------------------------------------


def _choices(situation: Situation) -> Iterator[_Choice]:
    if situation.teacher == "none":
        if situation.labels:
            yield from _without_teacher()
    elif not situation.same_classes:
        yield from _features_only(situation)
    elif not situation.labels:
        yield from _without_labels()
    elif situation.teacher == situation.student == "cnn":
        yield from _cnn_to_cnn()
    elif situation.teacher == situation.student == "transformer":
        yield from _transformer_to_transformer()
    elif situation.student == "transformer":
        yield from _other_to_transformer()
    else:
        yield from _other_pairs()


def _without_teacher() -> Iterator[_Choice]:
    yield _Choice({"name": "self_distillation"}, "No teacher: the student's last layers teach its earlier ones.")
    yield _Choice({"name": "mutual"}, "No teacher: two students teach each other, at twice the cost.")
    yield _Choice({"name": "scratch"}, "Labels alone, the baseline.")


def _features_only(situation: Situation) -> Iterator[_Choice]:
    yield _Choice(
        {"name": "agglomerate"},
        "The teacher's classes are not used: the student becomes a backbone with the features of its teachers.",
    )
    if situation.num_teachers == 1:
        yield _Choice({"name": "proteus"}, "One ViT teacher with the student's patch grid; also learns hidden patches.")
        yield _Choice(
            {"name": "tinymim"}, "One ViT teacher trained by masked images; fine-tune the student afterwards."
        )
        yield _Choice({"name": "feature"}, "One teacher, by simple distances of embedding and patches.")


def _without_labels() -> Iterator[_Choice]:
    yield _Choice({"name": "kd", "alpha": 1.0}, "No labels: the student learns the teacher's probabilities alone.")
    yield _Choice(
        {"name": "dist", "label_weight": 0.0}, "No labels: ranks of classes and images instead of probabilities."
    )
    yield _Choice(
        {"name": "wttm", "label_weight": 0.0},
        "No labels: unsure predictions of the teacher count more.",
    )


def _cnn_to_cnn() -> Iterator[_Choice]:
    yield _Choice({"name": "dist"}, "Cheap and robust: correlations of logits, also from a much stronger teacher.")
    yield _Choice({"name": "wttm"}, "Logits; unsure predictions of the teacher count more.")
    yield _Choice({"name": "review"}, "Features of several stages; costs twice a step of labels alone.")
    yield _Choice({"name": "wkd"}, "Logits with the similarity of classes; for many classes.")
    yield _Choice({"name": "kd"}, "The simplest method, and the reference of all others.")


def _transformer_to_transformer() -> Iterator[_Choice]:
    yield _Choice(
        {"name": "vitkd", "logits": "wttm"},
        "Features of the first and last blocks with the wttm logit term: the best published recipe for DeiT-Ti.",
    )
    yield _Choice({"name": "wttm"}, "Logits alone, which are cached; unsure predictions of the teacher count more.")
    yield _Choice({"name": "manifold"}, "Relations of patches, for networks with the same patch grid.")
    yield _Choice({"name": "spectral"}, "Features in the frequency domain; published for long schedules.")
    yield _Choice({"name": "dist"}, "Cheap and robust: correlations of logits, also from a much stronger teacher.")
    yield _Choice({"name": "kd"}, "The simplest method, and the reference of all others.")


def _other_to_transformer() -> Iterator[_Choice]:
    yield _Choice(
        {"name": "deit"},
        "A distillation token takes up the inductive bias of the CNN, which helps most with few images.",
    )
    yield _Choice({"name": "dist"}, "Cheap and robust: correlations of logits, also from a much stronger teacher.")
    yield _Choice({"name": "kd"}, "The simplest method, and the reference of all others.")
    yield _Choice({"name": "vkd"}, "Pooled features by an orthogonal projection, and logits on a distillation token.")
    yield _Choice({"name": "cumulative_spatial"}, "Local predictions of a CNN whose last map has several positions.")


def _other_pairs() -> Iterator[_Choice]:
    yield _Choice({"name": "dist"}, "Cheap and robust: correlations of logits, which any two families have.")
    yield _Choice({"name": "scalekd"}, "Features of a much stronger ViT or Swin, passed through its last stage.")
    yield _Choice({"name": "ofa"}, "Logits at several depths, for families whose features cannot be compared.")
    yield _Choice({"name": "kd"}, "The simplest method, and the reference of all others.")


# --- order --------------------------------------------------------------------------------------------


def _accepts(name: str, situation: Situation) -> bool:
    """Whether a method takes these families and this number of teachers."""
    needs = METHODS[name].params.info.needs
    if situation.teacher == "none":
        return needs.min_teachers == 0
    is_taken = needs.max_teachers is None or situation.num_teachers <= needs.max_teachers
    fits_teacher = not needs.teacher_families or situation.teacher in needs.teacher_families
    return is_taken and fits_teacher and (not needs.student_families or situation.student in needs.student_families)


def _exceeds_budget(choice: Recommendation, compute: Compute) -> bool:
    """Whether a step costs more than the budget. Where no cost was measured, cached methods count as cheap."""
    if choice.cost is None:
        return compute == "small" and not METHODS[choice.method["name"]].params.info.caches
    return choice.cost > MAX_COST[compute]


def _measured_rank(choice: Recommendation) -> tuple[int, float]:
    gain = choice.gain
    if gain is None or gain.kind != "measured" or not gain.is_significant:
        return (1, 0.0)
    return (0 if gain.points > 0 else 2, -gain.points)
