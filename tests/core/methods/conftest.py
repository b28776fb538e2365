"""What the methods' tests share: a batch, and tiny networks."""

import pytest
import timm
import torch
from torch import nn

from core.methods import Batch, Setting


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return Batch(
        images=torch.rand(6, 1, 8, 8, generator=generator),
        labels=torch.arange(6) % 4,
        indices=torch.arange(6),
    )


@pytest.fixture
def logits():
    """Makes logits (6, 4) from a seed."""

    def make(seed):
        return 3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture
def distilled_vit():
    torch.manual_seed(0)
    return timm.create_model(
        "deit_tiny_distilled_patch16_224",
        img_size=8,
        patch_size=4,
        embed_dim=16,
        depth=1,
        num_heads=2,
        num_classes=4,
        in_chans=1,
    )


@pytest.fixture
def setting():
    return Setting(student=nn.Linear(1, 4), teachers=(nn.Linear(1, 4),), num_classes=4)
