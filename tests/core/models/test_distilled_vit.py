import pytest
import timm
import torch

from core.errors import InvalidSpec
from core.models.distilled_vit import adapt_to_distilled_vit, to_distilled_vit

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
def test_the_distilled_vit_has_the_same_parts_and_one_more_token(architecture, more, tiny_vit):
    arguments = {**BASE, **tiny_vit, **more}
    name, full = to_distilled_vit(architecture, arguments)
    student, requested = timm.create_model(name, **full), timm.create_model(architecture, **arguments)

    assert type(student).__name__ == "VisionTransformerDistilled"
    assert student.blocks[0].attn.num_heads == requested.blocks[0].attn.num_heads
    assert repr(student.blocks) == repr(requested.blocks)
    width, classes = 32, 5
    extra = width + width + (width + 1) * classes  # token, its position, its head
    assert sum(p.numel() for p in student.parameters()) == sum(p.numel() for p in requested.parameters()) + extra


def test_a_distilled_vit_is_unchanged(tiny_vit):
    arguments = {**BASE, **tiny_vit}

    assert to_distilled_vit("deit_small_distilled_patch16_224", arguments) == (
        "deit_small_distilled_patch16_224",
        arguments,
    )


def test_the_width_selects_the_name():
    assert to_distilled_vit("vit_base_patch16_224", {"num_classes": 5, "in_chans": 3})[0].startswith("deit_base")


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
def test_unsupported_vits_are_refused(architecture, more, words):
    with pytest.raises(InvalidSpec, match=words):
        to_distilled_vit(architecture, {"num_classes": 5, "in_chans": 3, **more})


def test_plain_weights_are_adapted(tiny_vit):
    arguments = {**BASE, **tiny_vit}
    plain = timm.create_model("vit_tiny_patch16_224", **arguments)
    name, full = to_distilled_vit("vit_tiny_patch16_224", arguments)
    student = timm.create_model(name, **full)
    head = student.head_dist.weight.clone()
    student.load_state_dict(adapt_to_distilled_vit(plain.state_dict(), student), strict=True)

    assert torch.equal(student.blocks[1].mlp.fc1.weight, plain.blocks[1].mlp.fc1.weight)
    assert torch.equal(student.pos_embed[:, 2:], plain.pos_embed[:, 1:])
    assert torch.equal(student.pos_embed[:, 1], plain.pos_embed[:, 0])
    assert torch.equal(student.dist_token, plain.cls_token)
    assert torch.equal(student.head_dist.weight, head)


def test_weights_without_a_position_of_the_class_token_are_adapted(tiny_vit):
    arguments = {**BASE, **tiny_vit}
    plain = timm.create_model("deit3_small_patch16_224", **arguments)
    name, full = to_distilled_vit("deit3_small_patch16_224", arguments)
    student = timm.create_model(name, **full)
    student.load_state_dict(adapt_to_distilled_vit(plain.state_dict(), student), strict=True)

    assert torch.equal(student.pos_embed[:, 2:], plain.pos_embed)
    assert not student.pos_embed[:, :2].any()
