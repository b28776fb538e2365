"""``report.json``: the spec, its results, and everything that is needed to repeat the run."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from core.export.formats import installed_version
from core.export.licenses import weight_licenses
from core.job_warnings import JobWarning
from core.spec import JobSpec, TeacherSpec
from core.spec.exports import EXPORT_FORMATS

PACKAGES = ("potstill-server", "torch", "torchvision", "timm", "numpy", "pillow")  # and those of the export formats


def build_report(
    *,
    spec: JobSpec,
    dataset: Mapping[str, Any],
    result: Mapping[str, Any],
    details: Mapping[str, Any],
    stages: Mapping[str, float],
    warnings: Sequence[JobWarning],
    sections: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Build the report as JSON.

    ``stages`` has seconds by stage, ``details`` measurements beyond the result. ``sections`` are added as they are.
    """
    seeds: dict[str, Any] = {"student": spec.training.seed}
    for pointer, model in spec.models().items():
        name = pointer.replace("/distillation", "").replace("/teachers/", "-teacher-").lstrip("/-")
        if model.distillation is not None:
            seeds[f"{name}-distill"] = model.distillation.training.seed
        if isinstance(model, TeacherSpec) and model.training is not None:
            seeds[name] = model.training.seed
    return {
        "format": 1,
        "kind": "backbone" if spec.method.info.needs.headless else "classifier",
        "spec": spec.model_dump(mode="json"),
        "dataset": dict(dataset),
        "result": dict(result),
        "warnings": [warning.model_dump(mode="json") for warning in warnings],
        "details": dict(details),
        **sections,
        "stages": dict(stages),
        "seeds": seeds,
        "licenses": weight_licenses(spec),
        "versions": versions(),
        "machine": machine(),
    }


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Versions of the interpreter and of installed packages: by default of all that the student's files depend on."""
    chosen = tuple(packages) or (*PACKAGES, *(p for entry in EXPORT_FORMATS.values() for p in entry.packages))
    found = {name: installed_version(name) for name in chosen}
    return {"python": platform.python_version(), **{name: v for name, v in found.items() if v is not None}}


def format_versions(name: str) -> dict[str, str]:
    """Versions of the packages that write or read the files of an export format."""
    return versions(("potstill-server", "torch", "timm", *EXPORT_FORMATS[name].packages))


def machine() -> dict[str, Any]:
    """Properties of the machine and of torch's configuration."""
    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
