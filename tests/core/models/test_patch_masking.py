"""A ViT on a subset of its patches, and with a mask token in place of some."""

import pytest
import timm
import torch

from core.models.patch_masking import (
    mask_patches,
    replace_patches,
    supports_patch_masking,
    supports_patch_replacement,
)

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 4, "in_chans": 1}


def vit(name="vit_tiny_patch16_224", **arguments):
    torch.manual_seed(0)
    return timm.create_model(name, **TINY, **arguments).eval()


def reference(module, images, visible):
    """Run one image at a time, selecting tokens after the position embedding."""
    outputs = []
    for image, indices in zip(images, visible.tolist(), strict=True):
        tokens = module._pos_embed(module.patch_embed(image[None]))[0]
        num_prefix = module.num_prefix_tokens
        tokens_kept = [*tokens[:num_prefix], *(tokens[num_prefix + index] for index in indices)]
        features = module.norm(module.blocks(module.norm_pre(torch.stack(tokens_kept)[None])))
        outputs.append(module.forward_head(features)[0])
    return torch.stack(outputs)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": False, "fc_norm": True}),
        ("vit_tiny_patch16_224", {"reg_tokens": 2, "no_embed_class": True}),
        ("deit_tiny_distilled_patch16_224", {}),
    ],
)
@torch.no_grad()
def test_each_image_keeps_its_own_patches_at_their_positions(name, arguments):
    module, images = vit(name, **arguments), torch.rand(2, 1, 16, 16)
    visible = torch.tensor([[3, 0, 9], [15, 7, 4]])

    with mask_patches(module, visible):
        outputs = module(images)

    torch.testing.assert_close(outputs, reference(module, images, visible))
    assert not torch.allclose(outputs, module(images), atol=1e-4)


@torch.no_grad()
def test_all_patches_in_any_order_give_the_full_image():
    module, images = vit(), torch.rand(2, 1, 16, 16)

    with mask_patches(module, torch.arange(15, -1, -1).expand(2, -1)):
        outputs = module(images)

    torch.testing.assert_close(outputs, module(images))


@torch.no_grad()
def test_all_patches_are_visible_again_after_an_error():
    module, images = vit(), torch.rand(2, 1, 16, 16)
    expected = module(images)

    with pytest.raises(ZeroDivisionError), mask_patches(module, torch.tensor([[0], [0]])):
        raise ZeroDivisionError

    torch.testing.assert_close(module(images), expected)


def test_only_plain_vits_are_supported():
    assert supports_patch_masking(vit())
    assert not supports_patch_masking(timm.create_model("vit_relpos_small_patch16_224"))
    assert not supports_patch_masking(timm.create_model("resnet10t"))


@pytest.mark.parametrize("arguments", [{}, {"reg_tokens": 2}, {"dynamic_img_size": True}])
@torch.no_grad()
def test_hidden_patches_are_replaced_before_positions_are_added(arguments):
    module, images = vit(**arguments), torch.rand(2, 1, 16, 16)
    hidden, token = torch.zeros(2, 16, dtype=torch.bool), torch.randn(16)
    hidden[0, [3, 9]] = hidden[1, 0] = True
    patches = module.patch_embed(images).reshape(2, 16, 16).clone()
    patches[hidden] = token
    embedded = patches.view_as(module.patch_embed(images))
    expected = module.norm(module.blocks(module.norm_pre(module._pos_embed(embedded))))

    with replace_patches(module, hidden, token):
        features = module.forward_features(images)

    torch.testing.assert_close(features, expected)
    assert not torch.allclose(features, module.forward_features(images), atol=1e-4)


def test_the_mask_token_learns():
    module, token = vit(), torch.zeros(16, requires_grad=True)

    with replace_patches(module, torch.ones(2, 16, dtype=torch.bool), token):
        module(torch.rand(2, 1, 16, 16)).sum().backward()

    assert token.grad.abs().sum() > 0


def test_patches_of_a_cnn_are_not_replaced():
    assert supports_patch_replacement(vit())
    assert not supports_patch_replacement(timm.create_model("resnet10t"))
