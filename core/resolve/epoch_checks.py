"""Checks of a job with 0 epochs, which compresses, evaluates and exports a student as it is."""

from __future__ import annotations

from core.errors import FieldError
from core.spec import JobSpec


def epoch_errors(spec: JobSpec) -> list[FieldError]:
    """Return the error of a job without a training whose result needs one."""
    if spec.training.epochs != 0:
        return []
    if spec.student.weights in ("random", "pretrained"):
        detail = "0 epochs need a student that was trained before: set student.weights to a model or a job, or train it"
    elif spec.baseline:
        detail = "0 epochs leave nothing to compare with a baseline; leave baseline out, or raise epochs"
    elif "weights" in spec.method.info.needs.student:
        detail = f"{spec.method.name} changes the student while it trains; raise epochs, or set method to scratch"
    else:
        return []
    return [FieldError("/training/epochs", detail)]
