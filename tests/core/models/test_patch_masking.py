"""A ViT teacher that sees a part of the patches."""

import pytest
import timm
import torch

from core.models.patch_masking import seeing_only, sees_patches

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 4, "in_chans": 1}


def vit(name="vit_tiny_patch16_224", **arguments):
    torch.manual_seed(0)
    return timm.create_model(name, **TINY, **arguments).eval()


def slowly(module, pictures, places):
    """One picture at a time, with tokens picked by hand behind the positions."""
    answers = []
    for picture, seen in zip(pictures, places.tolist(), strict=True):
        tokens = module._pos_embed(module.patch_embed(picture[None]))[0]
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
def test_each_picture_keeps_its_own_patches_at_their_positions(name, arguments):
    module, pictures = vit(name, **arguments), torch.rand(2, 1, 16, 16)
    places = torch.tensor([[3, 0, 9], [15, 7, 4]])

    with seeing_only(module, places):
        found = module(pictures)

    torch.testing.assert_close(found, slowly(module, pictures, places))
    assert not torch.allclose(found, module(pictures), atol=1e-4)


@torch.no_grad()
def test_all_patches_in_any_order_are_the_whole_picture():
    module, pictures = vit(), torch.rand(2, 1, 16, 16)

    with seeing_only(module, torch.arange(15, -1, -1).expand(2, -1)):
        found = module(pictures)

    torch.testing.assert_close(found, module(pictures))


@torch.no_grad()
def test_it_sees_everything_again_after_an_error():
    module, pictures = vit(), torch.rand(2, 1, 16, 16)
    whole = module(pictures)

    with pytest.raises(ZeroDivisionError), seeing_only(module, torch.tensor([[0], [0]])):
        raise ZeroDivisionError

    torch.testing.assert_close(module(pictures), whole)


def test_only_plain_vits_can_be_run_so():
    assert sees_patches(vit())
    assert not sees_patches(timm.create_model("vit_relpos_small_patch16_224"))
    assert not sees_patches(timm.create_model("resnet10t"))
