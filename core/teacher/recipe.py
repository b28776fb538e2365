"""The digest of how a teacher is made: same digest, same teacher."""

from __future__ import annotations

import hashlib
import json

import timm
import torch

from core.spec import TeacherSpec
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
        "training": teacher.training.model_copy(update={"image_size": image_size}).model_dump(mode="json"),
        "dataset": fingerprint,
        "threads": threads,
        "device": arithmetic.device.type,
        "precision": arithmetic.precision,
        "torch": str(torch.__version__),
        "timm": timm.__version__,
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
