"""From the host to the device, without waiting for what the device is doing."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on ``device``; the same one where that is the CPU.

    CUDA copies from ordinary memory only when the stream is idle, so it goes by pinned memory, which torch keeps
    for as long as the copy needs it.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
