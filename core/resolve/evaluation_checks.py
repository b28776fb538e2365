"""Checks of the fields that serve the report: ``baseline`` and ``training.hold_out``."""

from __future__ import annotations

import math

from core.errors import FieldError
from core.job_warnings import JobWarning
from core.methods import Method
from core.spec import JobSpec
from core.spec.info import DatasetInfo

_MIN_TEST_IMAGES = 1_000  # fewer make the 95 % interval of the gain wider than ±3.1 points
_ERROR_CORRELATION = 0.5  # assumed between student and baseline, both right on half of the images


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


def evaluation_warnings(spec: JobSpec, dataset: DatasetInfo) -> list[JobWarning]:
    """Warn about a test split that is too small for the gain over the baseline."""
    num_images = dataset.num_test
    if not spec.baseline or not 0 < num_images < _MIN_TEST_IMAGES:
        return []
    message = (
        f"the test split has {num_images:,} images: expect a 95 % interval of about "
        f"±{100 * expected_half_width(num_images):.1f} points for the gain over the baseline if accuracies are near "
        "50 %; a smaller gain cannot be told from chance"
    )
    fix = f"use {_MIN_TEST_IMAGES:,} test images or more, or compare the mean gains of several seeds"
    return [JobWarning(code="few_test_images", field="/baseline", message=message, fix=fix)]


def expected_half_width(num_images: int) -> float:
    """Return half of the 95 % interval to expect of the gain (fraction), for accuracies near 50 %."""
    variance = 2 * 0.25 * (1 - _ERROR_CORRELATION)  # of the difference between two correlated Bernoulli variables
    return 1.96 * math.sqrt(variance / num_images)
