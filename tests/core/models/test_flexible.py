import numpy as np
import pytest
import timm
import torch

from core.errors import InvalidSpec, WeightsMismatch
from core.export.onnx_file import export_onnx
from core.models import catalog
from core.models.built import BuiltModel
from core.models.flexible import adapt_state, flexible_twin
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
FORMS = {
    "tokens": {"distillation_tokens": 3},
    "two stems": {"distillation_tokens": 2, "stem": "co_advise"},
    "multiplexed": {"repeats": 2, "head_transforms": True, "relative_position": True},
    "cut": {"block_heads": [1, 2, 3, 4], "block_dims": [[3], [8, 8], [2, 5, 8], [8, 8, 4, 1]], "block_hidden": [5] * 4},
    "lifted": {"lift_width": 48},
    "wide last": {"wide_last": 48, "distillation_tokens": 1},
    "local": {"local_blocks": 2, "distillation_tokens": 1},
}


@pytest.fixture
def pictures():
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def scattered(module):
    """Weights far from their start, so that no part is nearly nothing."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return module.eval()


@pytest.mark.parametrize(("architecture", "more"), ASKED)
def test_without_a_form_the_twin_computes_the_same_from_the_same_weights(architecture, more, pictures):
    arguments = {**BASE, **more}
    asked = scattered(timm.create_model(architecture, **arguments))
    name, full = flexible_twin(architecture, arguments)
    twin = timm.create_model(name, **full).eval()
    load_strictly(twin, adapt_state(asked.state_dict(), twin), name=name)

    assert name == "potstill_vit"
    assert torch.allclose(twin(pictures), asked(pictures), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("architecture", "more"), [ASKED[1], ASKED[9]])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_weights_of_the_plain_vit_fit_every_form_but_cut_blocks(architecture, more, form):
    arguments = {**BASE, **more}
    asked = timm.create_model(architecture, **arguments)
    name, full = flexible_twin(architecture, arguments, **form)
    twin = timm.create_model(name, **full)
    adapted = adapt_state(asked.state_dict(), twin)

    if "block_heads" in form:
        with pytest.raises(WeightsMismatch, match="another shape"):
            load_strictly(twin, adapted, name=name)
    else:
        load_strictly(twin, adapted, name=name)


def twin_of(asked, **form):
    name, full = flexible_twin("vit_tiny_patch16_224", BASE, **form)
    twin = timm.create_model(name, **full).eval()
    load_strictly(twin, adapt_state(asked.state_dict(), twin), name=name)
    return twin


@pytest.fixture
def asked():
    return scattered(timm.create_model("vit_tiny_patch16_224", **BASE))


def test_tokens_begin_as_the_class_token_at_its_position(asked):
    twin = twin_of(asked, distillation_tokens=2)

    assert torch.equal(twin.dist_token, asked.cls_token.expand(1, 2, 32))
    assert torch.equal(twin.pos_embed[:, :3], asked.pos_embed[:, :1].expand(1, 3, 32))
    assert torch.equal(twin.pos_embed[:, 3:], asked.pos_embed[:, 1:])


def test_shared_blocks_begin_as_the_first_of_their_group_run_twice(asked, pictures):
    twin = twin_of(asked, repeats=2, head_transforms=True, relative_position=True)
    with torch.no_grad():
        for first, second in ((0, 1), (2, 3)):
            for part in ("attn", "mlp"):
                state = getattr(asked.blocks[first], part).state_dict()
                getattr(asked.blocks[second], part).load_state_dict(state)

    assert torch.allclose(twin(pictures), asked(pictures), atol=1e-5)


def test_local_blocks_take_the_content_attention(asked, pictures):
    twin = twin_of(asked, local_blocks=2)
    away = torch.allclose(twin(pictures), asked(pictures), atol=1e-3)
    with torch.no_grad():
        for block in twin.blocks[:2]:
            block.attn.gating.fill_(-100)

    assert not away
    assert torch.allclose(twin(pictures), asked(pictures), atol=1e-5)


def test_a_lift_norms_all_tokens_before_it():
    arguments = {**BASE, "global_pool": "avg"}
    asked = scattered(timm.create_model("vit_tiny_patch16_224", **arguments))
    name, full = flexible_twin("vit_tiny_patch16_224", arguments, lift_width=48)
    twin = timm.create_model(name, **full)
    load_strictly(twin, adapt_state(asked.state_dict(), twin), name=name)

    assert torch.equal(twin.norm.weight, asked.fc_norm.weight)
    assert isinstance(twin.fc_norm, torch.nn.Identity)


def test_weights_of_the_same_form_stay_as_they_are(asked):
    twin = scattered(twin_of(asked, distillation_tokens=2, repeats=2, head_transforms=True))
    other = timm.create_model("potstill_vit", **BASE, distillation_tokens=2, repeats=2, head_transforms=True)

    assert all(torch.equal(a, b) for a, b in zip(
        adapt_state(twin.state_dict(), other).values(), twin.state_dict().values(), strict=True
    ))  # fmt: skip


def test_a_flexible_vit_keeps_its_form_and_takes_more():
    arguments = {**BASE, "repeats": 2}

    assert flexible_twin("potstill_vit", arguments, lift_width=8) == (
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
def test_what_cannot_be_expressed_is_refused_with_a_fix(architecture, more, words):
    with pytest.raises(InvalidSpec, match=words) as raised:
        flexible_twin(architecture, {"num_classes": 5, "in_chans": 3, **more})

    assert raised.value.errors[0].pointer == "/student/architecture"


def test_a_form_that_does_not_go_with_the_student_is_refused():
    with pytest.raises(InvalidSpec, match="not a multiple of repeats 3") as raised:
        flexible_twin("vit_tiny_patch16_224", BASE, repeats=3)

    assert raised.value.errors[0].pointer == "/student/architecture"


def test_the_catalogue_lists_it_as_a_transformer():
    entry = catalog.info("potstill_vit", count_parameters=True)

    assert "potstill_vit" in catalog.names()
    assert entry.to_json() == {
        "name": "potstill_vit", "family": "transformer", "input_size": [3, 224, 224], "fixed_input_size": True,
        "parameters": 5_717_416, "pretrained": False, "pretrained_tags": [],
    }  # fmt: skip
    assert catalog.takes_image_size("potstill_vit")


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_stored_form_is_opened_as_it_was(form, tmp_path, pictures):
    arguments = {**BASE, **form}
    module = scattered(timm.create_model("potstill_vit", **arguments, drop_path_rate=0.1))
    save_folder(
        module, tmp_path, architecture="potstill_vit", arguments={**arguments, "drop_path_rate": 0.1},
        preprocessing=plain_preprocessing(image_size=8, channels=3), classes=list("abcde"),
    )  # fmt: skip
    built = load_folder(tmp_path)
    by_timm = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    for_seven = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7).eval()

    assert built.arguments == arguments
    assert torch.equal(built.module(pictures), module(pictures))
    assert torch.equal(by_timm(pictures), module(pictures))
    assert for_seven(pictures).shape == (3, 7)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_meta_device_knows_its_weights(form):
    arguments = {**BASE, **form}
    meta, real = build_on_meta("potstill_vit", arguments), timm.create_model("potstill_vit", **arguments)

    assert differences({name: tuple(w.shape) for name, w in meta.state_dict().items()}, real) == ""
    assert count_parameters(meta) == count_parameters(real)
    assert meta(torch.empty(2, 3, 8, 8, device="meta")).shape == (2, 5)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_onnx_answers_as_torch_does(form, tmp_path):
    arguments = {**BASE, **form}
    module = scattered(timm.create_model("potstill_vit", **arguments))
    student = BuiltModel(module, "potstill_vit", arguments, plain_preprocessing(image_size=8, channels=3))
    samples = np.random.default_rng(0).integers(0, 256, (8, 3, 8, 8), dtype=np.uint8)

    assert export_onnx(student, tmp_path / "model.onnx", samples_NCHW=samples, classes=None) < 1e-4
