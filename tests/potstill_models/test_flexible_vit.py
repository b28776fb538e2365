import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from timm.optim import param_groups_weight_decay

ROOT = Path(__file__).resolve().parents[2]


def images_for(arguments, count=2):
    return torch.randn(count, 3, arguments["img_size"], arguments["img_size"])


def test_default_options_give_timms_vit_bit_for_bit(build, images):
    plain = build(init_values=0.1, qk_norm=True)
    torch.manual_seed(0)
    timms = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=32, depth=4, num_heads=4, num_classes=5,
        init_values=0.1, qk_norm=True,
    ).eval()  # fmt: skip

    assert list(plain.state_dict()) == list(timms.state_dict())
    assert torch.equal(plain(images), timms(images))


def test_all_parameters_have_gradients(options):
    torch.manual_seed(0)
    model = timm.create_model("potstill_vit", **options, drop_path_rate=0.0)
    model.set_distilled_training(True)
    logits = model.train()(images_for(options))
    logits = logits if isinstance(logits, tuple) else (logits,)
    sum(logit.square().sum() for logit in logits).backward()

    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    assert len(logits) == 1 + options.get("distillation_tokens", 0)
    assert all(logit.shape == (2, 5) for logit in logits)


def test_intermediates_have_one_map_per_run(options):
    model = timm.create_model("potstill_vit", **options).eval()
    images = images_for(options)
    maps = model.forward_intermediates(images, intermediates_only=True)
    features, chosen = model.forward_intermediates(images, indices=[1, 3], output_fmt="NLC")
    side = options["img_size"] // options["patch_size"]

    assert len(maps) == 4
    assert all(m.shape[2:] == (side, side) for m in maps)
    assert torch.equal(chosen[0].transpose(1, 2).reshape(maps[1].shape), maps[1])
    assert torch.allclose(features, model.forward_features(images), atol=1e-6)
    assert torch.allclose(model.forward_head(features), model(images), atol=1e-6)
    assert features.shape[-1] == model.num_features == model.forward_head(features, pre_logits=True).shape[-1]


def test_a_map_is_the_output_of_its_run(build, images):
    model = build(repeats=2, head_transforms=True)
    seen = {}
    named = dict(model.named_modules())
    for info in model.feature_info:
        named[info["module"]].register_forward_hook(lambda _, __, out, name=info["module"]: seen.update({name: out}))
    maps = model.forward_intermediates(images, output_fmt="NLC", intermediates_only=True)
    by_hook = [seen[info["module"]][:, 1:] for info in model.feature_info]
    model(images)

    assert list(seen) == ["blocks.0.runs.0", "blocks.0.runs.1", "blocks.1.runs.0", "blocks.1.runs.1"]
    for m, hooked, info in zip(maps, by_hook, model.feature_info, strict=True):
        assert torch.equal(m, hooked)
        assert torch.equal(m, seen[info["module"]][:, 1:])


def test_gradient_checkpointing_and_reset_of_the_classifier(options):
    torch.manual_seed(0)
    model = timm.create_model("potstill_vit", **options)
    images = images_for(options)
    model.train()
    usual = model(images)
    model.set_grad_checkpointing(True)
    checkpointed = model(images)
    model.reset_classifier(7)

    assert torch.allclose(usual, checkpointed, atol=1e-6)
    assert model.eval()(images).shape == (2, 7)


@pytest.mark.parametrize("options", ["multiplexed", "cut", "local"], indirect=True)
def test_each_type_of_block_can_be_exported_for_any_batch_size(options):
    model = timm.create_model("potstill_vit", **options).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    traced = torch.export.export(model, (images_for(options),), dynamic_shapes=({0: batch},)).module()
    others = images_for(options, count=3)

    assert torch.allclose(traced(others), model(others), atol=1e-5)


def test_unfused_attention_computes_the_same(options):
    model = timm.create_model("potstill_vit", **options).eval()
    images = images_for(options)
    fused = model(images)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False

    assert torch.allclose(model(images), fused, atol=1e-5)


def test_evaluation_mode_returns_the_mean_of_all_heads(build, images):
    model = build(distillation_tokens=2)
    heads = (model.head, *model.heads_dist)
    tokens = model.forward_features(images)
    expected = sum(head(tokens[:, index]) for index, head in enumerate(heads)) / 3

    assert torch.allclose(model(images), expected, atol=1e-6)
    assert model.get_classifier() == heads
    assert model.num_prefix_tokens == 3


def test_the_patches_vote_with_the_last_distillation_head(build, images):
    model = build(distillation_tokens=1, patch_vote=True)
    tokens = model.forward_features(images)
    votes = [
        model.head(tokens[:, 0]),
        model.heads_dist[0](tokens[:, 1]),
        model.heads_dist[0](tokens[:, 2:]).mean(dim=1),
    ]

    assert torch.allclose(model(images), sum(votes) / 3, atol=1e-6)
    model.train().set_distilled_training(True)
    assert len(model(images)) == 2  # one for each token


def test_each_token_changes_only_its_own_logits(build, images):
    model = build(distillation_tokens=2).train()
    model.set_distilled_training(True)
    before = model(images)
    with torch.no_grad():
        model.heads_dist[1].bias += 1
    after = model(images)

    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert torch.allclose(before[2] + 1, after[2])


def test_tokens_of_the_two_stems_are_their_means(build, images):
    model = build(distillation_tokens=2, stem="co_advise")
    tokens = model.patch_embed(images)
    convolved, involved = (
        stem(images).flatten(2).mean(2) for stem in (model.patch_embed.conv, model.patch_embed.involution)
    )

    assert model.dist_token is None
    assert tokens.shape == (3, 2 + 16, 32)
    assert torch.allclose(tokens[:, 0], convolved, atol=1e-6)
    assert torch.allclose(tokens[:, 1], involved, atol=1e-6)
    assert torch.allclose(tokens[:, 2:].mean(1), convolved + involved, atol=1e-6)


def test_the_token_of_a_convolutional_stem_is_the_mean_of_its_patches(build, images):
    model, without = build(distillation_tokens=1, stem="conv"), build(stem="conv")
    tokens = model.patch_embed(images)

    assert model.dist_token is None
    assert tokens.shape == (3, 1 + 16, 32)
    assert torch.equal(tokens[:, 1:], without.patch_embed(images))
    assert torch.allclose(tokens[:, 0], tokens[:, 1:].mean(1), atol=1e-6)


def test_a_lift_projects_all_tokens_before_the_head(build, images):
    model = build(lift_width=48)
    tokens = model.forward_features(images)

    assert tokens.shape == (3, 17, 48)
    assert torch.allclose(model(images), model.head(tokens[:, 0]))


def test_norm_and_head_have_the_width_of_a_wide_last_block(build, images):
    model = build(wide_last=48)

    assert model.blocks[2].mlp.fc2.out_features == 32
    assert model.blocks[3].widen.weight.shape == (48, 32)
    assert model.blocks[3].attn.num_heads == 6
    assert model.norm.weight.shape == (48,)
    assert model.forward_features(images).shape == (3, 17, 48)


def test_tokens_have_no_weight_decay_and_layers_are_grouped(build):
    model = build(distillation_tokens=1, lift_width=8)
    no_decay, _ = param_groups_weight_decay(model, no_weight_decay_list=model.no_weight_decay())
    ids = {id(weight) for weight in no_decay["params"]}

    assert id(model.dist_token) in ids
    assert id(model.pos_embed) in ids
    assert id(model.lift.weight) not in ids
    assert set(model.group_matcher()) == {"stem", "blocks"}


def test_features_only_removes_unused_blocks(images):
    model = timm.create_model(
        "potstill_vit", features_only=True, out_indices=[0, 2], img_size=16, patch_size=4, embed_dim=32, depth=6,
        num_heads=4, repeats=2,
    )  # fmt: skip

    assert [m.shape for m in model(images)] == [(3, 32, 4, 4)] * 2
    assert len(model.model.blocks) == 2


def test_drop_path_grows_over_the_runs(build):
    model = build(repeats=2, drop_path_rate=0.3)
    rates = [getattr(run.drop_path1, "drop_prob", 0.0) for block in model.blocks for run in block.runs]

    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("name", ["reg_tokens", "block_fn", "dynamic_img_size", "nonsense"])
def test_unknown_arguments_are_refused(name, build):
    with pytest.raises(TypeError, match=name):
        build(**{name: 1})


@pytest.mark.parametrize("size", [[16, 8], 0, [16, 16, 16]])
def test_images_are_square(size, build):
    with pytest.raises(ValueError, match="square"):
        build(img_size=size)


def test_options_that_depend_on_the_grid_fix_the_input_size(build):
    with pytest.raises(ValueError, match="fix the input size"):
        build(local_blocks=1).set_input_size(32)

    model = build(distillation_tokens=2)
    model.set_input_size((32, 32))
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


@pytest.mark.slow
def test_timm_loads_a_saved_model_in_a_separate_process(tmp_path, build, images):
    from safetensors.torch import save_file

    arguments = {"repeats": 2, "head_transforms": True, "distillation_tokens": 2, "lift_width": 24}
    model = build(**arguments)
    full = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 4, **arguments}
    config = {
        "architecture": "potstill_vit", "num_classes": 5, "num_features": model.num_features, "global_pool": "token",
        "model_args": {**full, "num_classes": 5}, "pretrained_cfg": {"input_size": [3, 16, 16], "num_classes": 5},
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
