import hashlib
import json
import re

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from core.errors import InvalidSpec, UnsupportedMedia, WeightsMismatch
from core.models.distilled_vit import to_distilled_vit
from core.models.preprocessing import Preprocessing, plain_preprocessing
from core.models.safetensors_header import read_model_info
from core.models.upload import check_upload
from core.models.weights import load_folder, save_folder
from core.spec.info import Normalization

VIT = "vit_tiny_patch16_224"
CLASSES = ("cat", "dog", "é")


def saved(folder, architecture, arguments, *, size=8, classes=CLASSES):
    module = timm.create_model(architecture, **arguments).eval()
    preprocessing = plain_preprocessing(image_size=size, channels=arguments["in_chans"])
    save_folder(
        module, folder, architecture=architecture, arguments=arguments, preprocessing=preprocessing, classes=classes
    )
    return module


@pytest.fixture
def arguments(tiny_vit):
    return {**tiny_vit, "img_size": 8, "num_classes": 3, "in_chans": 1}


@pytest.mark.parametrize("kind", ["vit", "distilled", "cnn"])
def test_timm_loads_the_folder(tmp_path, arguments, kind):
    architecture = VIT
    if kind == "distilled":
        architecture, arguments = to_distilled_vit(VIT, arguments)
    if kind == "cnn":
        architecture, arguments = "resnet18", {"num_classes": 3, "in_chans": 1}
    module = saved(tmp_path, architecture, arguments)
    opened = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(2, *opened.pretrained_cfg["input_size"])

    assert opened.pretrained_cfg["input_size"] == (1, 8, 8)
    assert torch.equal(module(images), opened(images))
    assert read_model_info(tmp_path).parameters == sum(p.numel() for p in opened.parameters())
    assert opened.pretrained_cfg["label_names"] == list(CLASSES)


def test_a_folder_is_loaded_with_preprocessing_and_classes(tmp_path, arguments):
    module = saved(tmp_path, VIT, arguments)
    torch.manual_seed(3)
    built = load_folder(tmp_path)
    drawn = torch.rand(1)
    torch.manual_seed(3)

    assert torch.equal(drawn, torch.rand(1))  # the caller's random state is untouched
    assert built.architecture == VIT
    assert built.arguments == arguments
    assert built.classes == CLASSES
    assert not built.module.training
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), built.module.parameters(), strict=True))


def test_equal_weights_give_equal_files(tmp_path, arguments):
    for name in "ab":
        torch.manual_seed(0)
        saved(tmp_path / name, VIT, arguments)
    digests = [
        {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted((tmp_path / name).iterdir())}
        for name in "ab"
    ]

    assert digests[0] == digests[1]
    assert list(digests[0]) == ["config.json", "model.safetensors"]


def test_drop_path_rate_is_not_in_the_config(tmp_path, arguments):
    saved(tmp_path, VIT, {**arguments, "drop_path_rate": 0.1})

    assert json.loads((tmp_path / "config.json").read_text())["model_args"] == arguments


def test_info_is_read_without_loading_weights(tmp_path, arguments):
    saved(tmp_path, VIT, arguments)
    facts = read_model_info(tmp_path)

    assert (facts.architecture, facts.arguments, facts.num_classes) == (VIT, arguments, 3)
    assert (facts.channels, facts.image_size, facts.classes) == (1, 8, CLASSES)
    assert facts.normalization == Normalization(mean=(0.5,), std=(0.5,))
    assert facts.size_bytes == (tmp_path / "model.safetensors").stat().st_size


def test_weights_that_do_not_fit_list_the_first_differences(tmp_path, arguments):
    saved(tmp_path, VIT, arguments)
    state = load_file(tmp_path / "model.safetensors")
    state["head.weight"] = torch.zeros(4, 32)
    state["extra"] = state.pop("cls_token")
    save_file(state, tmp_path / "model.safetensors")

    with pytest.raises(WeightsMismatch, match=r"missing: cls_token; not in the model: extra; of another shape: head"):
        load_folder(tmp_path)


@pytest.fixture
def upload(tmp_path):
    def write(state=None, architecture=VIT, **arguments):
        module = timm.create_model(architecture, **arguments)
        save_file(module.state_dict() if state is None else state(module.state_dict()), tmp_path / "up.safetensors")
        return module.eval()

    return write


def checked(tmp_path, architecture=VIT, *, normalization=None, classes=None, **arguments):
    return check_upload(
        tmp_path / "up.safetensors",
        architecture,
        arguments,
        normalization=normalization,
        classes=classes,
        out_folder=tmp_path / "model",
    )


def test_an_upload_is_stored_as_a_model(tmp_path, upload, tiny_vit):
    module = upload(**tiny_vit, img_size=16, num_classes=3)
    statistics = Normalization(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    facts = checked(tmp_path, **tiny_vit, img_size=16, num_classes=3, normalization=statistics, classes=CLASSES)
    built = load_folder(tmp_path / "model")

    assert facts == read_model_info(tmp_path / "model").model_copy(update={"normalization_source": "request"})
    assert facts.warnings == ()
    assert (facts.image_size, facts.channels, facts.num_classes, facts.classes) == (16, 3, 3, CLASSES)
    assert built.preprocessing == Preprocessing(16, 3, statistics.mean, statistics.std)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(module(images), built.module(images))


def test_an_uploaded_cnn_runs_at_the_size_of_the_job(tmp_path, upload):
    upload(architecture="resnet18", num_classes=3)
    facts = checked(tmp_path, "resnet18", num_classes=3)

    assert facts.image_size is None
    assert load_folder(tmp_path / "model", image_size=32).preprocessing.image_size == 32
    assert facts.normalization.mean == pytest.approx((0.485, 0.456, 0.406))


def test_half_precision_weights_are_converted_to_float32(tmp_path, upload, tiny_vit):
    upload(lambda state: {n: t.half() for n, t in state.items()}, **tiny_vit, img_size=8, num_classes=3)
    checked(tmp_path, **tiny_vit, img_size=8, num_classes=3)

    assert {t.dtype for t in load_file(tmp_path / "model" / "model.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "more", "error", "words"),
    [
        (None, {"depth": 3}, WeightsMismatch, r"missing: blocks\.2"),
        (None, {"depth": 1}, WeightsMismatch, r"not in the model: blocks\.1"),
        (None, {"num_classes": 7}, WeightsMismatch, r"head.bias is \[3\], should be \[7\]"),
        (lambda s: {**s, "head.bias": s["head.bias"] + float("nan")}, {}, WeightsMismatch, r"NaN.*head\.bias"),
        (lambda s: {**s, "head.bias": s["head.bias"] + float("inf")}, {}, WeightsMismatch, "infinity"),
        (None, {"embed_dim": 33}, InvalidSpec, "divisible"),
        (None, {"features_only": True}, InvalidSpec, "features_only"),
        (None, {"classes": ("a", "b")}, WeightsMismatch, "2 class names are given and the model has 3"),
        (None, {"normalization": Normalization(mean=(0.1, 0.2), std=(1.0, 1.0))}, WeightsMismatch, "channels"),
    ],
)
def test_an_upload_that_does_not_fit_is_refused_with_the_reason(tmp_path, upload, tiny_vit, change, more, error, words):
    upload(change, **tiny_vit, img_size=8, num_classes=3)
    with pytest.raises(error, match=words):
        checked(tmp_path, **{**tiny_vit, "img_size": 8, "num_classes": 3, **more})

    assert not (tmp_path / "model").exists()


def wrapped(prefix):
    return lambda state: {f"{prefix}{name}": tensor.clone() for name, tensor in state.items()}


def compiled_blocks(state):
    """As torch.compile of the single blocks names them."""
    return {re.sub(r"^(blocks\.\d+)\.", r"\1._orig_mod.", name): tensor for name, tensor in state.items()}


def backbone_and_head(state):
    return {name if name.startswith("head") else f"backbone.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("change", "prefix"),
    [
        (wrapped("module."), "`module.`"),
        (wrapped("_orig_mod."), "`_orig_mod.`"),
        (wrapped("model."), "`model.`"),
        (wrapped("backbone."), "`backbone.`"),
        (wrapped("student."), "`student.`"),
        (wrapped("module._orig_mod.model.backbone."), "`module._orig_mod.model.backbone.`"),
        (compiled_blocks, "_orig_mod."),
        (backbone_and_head, "`backbone.`"),
        (lambda state: {**wrapped("module.")(state), "n_averaged": torch.tensor(3)}, "`module.`"),  # AveragedModel
    ],
)
def test_prefixes_of_training_wrappers_are_removed_and_reported(tmp_path, upload, tiny_vit, change, prefix):
    module = upload(change, **tiny_vit, img_size=8, num_classes=3)
    facts = checked(tmp_path, **tiny_vit, img_size=8, num_classes=3)
    built = load_folder(tmp_path / "model")

    assert prefix in next(w.message for w in facts.warnings if w.code == "names_changed")
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(module(images), built.module(images))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {**wrapped("student.")(s), **wrapped("teacher.")(s)}, r"several models \(student\. and teacher\.\)"),
        (
            lambda s: {**wrapped("model.")(s), "criterion.center": torch.zeros(1, 3)},
            r"holds more: criterion\.center; save",
        ),
        (
            lambda s: {f"vit.encoder.layer.0.attention.{n}": t for n, t in s.items()},
            "names of Hugging Face transformers",
        ),
    ],
)
def test_names_that_do_not_fit_are_explained(tmp_path, upload, tiny_vit, change, words):
    upload(change, **tiny_vit, img_size=8, num_classes=3)

    with pytest.raises(WeightsMismatch, match=words):
        checked(tmp_path, **tiny_vit, img_size=8, num_classes=3)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"num_classes": 37}, r"head.weight has 37 rows: set arguments.num_classes to 37\. With this they fit"),
        ({"num_classes": 0}, r"no head: set arguments.num_classes to 0\. With this they fit"),
        ({"in_chans": 1}, r"1 input channels: set arguments.in_chans to 1\. With this they fit"),
        ({"img_size": 16}, r"pos_embed has 65 tokens at a patch size of 2: set arguments.img_size to 16\. With this"),
        ({"patch_size": 4, "img_size": 32}, r"arguments.patch_size to 4; .*arguments.img_size to 32\. With these they"),
        ({"depth": 3}, r"3 blocks: set arguments.depth to 3\. With this they fit"),
        ({"embed_dim": 64}, r"arguments.embed_dim to 64\. With this they fit"),
        ({"mlp_ratio": 2}, r"arguments.mlp_ratio to 2.0\. With this they fit"),
        ({"qkv_bias": False}, r"arguments.qkv_bias to false\. With this they fit"),
        ({"global_pool": "avg"}, r"arguments.global_pool to avg\. With this they fit"),
        ({"reg_tokens": 2}, r"arguments.reg_tokens to 2"),
        ({"num_classes": 5, "in_chans": 1}, r"in_chans to 1; .*num_classes to 5\. With these they fit"),
    ],
)
def test_shapes_that_do_not_fit_name_the_arguments_that_explain_them(tmp_path, upload, tiny_vit, made, words):
    arguments = {**tiny_vit, "img_size": 8, "num_classes": 3}
    upload(**{**arguments, **made})

    with pytest.raises(WeightsMismatch, match=words):
        checked(tmp_path, **arguments)


def test_the_depths_of_a_swin_are_explained(tmp_path, upload):
    swin = "swin_tiny_patch4_window7_224"
    arguments = {
        "embed_dim": 12,
        "num_heads": [1, 1],
        "window_size": 2,
        "patch_size": 2,
        "img_size": 16,
        "num_classes": 3,
    }
    upload(architecture=swin, **arguments, depths=[1, 2])

    with pytest.raises(WeightsMismatch, match=r"set arguments.depths to \[1, 2\]\. With this they fit"):
        checked(tmp_path, swin, **arguments, depths=[2, 2])


def test_counters_of_batch_norms_may_be_missing(tmp_path, upload):
    module = upload(
        lambda s: {n: t for n, t in s.items() if "num_batches" not in n}, architecture="resnet18", num_classes=3
    )
    checked(tmp_path, "resnet18", num_classes=3)

    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(module(images), load_folder(tmp_path / "model", image_size=32).module(images))


@pytest.mark.parametrize(
    ("architecture", "num_classes", "mean"),
    [("vit_tiny_patch16_224", 1000, 0.5), ("test_vit.r160_in1k", 1000, 0.5), ("resnet18.tv_in1k", 1000, 0.485)],
)
def test_a_tag_gives_classes_size_and_normalization(tmp_path, upload, architecture, num_classes, mean):
    upload(architecture=architecture)
    facts = checked(tmp_path, architecture)
    [warning] = facts.warnings

    assert (facts.num_classes, facts.normalization.mean[0]) == (num_classes, mean)
    assert facts.normalization_source == "architecture"
    assert warning.code == "normalization_assumed"
    assert architecture in warning.message


def test_a_tags_own_classes_and_statistics_are_used(tmp_path, upload):
    upload(architecture="vit_tiny_patch16_224.augreg_in21k", depth=1)
    facts = checked(tmp_path, "vit_tiny_patch16_224_in21k", depth=1)

    assert (facts.architecture, facts.num_classes) == ("vit_tiny_patch16_224", 21843)


def test_a_pickle_is_refused_before_a_model_is_built(tmp_path):
    (tmp_path / "up.safetensors").write_bytes(b"\x80\x04\x95" + b"0" * 64)

    with pytest.raises(UnsupportedMedia, match="pickle"):
        checked(tmp_path)


def test_a_huge_model_is_refused_by_its_header(tmp_path, upload, tiny_vit):
    upload(**tiny_vit, img_size=8, num_classes=3)

    with pytest.raises(WeightsMismatch, match="do not fit"):
        checked(tmp_path, embed_dim=65536, depth=200, num_heads=1)
