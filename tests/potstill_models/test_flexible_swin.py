import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

import potstill_models  # noqa: F401 - the name under test

ROOT = Path(__file__).resolve().parents[2]
PLAIN = {
    "img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 24, "depths": [2, 4], "num_heads": [2, 4],
    "num_classes": 5,
}  # fmt: skip
SHARED = {"repeats": 2, "head_transforms": True, "local_convolution": True}
OPTIONS = {
    "plain": {},
    "repeats": {"repeats": 4},
    "multiplexed": SHARED,
    "not shared": {"head_transforms": True, "local_convolution": True},
    "without biases, padded": {
        **SHARED, "qkv_bias": False, "img_size": 20, "head_dim": 8, "mlp_ratio": [2.0, 3.0],
        "window_size": [[4, 4], [3, 3]],
    },
    "always partitioned": {**SHARED, "always_partition": True, "window_size": 7},
    "any size": {**SHARED, "dynamic_img_size": True},
}  # fmt: skip


def build(**arguments):
    torch.manual_seed(0)
    return timm.create_model("potstill_swin", **{**PLAIN, **arguments}).eval()


def images_for(model, count=2):
    return torch.randn(count, 3, *model.patch_embed.img_size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=OPTIONS, ids=str)
def model(request):
    """A tiny Swin with one set of options."""
    return build(**OPTIONS[request.param])


def test_default_options_give_timms_swin_bit_for_bit():
    plain = build()
    torch.manual_seed(0)
    timms = timm.create_model("swin_tiny_patch4_window7_224", **PLAIN).eval()
    images = images_for(plain)

    assert list(plain.state_dict()) == list(timms.state_dict())
    assert torch.equal(plain(images), timms(images))


def test_all_parameters_have_gradients(model):
    logits = model.train()(images_for(model))
    logits.square().sum().backward()

    assert logits.shape == (2, 5)
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_intermediates_have_one_map_per_stage(model):
    images = images_for(model)
    final, maps = model.forward_intermediates(images)
    side = images.shape[-1] // 2

    assert [m.shape for m in maps] == [(2, 24, side, side), (2, 48, side // 2, side // 2)]
    assert torch.allclose(final, model.forward_features(images), atol=1e-6)
    assert torch.allclose(model.forward_head(final), model(images), atol=1e-6)


def test_gradient_checkpointing_and_reset_of_the_classifier(model):
    images = images_for(model)
    usual = model.train()(images)
    model.set_grad_checkpointing(True)
    checkpointed = model(images)
    model.reset_classifier(7)

    assert torch.allclose(usual, checkpointed, atol=1e-6)
    assert model.eval()(images).shape == (2, 7)


@pytest.mark.parametrize("options", ["multiplexed", "without biases, padded"])
def test_shared_blocks_can_be_exported_for_any_batch_size(options):
    model = build(**OPTIONS[options])
    batch = torch.export.Dim("batch", min=1, max=64)
    traced = torch.export.export(model, (images_for(model),), dynamic_shapes=({0: batch},)).module()
    others = images_for(model, count=3)

    assert torch.allclose(traced(others), model(others), atol=1e-5)


def test_blocks_are_stored_once():
    names = set(build(**SHARED).state_dict())

    for shared in ("attn.qkv.weight", "attn.relative_position_bias_table", "mlp.fc1.weight"):
        assert sum(name.endswith(shared) for name in names) == 3
    for own in ("norm1.weight", "norm2.weight", "conv_l.bias", "conv_w.weight", "local.norm.bias", "local.conv.weight"):
        assert sum(name.endswith(own) for name in names) == 6


def test_transforms_are_initialized_as_in_the_authors_code():
    mixing = build(**SHARED, num_heads=[12, 12]).layers[1].blocks[0].runs[0].mixing

    assert 0.01 < mixing.conv_l.weight.std() < 0.03
    assert torch.equal(mixing.conv_w.bias, torch.zeros(12))


def test_drop_path_grows_over_the_runs_and_is_off_by_default():
    def rates(model):
        runs = [run for stage in model.layers for block in stage.blocks for run in block.runs]
        return [getattr(run.drop_path2, "drop_prob", 0.0) for run in runs]

    assert rates(build(repeats=2, drop_path_rate=0.5)) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert rates(build(repeats=2)) == [0] * 6
    assert not any("DropPath" in type(part).__name__ for part in build().modules())


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch about timm's interpolation of the tables
def test_another_input_size_scales_the_windows():
    model = build(**SHARED)
    model.set_input_size((64, 64))

    assert [stage.blocks[0].window_size for stage in model.layers] == [(8, 8), (8, 8)]
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


def test_features_only_removes_unused_stages():
    model = timm.create_model("potstill_swin", features_only=True, out_indices=[0], **PLAIN, **SHARED)

    assert [m.shape for m in model(torch.zeros(2, 3, 32, 32))] == [(2, 16, 16, 24)]


def test_position_tables_have_no_weight_decay():
    assert len(build(**SHARED).no_weight_decay()) == 3


def test_half_precision_runs():
    model = build(**SHARED)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(images_for(model))

    assert torch.allclose(logits.float(), model(images_for(model)), atol=0.1)


@pytest.mark.parametrize("name", ["norm_layer", "embed_layer", "distillation_tokens", "nonsense"])
def test_unknown_arguments_are_refused(name):
    with pytest.raises(TypeError, match=name):
        build(**{name: 1})


def test_num_heads_has_one_entry_per_stage():
    with pytest.raises(ValueError, match="num_heads has 1 entries, and there are 2 stages"):
        build(num_heads=[2])


@pytest.mark.slow
def test_timm_loads_a_saved_model_in_a_separate_process(tmp_path):
    from safetensors.torch import save_file

    model = build(**SHARED)
    images = images_for(model)
    config = {
        "architecture": "potstill_swin", "num_classes": 5, "num_features": model.num_features, "global_pool": "avg",
        "model_args": {**PLAIN, **SHARED}, "pretrained_cfg": {"input_size": [3, 32, 32], "num_classes": 5},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    save_file({"images": images, "logits": model(images).detach()}, tmp_path / "expected.st")
    code = (
        "import sys, potstill_models, timm, torch; from safetensors.torch import load_file\n"
        "model = timm.create_model(f'local-dir:{sys.argv[1]}', pretrained=True).eval()\n"
        "expected = load_file(sys.argv[1] + '/expected.st')\n"
        "assert torch.allclose(model(expected['images']), expected['logits'], atol=1e-6)\n"
        "assert not {name.partition('.')[0] for name in sys.modules} & {'core', 'api', 'worker', 'server'}"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)

    assert run.returncode == 0, run.stderr
