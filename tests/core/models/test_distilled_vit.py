import pytest
import timm
import torch

from core.errors import InvalidSpec
from core.models.distilled_vit import distilled_twin, widen_state

BASE = {"num_classes": 5, "in_chans": 3, "img_size": 16}


@pytest.mark.parametrize(
    ("architecture", "more"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", {"mlp_ratio": 2.5, "qkv_bias": False, "qk_norm": True, "init_values": 0.1}),
        ("vit_tiny_patch16_224", {"norm_layer": "rmsnorm", "act_layer": "relu", "proj_bias": False}),
        ("vit_small_patch16_224", {"pre_norm": True}),
        ("deit_tiny_patch16_224", {}),
    ],
)
def test_the_twin_has_the_same_parts_and_a_token_more(architecture, more, tiny_vit):
    arguments = {**BASE, **tiny_vit, **more}
    name, full = distilled_twin(architecture, arguments)
    twin, asked = timm.create_model(name, **full), timm.create_model(architecture, **arguments)

    assert type(twin).__name__ == "VisionTransformerDistilled"
    assert twin.blocks[0].attn.num_heads == asked.blocks[0].attn.num_heads
    assert repr(twin.blocks) == repr(asked.blocks)
    width, classes = 32, 5
    extra = width + width + (width + 1) * classes  # token, its position, its head
    assert sum(p.numel() for p in twin.parameters()) == sum(p.numel() for p in asked.parameters()) + extra


def test_a_model_that_is_distilled_already_stays_as_it_is(tiny_vit):
    arguments = {**BASE, **tiny_vit}

    assert distilled_twin("deit_small_distilled_patch16_224", arguments) == (
        "deit_small_distilled_patch16_224",
        arguments,
    )


def test_the_width_chooses_a_telling_name():
    assert distilled_twin("vit_base_patch16_224", {"num_classes": 5, "in_chans": 3})[0].startswith("deit_base")


@pytest.mark.parametrize(
    ("architecture", "more", "words"),
    [
        ("resnet18", {}, "is a ResNet"),
        ("swin_tiny_patch4_window7_224", {}, "is a SwinTransformer"),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}, "global_pool"),
        ("vit_tiny_patch16_224", {"reg_tokens": 4}, "reg_token"),
        ("vit_giant_patch14_dinov2", {}, "fc2"),
        ("vit_base_patch16_rpn_224", {}, "ResPostBlock"),
        ("vit_tiny_r_s16_p8_224", {}, "patch_embed"),
    ],
)
def test_what_the_twin_cannot_express_is_refused(architecture, more, words):
    with pytest.raises(InvalidSpec, match=words):
        distilled_twin(architecture, {"num_classes": 5, "in_chans": 3, **more})


def test_plain_weights_move_into_the_twin(tiny_vit):
    arguments = {**BASE, **tiny_vit}
    plain = timm.create_model("vit_tiny_patch16_224", **arguments)
    name, full = distilled_twin("vit_tiny_patch16_224", arguments)
    twin = timm.create_model(name, **full)
    head = twin.head_dist.weight.clone()
    twin.load_state_dict(widen_state(plain.state_dict(), twin), strict=True)

    assert torch.equal(twin.blocks[1].mlp.fc1.weight, plain.blocks[1].mlp.fc1.weight)
    assert torch.equal(twin.pos_embed[:, 2:], plain.pos_embed[:, 1:])
    assert torch.equal(twin.pos_embed[:, 1], plain.pos_embed[:, 0])
    assert torch.equal(twin.dist_token, plain.cls_token)
    assert torch.equal(twin.head_dist.weight, head)


def test_weights_without_a_position_of_the_class_token_move_too(tiny_vit):
    arguments = {**BASE, **tiny_vit}
    plain = timm.create_model("deit3_small_patch16_224", **arguments)
    name, full = distilled_twin("deit3_small_patch16_224", arguments)
    twin = timm.create_model(name, **full)
    twin.load_state_dict(widen_state(plain.state_dict(), twin), strict=True)

    assert torch.equal(twin.pos_embed[:, 2:], plain.pos_embed)
    assert not twin.pos_embed[:, :2].any()
