"""A ViT teacher that sees a part of the patches."""

import pytest
import timm
import torch

from core.models.patch_masking import mask_patches, supports_patch_masking

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 4, "in_chans": 1}


def vit(name="vit_tiny_patch16_224", **arguments):
    torch.manual_seed(0)
    return timm.create_model(name, **TINY, **arguments).eval()


def reference(module, images, places):
    """One image at a time, with tokens picked by hand behind the positions."""
    answers = []
    for image, seen in zip(images, places.tolist(), strict=True):
        tokens = module._pos_embed(module.patch_embed(image[None]))[0]
        prefixes = module.num_prefix_tokens
        kept = [*tokens[:prefixes], *(tokens[prefixes + place] for place in seen)]
        features = module.norm(module.blocks(module.norm_pre(torch.stack(kept)[None])))
        answers.append(module.forward_head(features)[0])
    return torch.stack(answers)


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
    places = torch.tensor([[3, 0, 9], [15, 7, 4]])

    with mask_patches(module, places):
        found = module(images)

    torch.testing.assert_close(found, reference(module, images, places))
    assert not torch.allclose(found, module(images), atol=1e-4)


@torch.no_grad()
def test_all_patches_in_any_order_give_the_full_image():
    module, images = vit(), torch.rand(2, 1, 16, 16)

    with mask_patches(module, torch.arange(15, -1, -1).expand(2, -1)):
        found = module(images)

    torch.testing.assert_close(found, module(images))


@torch.no_grad()
def test_all_patches_are_visible_again_after_an_error():
    module, images = vit(), torch.rand(2, 1, 16, 16)
    whole = module(images)

    with pytest.raises(ZeroDivisionError), mask_patches(module, torch.tensor([[0], [0]])):
        raise ZeroDivisionError

    torch.testing.assert_close(module(images), whole)


def test_only_plain_vits_are_supported():
    assert supports_patch_masking(vit())
    assert not supports_patch_masking(timm.create_model("vit_relpos_small_patch16_224"))
    assert not supports_patch_masking(timm.create_model("resnet10t"))
