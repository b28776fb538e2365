"""Weight sharing: blocks that run several times with the weights of one."""

import pytest
import timm
import torch

from core.compress.vit_form import flexible_form
from core.compress.weight_sharing import share
from core.errors import InvalidSpec
from core.models.built import BuiltModel
from core.models.meta_device import count_parameters
from core.models.preprocessing import plain_preprocessing
from core.models.weights import save_folder
from tests.core.compress.conftest import without_weights


@pytest.mark.parametrize("architecture", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_equal_blocks_can_be_shared_without_a_change(make_vit, images, architecture):
    built = make_vit(architecture)
    for start in (0, 2):
        first, second = built.module.blocks[start], built.module.blocks[start + 1]
        second.attn.load_state_dict(first.attn.state_dict())
        second.mlp.load_state_dict(first.mlp.state_dict())

    shared = share(built, repeats=2, head_transforms=True)

    torch.testing.assert_close(shared(images), built(images), rtol=1e-4, atol=1e-4)


def test_weights_are_stored_once_and_loaded_by_timm(make_vit, images, tmp_path):
    built = make_vit()
    shared = share(built, repeats=2, head_transforms=True)
    save_folder(
        shared.module,
        tmp_path,
        architecture=shared.architecture,
        arguments=shared.arguments,
        preprocessing=shared.preprocessing,
    )

    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()

    assert count_parameters(shared.module) < 0.6 * count_parameters(built.module)
    assert (tmp_path / "model.safetensors").stat().st_size < 0.65 * 4 * count_parameters(built.module)
    assert torch.equal(loaded(shared.preprocessing(images)), shared(images))


def test_a_swin_is_shared(images):
    arguments = {
        "img_size": 16, "patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2],
        "in_chans": 1, "num_classes": 4,
    }  # fmt: skip
    torch.manual_seed(0)
    module = timm.create_model("swin_tiny_patch4_window7_224", **arguments).eval()
    preprocessing = plain_preprocessing(image_size=16, channels=1)
    built = BuiltModel(module, "swin_tiny_patch4_window7_224", arguments, preprocessing)

    shared = share(built, repeats=2, head_transforms=True)

    assert shared.architecture == "potstill_swin"
    assert count_parameters(shared.module) < count_parameters(module)
    assert torch.isfinite(shared(images)).all()


@pytest.mark.parametrize(
    ("architecture", "options", "repeats", "message"),
    [
        ("vit_tiny_patch16_224", {}, 3, "set repeats to 2 or 4"),
        ("potstill_vit", {"repeats": 2}, 2, "already"),
        ("potstill_vit", {"merged_tokens": [1, 1, 1, 1]}, 2, "before merging"),
        ("potstill_vit", {"block_hidden": [8, 16, 8, 8]}, 2, "equal size"),
    ],
)
def test_blocks_that_cannot_be_shared_are_refused(make_vit, architecture, options, repeats, message):
    built = make_vit(architecture, **options)
    with pytest.raises(InvalidSpec) as caught:
        share(built, repeats=repeats, head_transforms=False)

    assert message in caught.value.errors[0].detail


def test_the_check_needs_no_weights(make_vit):
    built = make_vit()
    meta = without_weights(built)

    assert next(share(meta, repeats=2, head_transforms=True).module.parameters()).is_meta
    assert next(flexible_form(meta).module.parameters()).is_meta
