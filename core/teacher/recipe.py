"""The digest of how a teacher is made: same digest, same teacher."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import timm
import torch

from core.data.mixing import Mixing
from core.spec import TeacherSpec, TeacherTrainingSpec
from core.train.precision import Arithmetic

_FORMAT = 1  # raised when training changes so that the same recipe gives another teacher


def recipe_digest(
    teacher: TeacherSpec, *, image_size: int, fingerprint: str, threads: int, arithmetic: Arithmetic
) -> str:
    """A sha256 over everything that the weights of a teacher trained in a job depend on.

    That is architecture, arguments, training block, the dataset's content, and, as the bits depend on
    them, threads, kind of device, precision and library versions.
    """
    assert teacher.training is not None, "the resolved spec says how a teacher is trained"
    recipe = {
        "format": _FORMAT,
        "architecture": teacher.architecture,
        "arguments": teacher.arguments,
        "training": _training(teacher.training, image_size),
        "dataset": fingerprint,
        "threads": threads,
        "device": arithmetic.device.type,
        "precision": arithmetic.precision,
        "torch": str(torch.__version__),
        "timm": timm.__version__,
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _training(training: TeacherTrainingSpec, image_size: int) -> dict[str, Any]:
    """The training block as it counts: without the words on mixing where nothing is mixed."""
    block = training.model_copy(update={"image_size": image_size}).model_dump(mode="json")
    if Mixing.of(training) is None:
        for name in ("mixup", "cutmix", "mix_probability"):
            del block[name]
    return block
