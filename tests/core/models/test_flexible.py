import numpy as np
import pytest
import timm
import torch

from core.errors import InvalidSpec, WeightsMismatch
from core.export.onnx_file import export_onnx
from core.models import catalog
from core.models.built import BuiltModel
from core.models.flexible import adapt_to_flexible_vit, to_flexible_vit
from core.models.meta_device import build_on_meta, count_parameters
from core.models.preprocessing import plain_preprocessing
from core.models.weights import differences, load_folder, load_strictly, save_folder

BASE = {"num_classes": 5, "in_chans": 3, "img_size": 8, "patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 4}
ASKED = [
    ("vit_tiny_patch16_224", {}),
    ("vit_tiny_patch16_224", {"mlp_ratio": 2.5, "qkv_bias": False, "qk_norm": True, "init_values": 0.1}),
    ("vit_tiny_patch16_224", {"norm_layer": "rmsnorm", "act_layer": "relu", "proj_bias": False}),
    ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": False}),
    ("vit_tiny_patch16_224", {"global_pool": "avg", "fc_norm": False}),
    ("vit_tiny_patch16_224", {"final_norm": False, "drop_rate": 0.1}),
    ("vit_small_patch16_224", {"pre_norm": True}),
    ("deit_tiny_patch16_224", {}),
    ("deit3_small_patch16_224", {}),
]
OPTIONS = {
    "tokens": {"distillation_tokens": 3},
    "convolutions": {"stem": "conv", "distillation_tokens": 1},
    "votes of patches": {"distillation_tokens": 1, "patch_vote": True},
    "two stems": {"distillation_tokens": 2, "stem": "co_advise"},
    "multiplexed": {"repeats": 2, "head_transforms": True, "relative_position": True},
    "cut": {"block_heads": [1, 2, 3, 4], "block_dims": [[3], [8, 8], [2, 5, 8], [8, 8, 4, 1]], "block_hidden": [5] * 4},
    "lifted": {"lift_width": 48},
    "heads per block": {"heads_per_block": [4, 4, 4, 8]},
    "wide last": {"wide_last": 48, "distillation_tokens": 1},
    "local": {"local_blocks": 2, "distillation_tokens": 1},
}


@pytest.fixture
def images():
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def randomize(module):
    """Move weights far from their initialization, so that no part is close to zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return module.eval()


@pytest.mark.parametrize(("architecture", "more"), ASKED)
def test_default_options_give_the_same_outputs_from_the_same_weights(architecture, more, images):
    arguments = {**BASE, **more}
    requested = randomize(timm.create_model(architecture, **arguments))
    name, full = to_flexible_vit(architecture, arguments)
    student = timm.create_model(name, **full).eval()
    load_strictly(student, adapt_to_flexible_vit(requested.state_dict(), student), name=name)

    assert name == "potstill_vit"
    assert torch.allclose(student(images), requested(images), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("architecture", "more"), [ASKED[1], ASKED[9]])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_weights_of_the_plain_vit_fit_all_options_except_block_widths(architecture, more, options):
    arguments = {**BASE, **more}
    requested = timm.create_model(architecture, **arguments)
    name, full = to_flexible_vit(architecture, arguments, **options)
    student = timm.create_model(name, **full)
    adapted = adapt_to_flexible_vit(requested.state_dict(), student)

    if "block_heads" in options:
        with pytest.raises(WeightsMismatch, match="another shape"):
            load_strictly(student, adapted, name=name)
    else:
        load_strictly(student, adapted, name=name)


def converted(requested, **options):
    name, full = to_flexible_vit("vit_tiny_patch16_224", BASE, **options)
    student = timm.create_model(name, **full).eval()
    load_strictly(student, adapt_to_flexible_vit(requested.state_dict(), student), name=name)
    return student


@pytest.fixture
def requested():
    return randomize(timm.create_model("vit_tiny_patch16_224", **BASE))


def test_tokens_are_initialized_with_the_class_token_and_its_position(requested):
    student = converted(requested, distillation_tokens=2)

    assert torch.equal(student.dist_token, requested.cls_token.expand(1, 2, 32))
    assert torch.equal(student.pos_embed[:, :3], requested.pos_embed[:, :1].expand(1, 3, 32))
    assert torch.equal(student.pos_embed[:, 3:], requested.pos_embed[:, 1:])


def test_shared_blocks_are_initialized_with_the_first_block_of_their_group(requested, images):
    student = converted(requested, repeats=2, head_transforms=True, relative_position=True)
    with torch.no_grad():
        for first, second in ((0, 1), (2, 3)):
            for part in ("attn", "mlp"):
                state = getattr(requested.blocks[first], part).state_dict()
                getattr(requested.blocks[second], part).load_state_dict(state)

    assert torch.allclose(student(images), requested(images), atol=1e-5)


def test_local_blocks_take_the_content_attention(requested, images):
    student = converted(requested, local_blocks=2)
    away = torch.allclose(student(images), requested(images), atol=1e-3)
    with torch.no_grad():
        for block in student.blocks[:2]:
            block.attn.gating.fill_(-100)

    assert not away
    assert torch.allclose(student(images), requested(images), atol=1e-5)


def test_all_tokens_are_normalized_before_the_lift():
    arguments = {**BASE, "global_pool": "avg"}
    requested = randomize(timm.create_model("vit_tiny_patch16_224", **arguments))
    name, full = to_flexible_vit("vit_tiny_patch16_224", arguments, lift_width=48)
    student = timm.create_model(name, **full)
    load_strictly(student, adapt_to_flexible_vit(requested.state_dict(), student), name=name)

    assert torch.equal(student.norm.weight, requested.fc_norm.weight)
    assert isinstance(student.fc_norm, torch.nn.Identity)


def test_weights_with_the_same_options_are_unchanged(requested):
    student = randomize(converted(requested, distillation_tokens=2, repeats=2, head_transforms=True))
    other = timm.create_model("potstill_vit", **BASE, distillation_tokens=2, repeats=2, head_transforms=True)

    assert all(torch.equal(a, b) for a, b in zip(
        adapt_to_flexible_vit(student.state_dict(), other).values(), student.state_dict().values(), strict=True
    ))  # fmt: skip


def test_a_flexible_vit_keeps_its_options_and_takes_more():
    arguments = {**BASE, "repeats": 2}

    assert to_flexible_vit("potstill_vit", arguments, lift_width=8) == (
        "potstill_vit", {**arguments, "lift_width": 8, "fc_norm": False},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "more", "words"),
    [
        ("resnet18", {}, "is a ResNet; choose"),
        ("deit_tiny_distilled_patch16_224", {}, "is a VisionTransformerDistilled; choose"),
        ("vit_tiny_patch16_224", {"reg_tokens": 4}, "register tokens"),
        ("vit_tiny_patch16_224", {"global_pool": "map"}, "token or avg"),
        ("vit_giant_patch14_dinov2", {}, "fc2"),
        ("vit_base_patch16_rpn_224", {}, "ResPostBlock"),
        ("vit_tiny_r_s16_p8_224", {}, "patch_embed"),
    ],
)
def test_unsupported_models_are_refused_with_a_fix(architecture, more, words):
    with pytest.raises(InvalidSpec, match=words) as raised:
        to_flexible_vit(architecture, {"num_classes": 5, "in_chans": 3, **more})

    assert raised.value.errors[0].pointer == "/student/architecture"


def test_options_that_do_not_fit_the_student_are_refused():
    with pytest.raises(InvalidSpec, match="not a multiple of repeats 3") as raised:
        to_flexible_vit("vit_tiny_patch16_224", BASE, repeats=3)

    assert raised.value.errors[0].pointer == "/student/architecture"


def test_the_catalog_lists_it_as_a_transformer():
    entry = catalog.info("potstill_vit", count_parameters=True)

    assert "potstill_vit" in catalog.architecture_names()
    assert entry.to_json() == {
        "name": "potstill_vit", "family": "transformer", "input_size": [3, 224, 224], "fixed_input_size": True,
        "parameters": 5_717_416, "flops": 2_507_366_400, "pretrained": False, "pretrained_tags": [],
        "license": None, "licenses": {},
    }  # fmt: skip
    assert catalog.takes_image_size("potstill_vit")


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_saved_model_is_loaded_unchanged(options, tmp_path, images):
    arguments = {**BASE, **options}
    module = randomize(timm.create_model("potstill_vit", **arguments, drop_path_rate=0.1))
    save_folder(
        module, tmp_path, architecture="potstill_vit", arguments={**arguments, "drop_path_rate": 0.1},
        preprocessing=plain_preprocessing(image_size=8, channels=3), classes=list("abcde"),
    )  # fmt: skip
    built = load_folder(tmp_path)
    by_timm = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    for_seven = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7).eval()

    assert built.arguments == arguments
    assert torch.equal(built.module(images), module(images))
    assert torch.equal(by_timm(images), module(images))
    assert for_seven(images).shape == (3, 7)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_meta_model_has_the_same_weights(options):
    arguments = {**BASE, **options}
    meta, real = build_on_meta("potstill_vit", arguments), timm.create_model("potstill_vit", **arguments)

    assert differences({name: tuple(w.shape) for name, w in meta.state_dict().items()}, real) == ""
    assert count_parameters(meta) == count_parameters(real)
    assert meta(torch.empty(2, 3, 8, 8, device="meta")).shape == (2, 5)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_onnx_and_torch_give_the_same_outputs(options, tmp_path):
    arguments = {**BASE, **options}
    module = randomize(timm.create_model("potstill_vit", **arguments))
    student = BuiltModel(module, "potstill_vit", arguments, plain_preprocessing(image_size=8, channels=3))
    samples = np.random.default_rng(0).integers(0, 256, (8, 3, 8, 8), dtype=np.uint8)

    _, difference = export_onnx(student, tmp_path / "model.onnx", samples_NCHW=samples)
    assert difference.max < 1e-4
