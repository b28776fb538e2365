"""Models that a job trains besides its student, by their place in the spec, and what the spec says of their weights.

A later job with an equal entry finds the model again, unless its worker has other threads, another device or other
versions of the libraries. The engine's fingerprints decide; these recipes predict them before a job runs.
"""

from __future__ import annotations

import json
from typing import Any

from core.spec.job import JobSpec, TeacherSpec

BASELINE = "/baseline"
_FREE_TRAINING_FIELDS = {"checkpoint_every_epochs", "keep_weights_every_epochs", "hold_out", "balance"}


def trained_models(spec: JobSpec) -> dict[str, str]:
    """Return the recipe, as text, of each training of a resolved spec besides the student's, by pointer.

    The pointers are ``/teachers/0/training``, ``/teachers/0/distillation``, ``/student/distillation`` and
    ``/baseline``. A student of method ``scratch`` is the baseline of later jobs.
    """
    shared = [spec.dataset, spec.resources.accelerator, spec.resources.threads]
    found = {}
    models = {"/student": spec.student} | {f"/teachers/{index}": each for index, each in enumerate(spec.teachers)}
    for pointer, model in models.items():
        fields = model.model_dump(mode="json")
        if isinstance(model, TeacherSpec) and model.training is not None:
            size = model.training.image_size or spec.training.image_size
            found[f"{pointer}/training"] = _text(*shared, size, fields)
        if model.distillation is not None:
            found[f"{pointer}/distillation"] = _text(*shared, spec.unlabeled_dataset, fields)
    if spec.baseline or spec.method.name == "scratch":
        training = spec.training.model_dump(mode="json", exclude=_FREE_TRAINING_FIELDS)
        student = spec.student.model_dump(mode="json")
        held_out = spec.held_out_fraction
        found[BASELINE] = _text(*shared, spec.resources.devices, spec.unlabeled_dataset, held_out, student, training)
    return found


def _text(*fields: Any) -> str:
    return json.dumps(fields, sort_keys=True)
