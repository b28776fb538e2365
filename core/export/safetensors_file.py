"""The student's weights as a safetensors file. They are written before evaluation, which measures this very file."""

from __future__ import annotations

from typing import Any

from core.export.formats import ExportContext
from core.models.built import BuiltModel


def export(student: BuiltModel, context: ExportContext) -> dict[str, Any]:  # noqa: ARG001 - the signature of a format
    """Check that the weights file exists. Adds no details to the report."""
    assert context.path.is_file(), f"{context.path} is missing: save_folder writes it before the export"
    return {}
