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
from core.models.flexible_swin import adapt_swin_state, swin_twin
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
FORMS = {
    "shared": {"repeats": 2},
    "whole": {"repeats": 2, "head_transforms": True, "local_convolution": True},
    "not shared": {"head_transforms": True, "local_convolution": True},
}


@pytest.fixture
def pictures():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def scattered(module):
    """Weights far from their start, so that no part is nearly nothing."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return module.eval()


@pytest.mark.parametrize(("architecture", "arguments"), ASKED)
def test_without_a_form_the_twin_computes_the_same_from_the_same_weights(architecture, arguments):
    asked = scattered(timm.create_model(architecture, **arguments))
    name, full = swin_twin(architecture, arguments)
    twin = timm.create_model(name, **full).eval()
    load_strictly(twin, adapt_swin_state(asked.state_dict(), twin), name=name)
    pictures = torch.randn(2, 3, arguments["img_size"], arguments["img_size"])

    assert name == "potstill_swin"
    assert json.loads(json.dumps(full)) == full
    assert torch.equal(twin(pictures), asked(pictures))


@pytest.mark.parametrize(("architecture", "arguments"), ASKED)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_weights_of_the_plain_swin_fit_every_form(architecture, arguments, form):
    asked = timm.create_model(architecture, **arguments)
    name, full = swin_twin(architecture, arguments, **form)
    twin = timm.create_model(name, **full)

    load_strictly(twin, adapt_swin_state(asked.state_dict(), twin), name=name)


@pytest.fixture
def asked():
    return scattered(timm.create_model(TINY, **BASE))


def twin_of(asked, **form):
    name, full = swin_twin(TINY, BASE, **form)
    twin = timm.create_model(name, **full).eval()
    load_strictly(twin, adapt_swin_state(asked.state_dict(), twin), name=name)
    return twin


@torch.no_grad()
def tied(asked):
    """The asked Swin with the weights of each pair's first block in both, and our mask in the unshifted ones."""
    for stage in asked.layers:
        for first, second in zip(stage.blocks[::2], stage.blocks[1::2], strict=True):
            for part in ("attn", "mlp"):
                getattr(second, part).load_state_dict(getattr(first, part).state_dict())
            first.attn_mask = second.attn_mask
    return asked


def test_shared_blocks_begin_as_the_first_of_their_group_run_twice(asked, pictures):
    twin = twin_of(asked, repeats=2, head_transforms=True)

    assert torch.allclose(twin(pictures), tied(asked)(pictures), atol=1e-5)


def test_the_norm_before_the_mlp_is_all_that_a_local_convolution_changes_at_first(asked, pictures):
    twin = twin_of(asked, repeats=2, head_transforms=True, local_convolution=True)
    away = torch.allclose(twin(pictures), tied(asked)(pictures), atol=1e-3)
    for stage in twin.layers:
        for block in stage.blocks:
            for run in block.runs:
                run.local.norm = torch.nn.Identity()

    assert not away
    assert torch.allclose(twin(pictures), tied(asked)(pictures), atol=1e-5)


def test_weights_of_the_same_form_stay_as_they_are(asked):
    twin = scattered(twin_of(asked, **FORMS["whole"]))
    other = timm.create_model("potstill_swin", **BASE, **FORMS["whole"])

    assert all(torch.equal(a, b) for a, b in zip(
        adapt_swin_state(twin.state_dict(), other).values(), twin.state_dict().values(), strict=True
    ))  # fmt: skip


def test_a_flexible_swin_keeps_its_form_and_takes_more():
    arguments = {**BASE, "repeats": 2}

    assert swin_twin("potstill_swin", arguments, local_convolution=True) == (
        "potstill_swin", {**arguments, "local_convolution": True},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "more", "form", "pointer", "words"),
    [
        ("swinv2_tiny_window8_256", {}, {}, "/student/architecture", r"swin_\*, not swinv2_\*.*SwinTransformerV2"),
        ("vit_tiny_patch16_224", {}, {}, "/student/architecture", "is a VisionTransformer; choose"),
        (TINY, {"depths": [2, 0], "num_heads": [2, 2]}, {}, "/student/arguments/depths", "at least 1"),
        (TINY, {}, {"repeats": 4}, "/method/repeats", "stages of 2, 2, 6, 2 blocks.*one of 1, 2, 3, 6"),
        ("potstill_swin", {}, {"repeats": 5}, "/method/repeats", "one of 1, 2, 3, 6"),
    ],
)
def test_what_cannot_be_expressed_is_refused_with_a_fix(architecture, more, form, pointer, words):
    with pytest.raises(InvalidSpec, match=words) as raised:
        swin_twin(architecture, {"num_classes": 5, "in_chans": 3, **more}, **form)

    assert raised.value.errors[0].pointer == pointer


def test_the_catalogue_lists_it_as_a_transformer():
    entry = catalog.info("potstill_swin", count_parameters=True)

    assert entry.to_json() == {
        "name": "potstill_swin", "family": "transformer", "input_size": [3, 224, 224], "fixed_input_size": True,
        "parameters": 28_288_354, "pretrained": False, "pretrained_tags": [],
    }  # fmt: skip
    assert catalog.takes_image_size("potstill_swin")


def test_the_authors_mini_swin_tiny_has_half_the_weights():
    """12 M against 28 M, as their README has it."""
    arguments = {"num_classes": 1000, "in_chans": 3, "img_size": 224}
    name, full = swin_twin(TINY, arguments, repeats=6, head_transforms=True, local_convolution=True)

    assert round(count_parameters(build_on_meta(name, full)) / 1e6, 1) == 12.0


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_stored_form_is_opened_as_it_was(form, tmp_path, pictures):
    arguments = {**BASE, **form}
    module = scattered(timm.create_model("potstill_swin", **arguments, drop_path_rate=0.1))
    save_folder(
        module, tmp_path, architecture="potstill_swin", arguments={**arguments, "drop_path_rate": 0.1},
        preprocessing=plain_preprocessing(image_size=16, channels=3), classes=list("abcde"),
    )  # fmt: skip
    built = load_folder(tmp_path)
    by_timm = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    for_seven = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7).eval()

    assert built.arguments == arguments
    assert torch.equal(built.module(pictures), module(pictures))
    assert torch.equal(by_timm(pictures), module(pictures))
    assert for_seven(pictures).shape == (3, 7)


def test_stored_weights_are_the_parameters_and_each_is_there_once(tmp_path):
    module = timm.create_model("potstill_swin", **BASE, **FORMS["whole"])
    save_folder(
        module, tmp_path, architecture="potstill_swin", arguments={**BASE, **FORMS["whole"]},
        preprocessing=plain_preprocessing(image_size=16, channels=3),
    )  # fmt: skip
    stored = load_file(tmp_path / "model.safetensors")

    assert sum(tensor.numel() for tensor in stored.values()) == count_parameters(module)
    assert sum(name.endswith("attn.qkv.weight") for name in stored) == 3


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_meta_device_knows_its_weights(form):
    arguments = {**BASE, **form}
    meta, real = build_on_meta("potstill_swin", arguments), timm.create_model("potstill_swin", **arguments)

    assert differences({name: tuple(w.shape) for name, w in meta.state_dict().items()}, real) == ""
    assert count_parameters(meta) == count_parameters(real)
    assert meta(torch.empty(2, 3, 16, 16, device="meta")).shape == (2, 5)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_onnx_answers_as_torch_does(form, tmp_path):
    arguments = {**BASE, **form}
    module = scattered(timm.create_model("potstill_swin", **arguments))
    student = BuiltModel(module, "potstill_swin", arguments, plain_preprocessing(image_size=16, channels=3))
    samples = np.random.default_rng(0).integers(0, 256, (8, 3, 16, 16), dtype=np.uint8)

    assert export_onnx(student, tmp_path / "model.onnx", samples_NCHW=samples, classes=None) < 1e-4
