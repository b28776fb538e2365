"""Models that cannot be built or run: the field at fault, the reason, and what fits."""

import pytest

from core.errors import InvalidSpec
from core.resolve.build_errors import fitting_sizes
from core.resolve.model_profile import profile_model

BASE = {"num_classes": 10, "in_chans": 3}
VIT = {**BASE, "img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 1, "num_heads": 3}
SWIN = {**BASE, "img_size": 224, "depths": [1, 1], "embed_dim": 32, "num_heads": [2, 4]}
PYTHON_WORDS = ("operand", "NoneType", "object", "iterable", "AssertionError", "Tensor", "broadcast", "dimension")


@pytest.mark.parametrize(
    ("architecture", "arguments", "size", "pointer", "words"),
    [
        ("halonet_h1", BASE, 64, "/arguments/img_size", "cannot run on 64 by 64 pixels; use 256 (its own size)"),
        ("levit_128s", BASE, 32, "/arguments/img_size", "use 224 (its own size)"),
        ("botnet26t_256", BASE, 64, "/arguments/img_size", "use 256 (its own size)"),
        ("nest_tiny_jx", {**BASE, "img_size": 50}, 50, "/arguments/img_size", "use 48 or 64"),
        ("convnext_atto", BASE, 8, "/arguments/img_size", "use 32"),
        ("vit_tiny_patch16_224", {**VIT, "embed_dim": 100}, 32, "/arguments/embed_dim", "embed_dim of 99 or 102"),
        ("vit_tiny_patch16_224", {**VIT, "depth": [2]}, 32, "/arguments/depth", "a whole number is expected"),
        ("vit_tiny_patch16_224", {**VIT, "patch_size": [4, 5]}, 32, "/arguments/patch_size", "the patch of 5"),
        ("vit_tiny_patch16_224", {**VIT, "pos_embed": "sin"}, 32, "/arguments/pos_embed", "with pos_embed 'sin'"),
        ("vit_tiny_patch16_224", {**VIT, "act_layer": 3}, 32, "/arguments/act_layer", "with act_layer 3"),
        ("vit_tiny_patch16_224", {**VIT, "class_token": False}, 32, "/arguments/class_token", "needs the class token"),
        ("swin_tiny_patch4_window7_224", {**SWIN, "depths": 2}, 224, "/arguments/depths", "a list is expected"),
        ("swin_tiny_patch4_window7_224", {**SWIN, "num_heads": [2]}, 224, "/arguments/num_heads", "num_heads has 1"),
        ("resnet18", {**BASE, "layers": [1, 1, 1]}, 32, "/arguments/layers", "cannot run with layers"),
        ("resnet18", {**BASE, "block_args": {"a": 1}}, 32, "/arguments/block_args", "with block_args"),
    ],
)
def test_the_field_at_fault_is_named_in_the_models_words(architecture, arguments, size, pointer, words):
    with pytest.raises(InvalidSpec) as caught:
        profile_model(architecture, arguments, image_size=size)

    ((found, detail),) = [(error.pointer, error.detail) for error in caught.value.errors]
    assert found == pointer
    assert words in detail
    assert not [word for word in PYTHON_WORDS if word in detail]


def test_suggested_sizes_fit():
    arguments = {**BASE, "img_size": 50}
    sizes = fitting_sizes("nest_tiny_jx", arguments, 50)

    assert sizes
    for size in sizes:
        assert profile_model("nest_tiny_jx", {**arguments, "img_size": size}, image_size=size).flops > 0
