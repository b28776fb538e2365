"""Digests of everything that a student depends on: equal digests of two reports mean the same inputs."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import core
import potstill_models
from core.system.digest import file_digest, json_digest


def digests(
    *,
    spec: Mapping[str, Any],
    dataset: str,
    further_datasets: Mapping[str, str],
    teachers: Sequence[str],
    baseline: str | None,
    student: Path,
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """Return SHA-256 digests of a job's spec, data, teachers, student, code and environment.

    ``dataset`` is the fingerprint of the decoded images and labels, ``further_datasets`` those of other datasets by
    pointer into the spec. ``teachers`` are digests of weights and preprocessing, ``student`` is the exported file.
    """
    return {
        "spec": json_digest(spec),
        "dataset": dataset,
        "further_datasets": dict(further_datasets),
        "teachers": list(teachers),
        "student": file_digest(student),
        "baseline": baseline,
        "code": {"version": importlib.metadata.version("potstill-server"), "sha256": code_digest()},
        "environment": json_digest(environment),
    }


@cache
def code_digest() -> str:
    """Return a SHA-256 over the source files of the engine, ``core`` and ``potstill_models``."""
    digest = hashlib.sha256()
    for package in (core, potstill_models):
        folder = Path(str(package.__file__)).parent
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{folder.name}/{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
