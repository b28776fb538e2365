import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from core.errors import InvalidSpec
from core.export.onnx_file import export_onnx
from core.models import catalog
from core.models.built import BuiltModel
from core.models.flexible_swin import adapt_to_flexible_swin, to_flexible_swin
from core.models.meta_device import build_on_meta, count_parameters
from core.models.preprocessing import plain_preprocessing
from core.models.weights import differences, load_folder, load_strictly, save_folder

TINY = "swin_tiny_patch4_window7_224"
BASE = {
    "num_classes": 5, "in_chans": 3, "img_size": 16, "patch_size": 2, "window_size": 4, "embed_dim": 16,
    "depths": [2, 4], "num_heads": [2, 4],
}  # fmt: skip
SMALL = {"num_classes": 5, "in_chans": 3, "img_size": 32, "patch_size": 2, "embed_dim": 8, "num_heads": [1, 2, 4, 8]}
ASKED = [
    (TINY, BASE),
    (TINY, {**BASE, "mlp_ratio": [2.5, 2.0], "qkv_bias": False, "head_dim": [8, 4]}),
    (TINY, {**BASE, "window_size": [[8, 8], [2, 2]], "always_partition": True}),
    (TINY, {**BASE, "img_size": 20, "window_size": 3, "drop_rate": 0.1, "dynamic_img_size": True}),
    (TINY, {**BASE, "global_pool": "max"}),
    ("swin_s3_tiny_224", SMALL),
    ("swin_base_patch4_window12_384", {**SMALL, "depths": [2, 2, 4, 2]}),
]
OPTIONS = {
    "shared": {"repeats": 2},
    "whole": {"repeats": 2, "head_transforms": True, "local_convolution": True},
    "not shared": {"head_transforms": True, "local_convolution": True},
}


@pytest.fixture
def images():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def randomize(module):
    """Move weights far from their initialization, so that no part is close to zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return module.eval()


@pytest.mark.parametrize(("architecture", "arguments"), ASKED)
def test_default_options_give_the_same_outputs_from_the_same_weights(architecture, arguments):
    requested = randomize(timm.create_model(architecture, **arguments))
    name, full = to_flexible_swin(architecture, arguments)
    student = timm.create_model(name, **full).eval()
    load_strictly(student, adapt_to_flexible_swin(requested.state_dict(), student), name=name)
    images = torch.randn(2, 3, arguments["img_size"], arguments["img_size"])

    assert name == "potstill_swin"
    assert json.loads(json.dumps(full)) == full
    assert torch.equal(student(images), requested(images))


@pytest.mark.parametrize(
    ("architecture", "arguments", "options"),
    [*((TINY, BASE, options) for options in OPTIONS.values()), *((*asked, OPTIONS["whole"]) for asked in ASKED[1:])],
)
def test_weights_of_the_plain_swin_fit_all_options(architecture, arguments, options):
    requested = timm.create_model(architecture, **arguments)
    name, full = to_flexible_swin(architecture, arguments, **options)
    student = timm.create_model(name, **full)

    load_strictly(student, adapt_to_flexible_swin(requested.state_dict(), student), name=name)


@pytest.fixture
def requested():
    return randomize(timm.create_model(TINY, **BASE))


def converted(requested, **options):
    name, full = to_flexible_swin(TINY, BASE, **options)
    student = timm.create_model(name, **full).eval()
    load_strictly(student, adapt_to_flexible_swin(requested.state_dict(), student), name=name)
    return student


@torch.no_grad()
def tied(requested):
    """The requested Swin with the weights of each pair's first block in both, and our mask in the unshifted ones."""
    for stage in requested.layers:
        for first, second in zip(stage.blocks[::2], stage.blocks[1::2], strict=True):
            for part in ("attn", "mlp"):
                getattr(second, part).load_state_dict(getattr(first, part).state_dict())
            first.attn_mask = second.attn_mask
    return requested


def test_shared_blocks_are_initialized_with_the_first_block_of_their_group(requested, images):
    student = converted(requested, repeats=2, head_transforms=True)

    assert torch.allclose(student(images), tied(requested)(images), atol=1e-5)


def test_a_new_local_convolution_only_adds_the_norm_before_the_mlp(requested, images):
    student = converted(requested, repeats=2, head_transforms=True, local_convolution=True)
    away = torch.allclose(student(images), tied(requested)(images), atol=1e-3)
    for stage in student.layers:
        for block in stage.blocks:
            for run in block.runs:
                run.local.norm = torch.nn.Identity()

    assert not away
    assert torch.allclose(student(images), tied(requested)(images), atol=1e-5)


def test_weights_with_the_same_options_are_unchanged(requested):
    student = randomize(converted(requested, **OPTIONS["whole"]))
    other = timm.create_model("potstill_swin", **BASE, **OPTIONS["whole"])

    assert all(torch.equal(a, b) for a, b in zip(
        adapt_to_flexible_swin(student.state_dict(), other).values(), student.state_dict().values(), strict=True
    ))  # fmt: skip


def test_a_flexible_swin_keeps_its_options_and_takes_more():
    arguments = {**BASE, "repeats": 2}

    assert to_flexible_swin("potstill_swin", arguments, local_convolution=True) == (
        "potstill_swin", {**arguments, "local_convolution": True},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "more", "options", "pointer", "words"),
    [
        ("swinv2_tiny_window8_256", {}, {}, "/student/architecture", r"swin_\*, not swinv2_\*.*SwinTransformerV2"),
        ("vit_tiny_patch16_224", {}, {}, "/student/architecture", "is a VisionTransformer; choose"),
        (TINY, {"depths": [2, 0], "num_heads": [2, 2]}, {}, "/student/arguments/depths", "at least 1"),
        (TINY, {}, {"repeats": 4}, "/method/repeats", "stages of 2, 2, 6, 2 blocks.*one of 1, 2, 3, 6"),
        ("potstill_swin", {}, {"repeats": 5}, "/method/repeats", "one of 1, 2, 3, 6"),
    ],
)
def test_unsupported_models_are_refused_with_a_fix(architecture, more, options, pointer, words):
    with pytest.raises(InvalidSpec, match=words) as raised:
        to_flexible_swin(architecture, {"num_classes": 5, "in_chans": 3, **more}, **options)

    assert raised.value.errors[0].pointer == pointer


def test_the_catalog_lists_it_as_a_transformer():
    entry = catalog.info("potstill_swin", count_parameters=True)

    assert entry.to_json() == {
        "name": "potstill_swin", "family": "transformer", "input_size": [3, 224, 224], "fixed_input_size": True,
        "parameters": 28_288_354, "flops": 8_981_133_312, "pretrained": False, "pretrained_tags": [],
        "license": None, "licenses": {},
    }  # fmt: skip
    assert catalog.takes_image_size("potstill_swin")


def test_the_authors_mini_swin_tiny_has_half_the_weights():
    """12 M parameters instead of 28 M, as in their README."""
    arguments = {"num_classes": 1000, "in_chans": 3, "img_size": 224}
    name, full = to_flexible_swin(TINY, arguments, repeats=6, head_transforms=True, local_convolution=True)

    assert round(count_parameters(build_on_meta(name, full)) / 1e6, 1) == 12.0


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_saved_model_is_loaded_unchanged(options, tmp_path, images):
    arguments = {**BASE, **options}
    module = randomize(timm.create_model("potstill_swin", **arguments, drop_path_rate=0.1))
    save_folder(
        module, tmp_path, architecture="potstill_swin", arguments={**arguments, "drop_path_rate": 0.1},
        preprocessing=plain_preprocessing(image_size=16, channels=3), classes=list("abcde"),
    )  # fmt: skip
    built = load_folder(tmp_path)
    by_timm = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    for_seven = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7).eval()

    assert built.arguments == arguments
    assert torch.equal(built.module(images), module(images))
    assert torch.equal(by_timm(images), module(images))
    assert for_seven(images).shape == (3, 7)


def test_saved_weights_are_the_parameters_each_once(tmp_path):
    module = timm.create_model("potstill_swin", **BASE, **OPTIONS["whole"])
    save_folder(
        module, tmp_path, architecture="potstill_swin", arguments={**BASE, **OPTIONS["whole"]},
        preprocessing=plain_preprocessing(image_size=16, channels=3),
    )  # fmt: skip
    stored = load_file(tmp_path / "model.safetensors")

    assert sum(tensor.numel() for tensor in stored.values()) == count_parameters(module)
    assert sum(name.endswith("attn.qkv.weight") for name in stored) == 3


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_meta_model_has_the_same_weights(options):
    arguments = {**BASE, **options}
    meta, real = build_on_meta("potstill_swin", arguments), timm.create_model("potstill_swin", **arguments)

    assert differences({name: tuple(w.shape) for name, w in meta.state_dict().items()}, real) == ""
    assert count_parameters(meta) == count_parameters(real)
    assert meta(torch.empty(2, 3, 16, 16, device="meta")).shape == (2, 5)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_onnx_and_torch_give_the_same_outputs(options, tmp_path):
    arguments = {**BASE, **options}
    module = randomize(timm.create_model("potstill_swin", **arguments))
    student = BuiltModel(module, "potstill_swin", arguments, plain_preprocessing(image_size=16, channels=3))
    samples = np.random.default_rng(0).integers(0, 256, (8, 3, 16, 16), dtype=np.uint8)

    _, difference = export_onnx(student, tmp_path / "model.onnx", samples_NCHW=samples)
    assert difference.max < 1e-4
