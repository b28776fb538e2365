"""A small job for each method, built from its requirements: for docs, benchmarks and tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.spec.methods import METHODS, Family, Requirements

DATASET, POOL, TRAINED = "ds_pictures", "ds_pool", "job_trained"  # default ids in an example

# A teacher that learns from a few hundred labels what a ViT cannot: the first job of form, demo and README has it. The
# costs of the methods were measured with the larger CNN of `example_teacher`, which their examples therefore keep.
SLIM_RESNET: dict[str, Any] = {
    "architecture": "resnet18",
    "arguments": {"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 256]},
    "weights": "train",
}

_VIT = "vit_tiny_patch16_224"
_PATCHES = 8  # along each side of an image


def example_job(
    name: str,
    *,
    dataset: str = DATASET,
    pool: str = POOL,
    trained: str = TRAINED,
    image_size: int = 32,
    student_family: Family | None = None,
    teacher_families: Sequence[Family] = (),
) -> dict[str, Any]:
    """Return a job spec of the method ``name``, as it is sent to ``POST /v1/jobs``.

    ``pool`` is the dataset of methods that read a second one, ``trained`` the weights of methods that need a trained
    student. Families default to those that the method requires.
    """
    params = METHODS[name].params
    needs = params.info.needs
    method = {"name": name, **params.info.example}
    method |= dict.fromkeys(params.model_validate(method).datasets(), pool)
    student = example_student(student_family or (needs.student_families or ("transformer",))[0], image_size)
    if "weights" in needs.student:
        student["weights"] = trained
    teachers = [example_teacher(family, image_size) for family in teacher_families or example_teacher_families(needs)]
    if "last map of several positions" in needs.teacher:
        for teacher in teachers:
            teacher["arguments"] = {"output_stride": 8}
    return {
        "dataset": dataset,
        "student": student,
        **({"teachers": teachers} if teachers else {}),
        "method": method,
        "training": {"epochs": 20, "batch_size": 64, "image_size": image_size},
    }


def example_teacher_families(needs: Requirements) -> tuple[Family, ...]:
    """Families of the fewest teachers that a method takes, at least one if it takes any; several are alternated."""
    count = 0 if needs.max_teachers == 0 or not needs.teacher else max(needs.min_teachers, 1)
    first: Family = (needs.teacher_families or ("transformer",))[0]
    others: tuple[Family, ...] = ("cnn", "transformer") if first == "transformer" else ("transformer", "cnn")
    return tuple((first, *others, *others * count)[:count])


def example_student(family: Family, image_size: int = 32) -> dict[str, Any]:
    """Return a small student of a family for images of ``image_size`` pixels a side."""
    if family == "cnn":
        return {"architecture": "resnet10t"}
    return {"architecture": _VIT, "arguments": _arguments(image_size, embed_dim=48, depth=4, num_heads=3)}


def example_teacher(family: Family, image_size: int = 32) -> dict[str, Any]:
    """Return a teacher of a family that the job trains."""
    training = {"epochs": 10, "batch_size": 64}
    if family == "cnn":
        return {"architecture": "resnet14t", "weights": "train", "training": training}
    arguments = _arguments(image_size, embed_dim=96, depth=6, num_heads=6)
    return {"architecture": _VIT, "weights": "train", "arguments": arguments, "training": training}


def _arguments(image_size: int, **sizes: int) -> dict[str, Any]:
    return {"patch_size": max(1, image_size // _PATCHES), **sizes}
