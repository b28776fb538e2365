"""What is sent to the device."""

import torch

from core.data.transfer import sent


def test_on_a_cpu_nothing_is_copied():
    tensor = torch.arange(3)

    assert sent(tensor, torch.device("cpu")) is tensor
