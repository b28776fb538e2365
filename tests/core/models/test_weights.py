import hashlib
import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from core.errors import InvalidSpec, UnsupportedMedia, WeightsMismatch
from core.models.distilled_vit import to_distilled_vit
from core.models.preprocessing import Preprocessing, plain_preprocessing
from core.models.safetensors_header import read_model_info
from core.models.weights import check_upload, load_folder, save_folder
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

    assert facts == read_model_info(tmp_path / "model")
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


def test_a_pickle_is_refused_before_a_model_is_built(tmp_path):
    (tmp_path / "up.safetensors").write_bytes(b"\x80\x04\x95" + b"0" * 64)

    with pytest.raises(UnsupportedMedia, match="pickle"):
        checked(tmp_path)


def test_a_huge_model_is_refused_by_its_header(tmp_path, upload, tiny_vit):
    upload(**tiny_vit, img_size=8, num_classes=3)

    with pytest.raises(WeightsMismatch, match="do not fit"):
        checked(tmp_path, embed_dim=65536, depth=200, num_heads=1)
