"""Open a downloaded student in timm or ONNX Runtime."""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

from potstill.errors import InvalidArgument, PackageMissing

Format = Literal["timm", "onnx"]

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
ONNX = "model.onnx"


def cache_folder(job_id: str) -> Path:
    """Folder for the files of a job that is loaded without a folder of its own: in ``XDG_CACHE_HOME``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "potstill" / job_id


def required_files(format_: Format, name: str | None) -> list[str]:
    """Names of the artifacts that :func:`load` needs. Raises :class:`InvalidArgument`."""
    if format_ not in get_args(Format):
        raise InvalidArgument(f"there is no format {format_!r}; load opens {' and '.join(get_args(Format))}")
    if format_ == "timm" and name is not None:
        raise InvalidArgument(f"name={name!r} selects an ONNX file; set format='onnx'")
    return [WEIGHTS, CONFIG] if format_ == "timm" else [name or ONNX]


def load(folder: Path, format_: Format, name: str | None) -> Any:
    """Return the timm model in evaluation mode, or the session of ONNX Runtime. Raises :class:`PackageMissing`."""
    if format_ == "onnx":
        runtime = _import("onnxruntime", "onnx")
        return runtime.InferenceSession(str(folder / (name or ONNX)), providers=runtime.get_available_providers())
    timm = _import("timm", "timm")
    architecture = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["architecture"]
    if architecture.startswith("potstill_"):  # timm does not have it
        _import("potstill_models", None)
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def _import(package: str, extra: str | None) -> Any:
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        advice = (
            f"run: pip install 'potstill[{extra}]'"
            if extra is not None
            else "it has the student's architecture; install it, or load the ONNX file: load(format='onnx')"
        )
        raise PackageMissing(f"{package} is not installed; {advice}") from error
