from dataclasses import dataclass

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class LabeledArrays:
    images: np.ndarray
    labels: torch.Tensor


@pytest.fixture
def dataset():
    """60 random grayscale images of 8 pixels, with labels 0, 1, 2 in turn."""
    images = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    images.setflags(write=False)  # like a memory map
    return LabeledArrays(images, torch.arange(60) % 3)
