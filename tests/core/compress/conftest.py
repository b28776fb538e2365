"""Tiny trained-looking networks: random weights of a size at which every part matters."""

import pytest
import timm
import torch

from core.models.built import BuiltModel
from core.models.meta_device import build_on_meta
from core.models.preprocessing import plain_preprocessing

VIT = {
    "img_size": 16, "patch_size": 4, "in_chans": 1, "num_classes": 4, "embed_dim": 48, "depth": 4, "num_heads": 6,
}  # fmt: skip


def without_weights(built):
    """The same model on the meta device, as it is checked before a job runs."""
    module = build_on_meta(built.architecture, built.arguments)
    return BuiltModel(module, built.architecture, built.arguments, built.preprocessing)


@pytest.fixture
def make_vit():
    """Build a ViT of four blocks for 16 × 16 images, in evaluation mode; the same weights every time."""

    def make(architecture="vit_tiny_patch16_224", **changes):
        arguments = {**VIT, **changes}
        torch.manual_seed(0)
        module = timm.create_model(architecture, **arguments).eval()
        for name, parameter in module.named_parameters():
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name and "weight" in name else 0.0, std=0.2)
        return BuiltModel(module, architecture, arguments, plain_preprocessing(image_size=16, channels=1))

    return make


@pytest.fixture
def images():
    return torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def batches(images):
    """Two batches of images with labels."""
    labels = torch.arange(12) % 4
    return [(images[:8], labels[:8]), (images[8:], labels[8:])]
