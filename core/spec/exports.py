"""The registry of export formats: one line per format ties its artifact to its implementation.

Implementations are named, not imported, so that this package stays free of torch. Spec validation, export, publishing,
model card and report read the registry. ``tests/core/export/test_formats.py`` checks that they agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticKnownError


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """One format of the exported student.

    Args:
        file_name: Name of the artifact.
        media_type: Media type of the artifact.
        implementation: The function that writes the file, as ``module:function``; see :mod:`core.export.formats`.
        summary: One sentence for the model card. ``{channels}`` and ``{size}`` are those of the student's input.
        packages: Python packages that write or read the file; the report has their versions.
    """

    file_name: str
    media_type: str
    implementation: str
    summary: str
    packages: tuple[str, ...] = ()


REQUIRED_FORMAT = "safetensors"  # the weights themselves; every job exports them

EXPORT_FORMATS: dict[str, ExportFormat] = {
    "safetensors": ExportFormat(
        "model.safetensors",
        "application/octet-stream",
        "core.export.safetensors_file:export",
        "`model.safetensors` holds the weights, and `config.json` the architecture for timm.",
        packages=("safetensors",),
    ),
    "onnx": ExportFormat(
        "model.onnx",
        "application/octet-stream",
        "core.export.onnx_file:export",
        "`model.onnx` takes `images`, float32 of shape `(batch, {channels}, {size}, {size})`, normalized as below, and "
        "returns `logits`; preprocessing and class names are in its metadata.",
        packages=("onnx", "onnxruntime"),
    ),
}

_DOCUMENTS = {  # the artifacts that every job has besides its formats
    "config.json": "application/json",
    "README.md": "text/markdown; charset=utf-8",
    "report.json": "application/json",
    "predictions.npz": "application/octet-stream",  # of classifiers
}


def media_type(artifact: str) -> str:
    """Return the media type of a job's artifact; one in a folder has that of its file name."""
    formats = {entry.file_name: entry.media_type for entry in EXPORT_FORMATS.values()}
    return (_DOCUMENTS | formats).get(artifact.rpartition("/")[2], "application/octet-stream")


def _require_registered(value: Any) -> Any:
    if isinstance(value, str) and value in EXPORT_FORMATS:
        return value
    *names, last = (f"'{name}'" for name in EXPORT_FORMATS)
    raise PydanticKnownError("literal_error", {"expected": f"{', '.join(names)} or {last}"})


# A Literal of the registered names, which is evaluated when a spec is validated.
ExportName = Annotated[
    str, BeforeValidator(_require_registered), WithJsonSchema({"enum": list(EXPORT_FORMATS), "type": "string"})
]
