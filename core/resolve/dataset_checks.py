"""Errors of datasets that a job cannot be run on: the job's own, and the further ones that it reads."""

from __future__ import annotations

from collections.abc import Mapping

from core.errors import FieldError
from core.methods import Method
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


def further_dataset_errors(
    spec: JobSpec, dataset: DatasetInfo, datasets: Mapping[str, DatasetInfo]
) -> list[FieldError]:
    """Check ``unlabeled_dataset`` and the datasets that the method reads; their labels, if any, are ignored."""
    errors = _method_errors(spec)
    for pointer, reference in spec.training_datasets().items():
        pool = datasets.get(reference)
        if pool is None:
            detail = f"there is no dataset {reference} with images to use"
        elif pool.num_train < 2:
            detail = f"the size of its train split is {pool.num_train}; at least two images are needed"
        elif pool.channels != dataset.channels:
            detail = f"its images have {pool.channels} channels and those of the job's dataset {dataset.channels}"
        else:
            continue
        errors.append(FieldError(pointer, detail))
    return errors


def _method_errors(spec: JobSpec) -> list[FieldError]:
    """Return why the method cannot train on images without labels beside the labeled ones."""
    if spec.unlabeled_dataset is None:
        return []
    if spec.unlabeled_dataset == spec.dataset:
        return [FieldError("/unlabeled_dataset", "it is the job's own dataset; name another one, or leave it out")]
    if spec.method.needs_all_labels:
        return [
            FieldError(
                "/unlabeled_dataset",
                f"{spec.method.name} with these parameters needs the label of every image; use another method, such as "
                "kd, dist, wttm or manifold, or leave unlabeled_dataset out",
            )
        ]
    return []


def prepared_images_errors(spec: JobSpec, method: Method) -> list[FieldError]:
    """Refuse ``unlabeled_dataset`` where the method itself prepares the images to train on."""
    if spec.unlabeled_dataset is None or method.num_images is None:
        return []
    detail = f"{spec.method.name} chooses or makes the images that it trains on; leave unlabeled_dataset out"
    return [FieldError("/unlabeled_dataset", detail)]
