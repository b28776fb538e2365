"""Checkpoints: everything that the next step depends on, in a folder that is complete or absent.

``model.safetensors`` holds the weights that would be exported now (the moving average, if any), for users who download
a checkpoint, and ``config.json`` their network, for jobs that start from it. ``state.pt`` holds the rest. No random
state is saved: draws depend on (seed, step) alone.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.errors import StorageFailed
from core.models.built import BuiltModel
from core.models.weights import CONFIG, built_config
from core.system.disk import atomic_path, writing
from core.system.fault_injection import fault_point
from core.train.ema import Ema
from core.train.loss_trend import LossTrend

MODEL_FILE = "model.safetensors"
STATE_FILE = "state.pt"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class TrainState:
    """Mutable state of a training: student, the method's modules, optimizer, optional moving average and loss trend."""

    student: nn.Module
    method: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema | None = None
    loss_trend: LossTrend = field(default_factory=LossTrend)

    def exported_weights(self) -> dict[str, Tensor]:
        """Weights to export: the moving average if there is one, else the student's own."""
        return self.ema.weights if self.ema is not None else self.student.state_dict()


def write_checkpoint(folder: Path, state: TrainState, *, step: int, student: BuiltModel | None = None) -> None:
    """Write a checkpoint after ``step`` steps to ``folder``, atomically. Raises ``StorageFailed``.

    ``student`` describes the network; without it, the checkpoint only serves resuming.
    """
    # safetensors rejects tensors that share storage.
    exported = {name: tensor.detach().clone() for name, tensor in state.exported_weights().items()}
    content: dict[str, Any] = {
        "format": _FORMAT,
        "step": step,
        "method": state.method.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "loss_trend": asdict(state.loss_trend),
    }
    if state.ema is not None:
        content["ema_updates"] = state.ema.num_updates
        content["student"] = state.student.state_dict()
    # torch.save raises RuntimeError on a disk error.
    with writing(f"The checkpoint at step {step}", SafetensorError, RuntimeError):
        _write(folder, exported, content, None if student is None else built_config(student))
    fault_point("checkpoint.renamed")


def _write(folder: Path, exported: Mapping[str, Tensor], content: Mapping[str, Any], config: bytes | None) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder, durable=False, unique=False) as temporary:
        temporary.mkdir()
        save_file(dict(exported), temporary / MODEL_FILE, metadata={"format": "pt"})
        if config is not None:
            (temporary / CONFIG).write_bytes(config)
        fault_point("checkpoint.weights")
        torch.save(content, temporary / STATE_FILE)
        fault_point("checkpoint.written")
        shutil.rmtree(folder, ignore_errors=True)


def read_checkpoint(folder: Path, state: TrainState) -> int:
    """Load a checkpoint into ``state`` and return the number of completed steps.

    Raises ``StorageFailed`` if the folder is not a checkpoint of this training.
    """
    try:
        content = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
        exported = load_file(folder / MODEL_FILE)
        if content["format"] != _FORMAT:
            raise StorageFailed(
                f"checkpoint {folder.name} has format {content['format']}, this version reads {_FORMAT}"
            )
        _restore(content, exported, state)
    except (OSError, KeyError, RuntimeError, ValueError, SafetensorError, pickle.UnpicklingError) as error:
        raise StorageFailed(f"checkpoint {folder.name} cannot be read: {error}") from error
    return int(content["step"])


def _restore(content: Mapping[str, Any], exported: Mapping[str, Tensor], state: TrainState) -> None:
    if state.ema is not None:
        state.ema.load(exported, content["ema_updates"])
        state.student.load_state_dict(content["student"], strict=True)
    else:
        state.student.load_state_dict(exported, strict=True)
    state.method.load_state_dict(content["method"], strict=True)
    state.optimizer.load_state_dict(content["optimizer"])
    if "loss_trend" in content:  # older checkpoints have none
        state.loss_trend.load(content["loss_trend"])
