"""Errors of datasets that a job cannot be run on: the job's own, and those that its method reads."""

from __future__ import annotations

from collections.abc import Mapping

from core.errors import FieldError
from core.spec import JobSpec
from core.spec.info import DatasetInfo


def dataset_errors(spec: JobSpec, dataset: DatasetInfo) -> list[FieldError]:
    """Return why the job cannot be run on its dataset."""
    errors = []
    if spec.method.reads_labels and dataset.num_classes is None:
        errors.append(f"it has no labels, and {spec.method.name} learns from labels; {_label_fix(spec)}")
    for name, count in (("train", dataset.num_train), ("test", dataset.num_test)):
        if count == 0:
            errors.append(f"its {name} split is empty")
    if dataset.num_train == 1:
        errors.append("its train split has a single image; at least two are needed")
    return [FieldError("/dataset", detail) for detail in errors]


def _label_fix(spec: JobSpec) -> str:
    """Describe how to change a spec whose method reads labels that the dataset does not have."""
    values = {name: f"{v:g}" if isinstance(v, float) else v for name, v in spec.method.label_free_changes().items()}
    changes = " and ".join(f"method.{name} to {value}" for name, value in values.items())
    return (
        f"set {changes}, or use a dataset with classes"
        if changes
        else "use a dataset with classes, or method kd with alpha 1"
    )


def pool_errors(spec: JobSpec, dataset: DatasetInfo, datasets: Mapping[str, DatasetInfo]) -> list[FieldError]:
    """Check the unlabeled datasets that the method reads; their labels, if any, are ignored."""
    errors = []
    for name, reference in spec.method.datasets().items():
        pool = datasets.get(reference)
        if pool is None:
            detail = f"there is no dataset {reference} with images to use"
        elif pool.num_train < 2:
            detail = f"the size of its train split is {pool.num_train}; at least two images are needed"
        elif pool.channels != dataset.channels:
            detail = f"its images have {pool.channels} channels and those of the job's dataset {dataset.channels}"
        else:
            continue
        errors.append(FieldError(f"/method/{name}", detail))
    return errors
