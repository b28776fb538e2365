"""Copies to the device."""

import torch

from core.data.transfer import to_device


def test_on_a_cpu_nothing_is_copied():
    tensor = torch.arange(3)

    assert to_device(tensor, torch.device("cpu")) is tensor
