"""Checks of the fields that serve the report: ``baseline`` and ``training.hold_out``."""

from __future__ import annotations

from core.errors import FieldError
from core.methods import Method
from core.spec import JobSpec
from core.spec.info import DatasetInfo


def evaluation_errors(spec: JobSpec, dataset: DatasetInfo, method: Method) -> list[FieldError]:
    """Return the errors of a baseline that cannot be trained, and of held-out images that cannot be used."""
    errors = []
    name = spec.method.name
    if spec.baseline:
        if name == "scratch":
            detail = "method scratch is the baseline itself; leave baseline out"
            errors.append(FieldError("/baseline", detail))
        elif spec.method.info.needs.headless:
            detail = f"{name} trains a student without a classifier, and a baseline is a classifier; leave baseline out"
            errors.append(FieldError("/baseline", detail))
        elif dataset.num_classes is None:
            detail = "the dataset has no labels to train a baseline with; leave baseline out"
            errors.append(FieldError("/baseline", detail))
    if spec.training.hold_out > 0:
        if spec.method.info.needs.headless or dataset.num_classes is None:
            detail = "there is no classifier with labels to calibrate; leave hold_out out"
            errors.append(FieldError("/training/hold_out", detail))
        elif method.num_images is not None:
            detail = f"{name} prepares its own training images, so none are held out; leave hold_out out"
            errors.append(FieldError("/training/hold_out", detail))
    return errors
