import pytest
import timm

from core.errors import InvalidSpec
from core.resolve.model_profile import has_drop_path, profile_model

VIT = "vit_tiny_patch16_224"


def small(**more):
    return {"img_size": 8, "patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2, "in_chans": 1, **more}


def test_the_profile_is_computed_without_memory():
    found = profile_model(VIT, small(num_classes=10), image_size=8)
    model = timm.create_model(VIT, **small(num_classes=10))

    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.num_classes == 10
    assert found.activations > 17 * 32 * 10
    assert found.calls > 20


@pytest.mark.parametrize(
    ("architecture", "arguments", "size", "pointer", "words"),
    [
        (VIT, small(num_classes=10, embed_dim=33), 8, "/arguments/embed_dim", "use an embed_dim of 32 or 34"),
        (VIT, small(num_classes=10, img_size=9), 9, "/arguments/patch_size", "8 or 10"),
        (VIT, small(num_classes=10, patch_size=16), 8, "/arguments/patch_size", "size to 16"),
        (VIT, small(num_classes=10, embed_dimm=3), 8, "/arguments/embed_dimm", "Did you mean embed_dim"),
        (VIT, small(num_classes=10, norm_layer="nope"), 8, "/arguments/norm_layer", "unknown value 'nope'"),
        (VIT, small(num_classes=10, embed_dim="a"), 8, "/arguments/embed_dim", "cannot be built with embed_dim 'a'"),
        (VIT, small(num_classes=10, global_pool=""), 8, "/architecture", "10 logits"),
        (VIT, small(num_classes=10, embed_dim=65536), 8, "/arguments", "parameters; at most"),
        ("resnet18", {"num_classes": 10, "in_chans": 3, "img_size": 8}, 8, "/arguments/img_size", "any size"),
        ("vgg11", {"num_classes": 10, "in_chans": 3}, 8, "/arguments/img_size", "cannot run on 8 by 8 pixels; use 32"),
    ],
)
def test_an_invalid_model_is_refused_with_its_pointer(architecture, arguments, size, pointer, words):
    with pytest.raises(InvalidSpec, match=words) as caught:
        profile_model(architecture, arguments, image_size=size)

    assert [error.pointer for error in caught.value.errors] == [pointer]


def test_has_drop_path():
    assert has_drop_path(VIT, '{"num_classes": 10}')
    assert not has_drop_path("vgg11", '{"num_classes": 10}')
