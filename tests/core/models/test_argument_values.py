"""Types and ranges of constructor arguments."""

import pytest

from core.errors import InvalidSpec
from core.models.argument_values import argument_types, check_values

VIT, SWIN = "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"
PYTHON_WORDS = ("operand", "NoneType", "'int'", "'str'", "object is not", "tuple", "AssertionError")


@pytest.mark.parametrize(
    ("architecture", "name", "value", "words"),
    [
        (VIT, "depth", 0, "depth must be at least 1, not 0"),
        (VIT, "depth", "4", "a whole number is expected for depth, not a string"),
        (VIT, "depth", 2.5, "a whole number is expected for depth, not 2.5"),
        (VIT, "depth", True, "not a boolean"),
        (VIT, "num_heads", -3, "at least 1"),
        (VIT, "embed_dim", {"a": 1}, "not an object"),
        (VIT, "patch_size", [0, 4], "at least 1, not 0"),
        (VIT, "patch_size", ["4", 4], "numbers are expected in patch_size, not a string"),
        (VIT, "mlp_ratio", 0, "greater than 0"),
        (VIT, "mlp_ratio", "4", "a number is expected for mlp_ratio"),
        (VIT, "qkv_bias", "yes", "true or false is expected for qkv_bias"),
        (VIT, "global_pool", "avgg", "must be one of '', 'avg'"),
        (VIT, "drop_rate", 1.5, "less than 1"),
        (VIT, "reg_tokens", -1, "at least 0"),
        (VIT, "init_values", "x", "a number is expected"),  # timm builds this one
        (SWIN, "window_size", 0, "at least 1"),
        (SWIN, "depths", [0, 1], "at least 1"),
        (SWIN, "depths", [], "has no entries"),
        (SWIN, "depths", [1, "1"], "numbers are expected in depths"),
        ("crossvit_9_240", "depth", [[1, 1, 0]], "at least 1"),
        ("levit_128s", "num_heads", "3", "expected for num_heads"),
        ("potstill_vit", "depth", "3", "a whole number"),
        ("ghostnet_100", "width", 0, "greater than 0"),
    ],
)
def test_a_wrong_value_is_refused_with_its_field_and_what_is_expected(architecture, name, value, words):
    with pytest.raises(InvalidSpec, match="/arguments/" + name) as caught:
        check_values(architecture, {name: value}, pointer="/arguments")

    assert words in caught.value.detail
    assert not [word for word in PYTHON_WORDS if word in caught.value.detail]


@pytest.mark.parametrize(
    ("architecture", "arguments", "checked"),
    [
        (
            VIT,
            {"depth": 4.0, "mlp_ratio": 2, "patch_size": [4.0, 4]},
            {"depth": 4, "mlp_ratio": 2, "patch_size": [4, 4]},
        ),
        (VIT, {"reg_tokens": 0, "drop_rate": 0, "init_values": 1e-5}, None),
        (VIT, {"norm_layer": "rmsnorm", "global_pool": "", "fc_norm": True}, None),
        (SWIN, {"depths": [1, 1], "num_heads": [2, 4], "window_size": [7, 7]}, None),
        ("mixer_s32_224", {"mlp_ratio": [0.5, 4.0]}, None),
        ("resnet18", {"block_args": {"reduce_first": 1}, "layers": [1, 1, 1, 1]}, None),
        ("levit_128s", {"depth": [1, 1, 1]}, None),
    ],
)
def test_valid_values_are_accepted(architecture, arguments, checked):
    assert check_values(architecture, arguments, pointer="/arguments") == (checked or arguments)


def test_an_argument_without_a_signature_is_left_to_timm():
    assert "no_such" not in argument_types(VIT)
    assert check_values(VIT, {"no_such": "x"}, pointer="/arguments") == {"no_such": "x"}
