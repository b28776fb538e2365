import pytest
import timm
import torch
from torch import nn

from core.evaluate import count_flops
from core.models.meta_device import build_on_meta


def test_a_multiply_add_is_two_operations():
    assert count_flops(nn.Linear(10, 20), torch.rand(3, 10)) == 2 * 3 * 10 * 20
    assert count_flops(nn.Conv2d(3, 8, 3, padding=1), torch.rand(1, 3, 5, 5)) == 2 * 25 * 8 * 3 * 9


def test_fused_and_unfused_attention_count_the_same():
    width, tokens, depth = 32, 17, 2
    model = timm.create_model("vit_tiny_patch16_224", img_size=8, patch_size=2, embed_dim=32, depth=2, num_heads=2)
    fused = count_flops(model.eval(), torch.rand(1, 3, 8, 8))
    for block in model.blocks:
        block.attn.fused_attn = False

    blocks = depth * (2 * tokens * 12 * width * width + 4 * tokens * tokens * width)
    assert fused == 2 * 16 * width * 12 + blocks + 2 * width * 1000
    assert count_flops(model, torch.rand(1, 3, 8, 8)) == fused


def test_every_run_of_a_shared_block_is_counted_with_its_own_layers():
    side, width, heads, tokens, runs = 8, 16, 2, 16, 2
    arguments = {"img_size": 16, "patch_size": 2, "window_size": 4, "embed_dim": width, "depths": [2], "num_heads": [2]}
    plain = count_flops(timm.create_model("potstill_swin", **arguments).eval(), torch.rand(1, 3, 16, 16))
    sharing = {"repeats": runs, "head_transforms": True, "local_convolution": True}
    shared = count_flops(timm.create_model("potstill_swin", **arguments, **sharing).eval(), torch.rand(1, 3, 16, 16))

    mixing = 2 * 2 * side * side * tokens * heads * heads
    assert shared - plain == runs * (mixing + 2 * side * side * width * 49)


@pytest.mark.parametrize(
    ("name", "arguments", "size"),
    [
        ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 4, "qk_norm": True}, 32),
        ("deit_tiny_distilled_patch16_224", {"img_size": 32, "patch_size": 4}, 32),
        ("cait_xxs24_224", {"img_size": 32, "patch_size": 4, "depth": 2}, 32),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 32, "patch_size": 2, "window_size": 2, "depths": [1, 1, 2, 1]},
            32,
        ),
        (
            "potstill_swin",
            {
                "img_size": 20,
                "patch_size": 2,
                "window_size": 4,
                "embed_dim": 24,
                "depths": [2, 4],
                "num_heads": [2, 4],
                "repeats": 2,
                "head_transforms": True,
                "local_convolution": True,
            },
            20,
        ),
        ("eva02_tiny_patch14_224", {"img_size": 28, "depth": 2}, 28),
        ("levit_128s", {"img_size": 64}, 64),
        ("convnext_atto", {}, 32),
        ("resnet18", {}, 32),
    ],
)
def test_the_meta_device_and_a_real_pass_count_the_same(name, arguments, size):
    real = timm.create_model(name, **arguments).eval()
    shape = (2, 3, size, size)

    assert count_flops(build_on_meta(name, arguments), torch.empty(shape, device="meta")) == count_flops(
        real, torch.rand(shape)
    )


def test_wrong_shapes_raise_on_the_meta_device_too():
    with pytest.raises(RuntimeError):
        count_flops(nn.Linear(10, 20, device="meta"), torch.empty(3, 11, device="meta"))
