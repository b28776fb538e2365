"""Copies from host to device that do not wait for the device."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to ``device``; return the tensor itself if that is the CPU.

    CUDA copies pageable memory only when the stream is idle, so the copy goes through pinned memory. torch retains the
    pinned memory until the copy is done.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
