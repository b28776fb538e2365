"""Save and load models as folders with ``model.safetensors`` and ``config.json``, which timm can load.

``timm.create_model("local-dir:FOLDER", pretrained=True)`` rebuilds the model with all its arguments. The top-level key
``potstill`` in ``config.json`` is an addition that timm ignores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models import get_pretrained_cfg
from timm.models._input import _get_global_pool
from torch import Tensor, nn

from core.errors import InvalidSpec, WeightsMismatch
from core.ingest_errors import ModelNotFinite
from core.models import catalog
from core.models.argument_values import check_values
from core.models.arguments import check_arguments, square_size
from core.models.built import BuiltModel
from core.models.meta_device import build_on_meta, count_parameters
from core.models.preprocessing import Preprocessing, normalized, plain_preprocessing
from core.models.safetensors_header import read_header, read_model_info
from core.spec.info import ModelInfo, Normalization
from core.system.disk import atomic_path, write_atomic, writing
from core.system.fault_injection import fault_point

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FORMAT = 1
BUILD_ERRORS = (AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError,
            ValueError, ZeroDivisionError)  # fmt: skip
"""Exceptions of timm and torch for invalid arguments."""

_CFG_KEYS = ("first_conv", "classifier", "pool_size", "fixed_input_size")
_TRAINING_ONLY = frozenset({"drop_path_rate"})


def save_folder(
    module: nn.Module,
    folder: Path,
    *,
    architecture: str,
    arguments: Mapping[str, Any],
    preprocessing: Preprocessing,
    classes: Sequence[str] | None = None,
    any_size: bool = False,
) -> None:
    """Write ``model.safetensors`` and ``config.json`` into ``folder``, each atomically.

    ``arguments`` are all arguments of ``timm.create_model``. ``any_size`` marks weights without a known input size,
    which a job may run at its own size. The bytes depend only on the arguments of this function.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = model_config(
        module,
        architecture=architecture,
        arguments=arguments,
        preprocessing=preprocessing,
        classes=classes,
        any_size=any_size,
    )
    write_weights(module, folder / WEIGHTS)
    write_atomic(folder / CONFIG, (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode())


def model_config(
    module: nn.Module,
    *,
    architecture: str,
    arguments: Mapping[str, Any],
    preprocessing: Preprocessing,
    classes: Sequence[str] | None,
    any_size: bool = False,
) -> dict[str, Any]:
    """Return the content of ``config.json``, as timm reads it."""
    own = getattr(module, "pretrained_cfg", {})
    cfg = {key: own[key] for key in _CFG_KEYS if key in own} | preprocessing.to_config()
    num_classes = int(arguments["num_classes"])
    cfg |= {"num_classes": num_classes, "custom_load": False}
    if classes is not None:
        cfg["label_names"] = list(classes)
    config: dict[str, Any] = {
        "architecture": architecture.partition(".")[0],
        "num_classes": num_classes,
        "num_features": module.num_features,
    }
    pool = _get_global_pool(module)
    if pool:
        config["global_pool"] = pool
    config["model_args"] = {k: v for k, v in arguments.items() if k not in _TRAINING_ONLY}
    config["pretrained_cfg"] = cfg
    config["potstill"] = {"format": FORMAT, "parameters": count_parameters(module), "any_size": any_size}
    return config


def load_folder(folder: Path, *, image_size: int | None = None) -> BuiltModel:
    """Rebuild a stored model exactly, in evaluation mode, without changing torch's random state.

    ``image_size`` applies to weights without a known size; others keep their own.

    Raises:
        WeightsMismatch: The folder is damaged, or its weights do not fit its own config.
    """
    info = read_model_info(folder)
    try:
        with torch.random.fork_rng(devices=[]):
            module = timm.create_model(info.architecture, pretrained=False, **info.arguments)
    except BUILD_ERRORS as error:
        raise WeightsMismatch(f"{info.architecture} cannot be built: {error}") from error
    load_strictly(module, load_file(folder / WEIGHTS), name=info.architecture)
    cfg = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["pretrained_cfg"]
    preprocessing = normalized(
        cfg["mean"],
        cfg["std"],
        image_size=info.image_size or image_size or cfg["input_size"][-1],
        channels=info.channels,
        interpolation=cfg["interpolation"],
    )
    return BuiltModel(module.eval(), info.architecture, info.arguments, preprocessing, info.classes)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], *, name: str) -> None:
    """Load weights that have to fit exactly.

    Raises:
        WeightsMismatch: Lists the first tensors that are missing, unexpected or of another shape.
    """
    problems = differences({n: tuple(t.shape) for n, t in state.items()}, module)
    if problems:
        raise WeightsMismatch(f"The weights do not fit {name}: {problems}.")
    module.load_state_dict(dict(state), strict=True)


def differences(shapes: Mapping[str, tuple[int, ...]], module: nn.Module) -> str:
    """Describe how tensors differ from those of a module; empty if they fit."""
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    wrong = [f"{n} is {list(shapes[n])}, should be {list(own[n])}" for n in own if n in shapes and shapes[n] != own[n]]
    parts = [
        _first("missing", [n for n in own if n not in shapes]),
        _first("not in the model", [n for n in shapes if n not in own]),
        _first("of another shape", wrong),
    ]
    return "; ".join(part for part in parts if part)


def check_upload(
    file: Path,
    architecture: str,
    arguments: Mapping[str, Any],
    *,
    normalization: Normalization | None,
    classes: Sequence[str] | None,
    out_folder: Path,
) -> ModelInfo:
    """Load an uploaded file strictly, run it once and store it as a folder.

    Raises:
        UnsupportedMedia: The file is not safetensors.
        InvalidSpec: The architecture or its arguments are invalid; pointers are those of ``POST /v1/models``.
        WeightsMismatch: The weights do not fit, are not finite, or give no finite outputs.
    """
    header = read_header(file)
    name = catalog.require(architecture)
    check_arguments(arguments, pointer="/arguments")
    full = check_values(name, _upload_arguments(name, arguments), pointer="/arguments")
    try:
        meta = build_on_meta(name, full)
    except BUILD_ERRORS as error:
        detail = f"timm refuses these arguments for {name}: {error or type(error).__name__}"
        raise InvalidSpec(detail) from error
    problems = differences({n: entry.shape for n, entry in header.tensors.items()}, meta)
    if problems:
        raise WeightsMismatch(f"The weights do not fit {name} with these arguments: {problems}.")
    num_classes = int(full.get("num_classes", meta.num_classes))
    if classes is not None and len(classes) != num_classes:
        raise WeightsMismatch(f"{len(classes)} class names are given and the model has {num_classes} classes.")
    full |= {"num_classes": num_classes, "in_chans": int(full.get("in_chans", 3))}
    module = timm.create_model(name, pretrained=False, **full).eval()
    load_strictly(module, _as_float32(load_file(file)), name=name)
    size, any_size = _upload_size(name, full)
    preprocessing = _upload_preprocessing(name, full, normalization, size)
    _run_once(module, preprocessing)
    save_folder(
        module,
        out_folder,
        architecture=name,
        arguments=full,
        preprocessing=preprocessing,
        classes=classes,
        any_size=any_size,
    )
    return read_model_info(out_folder)


def write_weights(module: nn.Module, path: Path) -> None:
    """Write a module's weights and buffers as safetensors, atomically. Raises ``StorageFailed``."""
    # Cloned: safetensors refuses tensors that share memory.
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
    with writing(path.name, SafetensorError):
        with atomic_path(path, unique=False) as temporary:
            save_file(state, temporary, metadata={"format": "pt"})
            fault_point("weights.written")
        fault_point("weights.renamed")


def _first(label: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{label}: {', '.join(names[:3])}{more}"


def _upload_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    full = {key: value for key, value in arguments.items() if value is not None}
    size = square_size(full.get("img_size"), pointer="/arguments/img_size")
    if size is not None:
        full["img_size"] = size
    elif catalog.takes_image_size(name):
        full["img_size"] = catalog.native_image_size(name)
    return full


def _upload_size(name: str, full: Mapping[str, Any]) -> tuple[int, bool]:
    """Return the image size, and whether the model accepts any other size, as CNNs do."""
    if "img_size" in full:
        return int(full["img_size"]), False
    return catalog.native_image_size(name), True


def _upload_preprocessing(
    name: str, full: Mapping[str, Any], normalization: Normalization | None, size: int
) -> Preprocessing:
    channels = int(full["in_chans"])
    try:
        if normalization is not None:
            return normalized(normalization.mean, normalization.std, image_size=size, channels=channels)
        cfg = get_pretrained_cfg(name)
        if cfg is not None:
            return normalized(cfg.mean, cfg.std, image_size=size, channels=channels)
    except ValueError as error:
        raise WeightsMismatch(f"normalization does not fit {channels} channels: {error}") from error
    return plain_preprocessing(image_size=size, channels=channels)


def _as_float32(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise ModelNotFinite(f"The weights hold NaN or infinity. {_first('In', broken)}.")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _run_once(module: nn.Module, preprocessing: Preprocessing) -> None:
    size = preprocessing.image_size
    image = torch.full((1, preprocessing.channels, size, size), 0.5)
    try:
        with torch.inference_mode():
            logits = module(preprocessing(image))
    except BUILD_ERRORS as error:
        raise WeightsMismatch(f"The model cannot run on {size} by {size} pixels: {error}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise WeightsMismatch("The output is not one row of logits per image.")
    if not logits.isfinite().all():
        raise ModelNotFinite("The output for a gray image is NaN or infinite.")
