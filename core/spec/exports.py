"""The registry of export formats: one line per format ties its artifact to its implementation.

Implementations are named, not imported, so that this package stays free of torch. Spec validation, export, publishing,
model card and report read the registry. ``tests/core/export/test_formats.py`` checks that they agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import BeforeValidator, Discriminator, Tag, WithJsonSchema
from pydantic_core import PydanticCustomError, PydanticKnownError

from core.spec.document import NOT_AVAILABLE
from core.spec.export_options import (
    ExportOptions,
    OnnxOptions,
    OpenvinoOptions,
    PrecisionOptions,
    SafetensorsOptions,
    TorchExportOptions,
)

_BINARY = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """One format of the exported student.

    Args:
        file_name: Name of the artifact.
        media_type: Media type of the artifact.
        implementation: The function that writes the file, as ``module:function``; see :mod:`core.export.formats`.
        summary: One sentence for the model card. ``{channels}`` and ``{size}`` are those of the student's input.
        packages: Python packages that write or read the file; the report has their versions.
        options: The entry of a spec with this format.
        companions: Names of further files that the format consists of.
        extra: The extra of Potstill that installs ``packages``, where they are not always installed.
    """

    file_name: str
    media_type: str
    implementation: str
    summary: str
    packages: tuple[str, ...] = ()
    options: type[ExportOptions] = ExportOptions
    companions: tuple[str, ...] = ()
    extra: str | None = None


REQUIRED_FORMAT = "safetensors"  # the weights themselves; every job exports them

EXPORT_FORMATS: dict[str, ExportFormat] = {
    "safetensors": ExportFormat(
        "model.safetensors",
        _BINARY,
        "core.export.safetensors_file:export",
        "the weights; `config.json` has the architecture for timm",
        packages=("safetensors",),
        options=SafetensorsOptions,
    ),
    "onnx": ExportFormat(
        "model.onnx",
        _BINARY,
        "core.export.onnx_file:export",
        "ONNX; preprocessing and class names are in its metadata",
        packages=("onnx", "onnxruntime"),
        options=OnnxOptions,
    ),
    "torch_export": ExportFormat(
        "model.pt2",
        _BINARY,
        "core.export.torch_export_file:export",
        "a program of `torch.export`, for PyTorch without timm",
        packages=("torch",),
        options=TorchExportOptions,
    ),
    "openvino": ExportFormat(
        "model.xml",
        "application/xml",
        "core.export.openvino_file:export",
        "OpenVINO; `model.bin` has its weights",
        packages=("openvino",),
        options=OpenvinoOptions,
        companions=("model.bin",),
        extra="openvino",
    ),
}

UNAVAILABLE_FORMATS = {
    "executorch": "this version does not write it; pip install executorch and lower model.pt2 (format torch_export)",
    "litert": "this version does not write it; pip install litert-torch and convert the student that timm loads",
    "coreml": "Core ML runs on Apple's systems only, so the service cannot verify the file; on a Mac, "
    "pip install coremltools and convert the student that timm loads",
    "tensorrt": "a TensorRT engine runs only on the kind of GPU that built it, so it is built there: "
    "pip install tensorrt, then trtexec --onnx=model.onnx",
}
"""Formats that this version does not write: why not, and what to do instead."""

_DOCUMENTS = {  # the artifacts that every job has besides its formats
    "config.json": "application/json",
    "README.md": "text/markdown; charset=utf-8",
    "report.json": "application/json",
    "predictions.npz": "application/octet-stream",  # of classifiers
}


def media_type(artifact: str) -> str:
    """Return the media type of a job's artifact; one in a folder has that of its file name."""
    formats = {entry.file_name: entry.media_type for entry in EXPORT_FORMATS.values()}
    return (_DOCUMENTS | formats).get(artifact.rpartition("/")[2], _BINARY)


def export_options(entry: str | ExportOptions) -> ExportOptions:
    """Return an entry of a spec's ``export`` with all its options."""
    if isinstance(entry, ExportOptions):
        return entry
    return EXPORT_FORMATS[entry].options.model_validate({"format": entry})


def export_entry(options: ExportOptions) -> str | ExportOptions:
    """Return the entry of a resolved spec: the name alone where all options have their defaults."""
    return options.format if options.is_default else options


def file_names(options: ExportOptions) -> tuple[str, ...]:
    """Return the artifacts of an entry; the first one is the file that the runtime opens."""
    entry = EXPORT_FORMATS[options.format]
    names = (entry.file_name, *entry.companions)
    if not isinstance(options, PrecisionOptions) or options.precision == "fp32":
        return names
    return tuple(f"{stem}.{options.precision}.{suffix}" for stem, _, suffix in (name.rpartition(".") for name in names))


def entry_format(entry: Any) -> Any:
    """Return the name of the format of an entry as JSON."""
    return entry.get("format") if isinstance(entry, Mapping) else entry


def _require_registered(value: Any) -> Any:
    if isinstance(value, str) and value in EXPORT_FORMATS:
        return value
    name = entry_format(value)
    if isinstance(name, str) and name in UNAVAILABLE_FORMATS:
        context = {"name": name, "reason": UNAVAILABLE_FORMATS[name]}
        raise PydanticCustomError(NOT_AVAILABLE, "{name} is not available: {reason}", context)
    *names, last = (f"'{name}'" for name in EXPORT_FORMATS)
    expected = f"{', '.join(names)} or {last}"
    if isinstance(value, Mapping):
        known = next((key for key in value if key in EXPORT_FORMATS), "onnx")  # {"onnx": {…}} is a common guess
        expected = f"""an object such as {{"format": "{known}", "preprocessing": true}} with the format {expected}"""
    raise PydanticKnownError("literal_error", {"expected": expected})


def _tag(value: Any) -> str:
    """Return the format of an object, or ``name``, whose validator refuses everything that is not a name."""
    name = value.format if isinstance(value, ExportOptions) else entry_format(value)
    is_object = isinstance(value, ExportOptions | Mapping)
    return name if is_object and isinstance(name, str) and name in EXPORT_FORMATS else NAME_TAG


NAME_TAG = "name"

# A Literal of the registered names, which is evaluated when a spec is validated.
_Name = Annotated[
    str, BeforeValidator(_require_registered), WithJsonSchema({"enum": list(EXPORT_FORMATS), "type": "string"})
]

if TYPE_CHECKING:
    ExportEntry = str | ExportOptions
else:
    ExportEntry = Annotated[
        Union[
            Annotated[_Name, Tag(NAME_TAG)],
            *(Annotated[entry.options, Tag(name)] for name, entry in EXPORT_FORMATS.items()),
        ],
        Discriminator(_tag),
    ]
