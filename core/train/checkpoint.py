"""Checkpoints: everything that the next step depends on, in a folder that is whole or absent.

``model.safetensors`` is the student as it would be exported now (the moving average where there is
one), for whoever downloads a checkpoint. ``state.pt`` is the rest. Random draws need no place in it:
they come from (seed, step).
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.errors import StorageFailed
from core.system.disk import writing
from core.system.fault_injection import fault_point
from core.train.ema import Ema

MODEL_FILE = "model.safetensors"
STATE_FILE = "state.pt"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class TrainState:
    """All that a training changes: student, the method's modules, the optimiser and, if asked for, the average."""

    student: nn.Module
    method: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema | None = None

    def exported_weights(self) -> dict[str, Tensor]:
        """The student's weights that count: the moving average where there is one."""
        return self.ema.weights if self.ema is not None else self.student.state_dict()


def write_checkpoint(folder: Path, trained: TrainState, *, step: int) -> None:
    """Write a checkpoint after ``step`` steps: beside ``folder`` first, then renamed. Raises ``StorageFailed``."""
    # A copy of each tensor, as safetensors refuses weights that share storage.
    exported = {name: tensor.detach().clone() for name, tensor in trained.exported_weights().items()}
    state: dict[str, Any] = {
        "format": _FORMAT,
        "step": step,
        "method": trained.method.state_dict(),
        "optimizer": trained.optimizer.state_dict(),
    }
    if trained.ema is not None:
        state["ema_updates"] = trained.ema.num_updates
        state["student"] = trained.student.state_dict()
    # torch says RuntimeError where the disk refuses.
    with writing(f"The checkpoint at step {step}", SafetensorError, RuntimeError):
        _write(folder, exported, state)
    fault_point("checkpoint.renamed")


def _write(folder: Path, exported: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    beside = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    save_file(dict(exported), beside / MODEL_FILE, metadata={"format": "pt"})
    fault_point("checkpoint.weights")
    torch.save(state, beside / STATE_FILE)
    fault_point("checkpoint.written")
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)


def read_checkpoint(folder: Path, trained: TrainState) -> int:
    """Load a checkpoint into ``trained`` and return the number of steps that were done.

    Raises ``StorageFailed`` where the folder is not a checkpoint of this training.
    """
    try:
        state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
        exported = load_file(folder / MODEL_FILE)
        if state["format"] != _FORMAT:
            raise StorageFailed(f"checkpoint {folder.name} has format {state['format']}, this version reads {_FORMAT}")
        _restore(state, exported, trained)
    except (OSError, KeyError, RuntimeError, ValueError, SafetensorError, pickle.UnpicklingError) as error:
        raise StorageFailed(f"checkpoint {folder.name} cannot be read: {error}") from error
    return int(state["step"])


def _restore(state: Mapping[str, Any], exported: Mapping[str, Tensor], trained: TrainState) -> None:
    if trained.ema is not None:
        trained.ema.load(exported, state["ema_updates"])
        trained.student.load_state_dict(state["student"], strict=True)
    else:
        trained.student.load_state_dict(exported, strict=True)
    trained.method.load_state_dict(state["method"], strict=True)
    trained.optimizer.load_state_dict(state["optimizer"])
