"""``report.json``: what was asked, what came out, and all that it takes to do it again."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from typing import Any

import torch

from core.spec import JobSpec

PACKAGES = ("potstill", "torch", "torchvision", "timm", "numpy", "pillow", "safetensors", "onnx", "onnxruntime")


def build_report(
    *,
    spec: JobSpec,
    dataset: Mapping[str, Any],
    result: Mapping[str, Any],
    details: Mapping[str, Any],
    stages: Mapping[str, float],
) -> dict[str, Any]:
    """The report as JSON. ``stages`` are seconds by name, ``details`` whatever was measured beyond the result."""
    seeds: dict[str, Any] = {"student": spec.training.seed}
    for index, teacher in enumerate(spec.teachers):
        if teacher.training is not None:
            seeds[f"teacher-{index}"] = teacher.training.seed
    return {
        "format": 1,
        "spec": spec.model_dump(mode="json"),
        "dataset": dict(dataset),
        "result": dict(result),
        "details": dict(details),
        "stages": dict(stages),
        "seeds": seeds,
        "versions": versions(),
        "machine": machine(),
    }


def versions() -> dict[str, str]:
    """What produced the student: the interpreter and every package that its numbers depend on."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
