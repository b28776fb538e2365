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
from timm.models._input import _get_global_pool
from torch import Tensor, nn

from core.errors import WeightsMismatch
from core.models.built import BuiltModel
from core.models.meta_device import count_parameters
from core.models.preprocessing import Preprocessing, normalized
from core.models.safetensors_header import read_model_info
from core.models.upload_names import summary
from core.system.disk import atomic_path, write_atomic, writing
from core.system.fault_injection import fault_point

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FORMAT = 1
BUILD_ERRORS = (AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError,
            ValueError, ZeroDivisionError)  # fmt: skip
"""Exceptions of timm and torch for invalid arguments."""

_CFG_KEYS = ("first_conv", "classifier", "pool_size", "fixed_input_size")
_NUM_SHOWN = 3  # tensors in an error
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
    write_atomic(folder / CONFIG, _config_bytes(config))


def save_model(built: BuiltModel, folder: Path) -> None:
    """:func:`save_folder` of a model with its own arguments, preprocessing and classes."""
    save_folder(
        built.module,
        folder,
        architecture=built.architecture,
        arguments=built.arguments,
        preprocessing=built.preprocessing,
        classes=built.classes,
    )


def built_config(built: BuiltModel) -> bytes:
    """Return the content of ``config.json`` for weights of this model."""
    return _config_bytes(
        model_config(
            built.module,
            architecture=built.architecture,
            arguments=built.arguments,
            preprocessing=built.preprocessing,
            classes=built.classes,
        )
    )


def _config_bytes(config: Mapping[str, Any]) -> bytes:
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


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
        ("missing", summary([n for n in own if n not in shapes])),
        ("not in the model", summary([n for n in shapes if n not in own])),
        ("of another shape", ", ".join(wrong[:_NUM_SHOWN]) + _more(wrong)),
    ]
    return "; ".join(f"{label}: {text}" for label, text in parts if text)


def _more(texts: Sequence[str]) -> str:
    return f" and {len(texts) - _NUM_SHOWN} more" if len(texts) > _NUM_SHOWN else ""


def write_weights(module: nn.Module, path: Path) -> None:
    """Write a module's weights and buffers as safetensors, atomically. Raises ``StorageFailed``."""
    # Cloned: safetensors refuses tensors that share memory.
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
    with writing(path.name, SafetensorError):
        with atomic_path(path, unique=False) as temporary:
            save_file(state, temporary, metadata={"format": "pt"})
            fault_point("weights.written")
        fault_point("weights.renamed")
