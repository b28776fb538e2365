"""The last stage of a network, run alone."""

import pytest
import timm
import torch

from core.models.last_stage import last_stage_input, run_last_stage, stage_levels
from core.models.structure import FeatureLevel, inspect_structure
from core.models.taps import FeatureRequest, run_tapped

SIZE = 32
BASE = {"num_classes": 4, "in_chans": 1}
SWIN = {
    "img_size": SIZE,
    "patch_size": 2,
    "window_size": 4,
    "embed_dim": 8,
    "depths": [1, 1, 2],
    "num_heads": [1, 2, 2],
}
VIT = {"img_size": SIZE, "patch_size": 8, "embed_dim": 16, "num_heads": 2, "depth": 6}
NO_TOKEN = {"class_token": False, "global_pool": "avg"}
CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}
RESNET = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
NETWORKS = {
    "swin": ("swin_tiny_patch4_window7_224", SWIN),
    "swin v2": ("swinv2_tiny_window8_256", SWIN),
    "shared swin": ("potstill_swin", {**SWIN, "repeats": 2, "head_transforms": True}),
    "convnext": ("convnext_atto", CONVNEXT),
    "resnet": ("resnet10t", RESNET),
    "regnet": ("regnetx_002", {}),
    "vit": ("vit_tiny_patch16_224", {**VIT, **NO_TOKEN, "fc_norm": False}),
    "vit, pooled norm": ("vit_tiny_patch16_224", {**VIT, **NO_TOKEN}),
    "flexible vit": ("potstill_vit", {**VIT, **NO_TOKEN, "fc_norm": False, "lift_width": 20, "repeats": 2}),
}


def built(name, **more):
    architecture, arguments = NETWORKS[name]
    arguments = {**BASE, **arguments, **more}
    torch.manual_seed(0)
    module = timm.create_model(architecture, **arguments).eval()
    return module, inspect_structure(architecture, arguments, SIZE), arguments


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_the_last_stage_turns_the_features_before_it_into_the_last_ones(name):
    module, structure, arguments = built(name)
    previous, _ = stage_levels(structure)
    outputs = run_tapped(module, torch.rand(2, 1, SIZE, SIZE), FeatureRequest(levels=(previous,), last=True))

    level = last_stage_input(structure, arguments)
    last = run_last_stage(module, outputs.levels[previous].map)

    assert level == structure.levels[previous]
    torch.testing.assert_close(last, outputs.last.map)


@torch.no_grad()
def test_a_vit_runs_its_last_quarter_on_patch_tokens():
    module, structure, arguments = built("vit", class_token=True, global_pool="token")
    features = torch.randn(2, 16, 4, 4)
    tokens = module.norm(module.blocks[5](features.flatten(2).mT))

    assert last_stage_input(structure, arguments) == FeatureLevel(16, (4, 4))
    torch.testing.assert_close(run_last_stage(module, features), tokens.mT.reshape(2, 16, 4, 4))


def test_gradients_pass_through_a_frozen_stage():
    module, structure, _ = built("swin")
    module.requires_grad_(False)
    level = structure.levels[stage_levels(structure)[0]]
    features = torch.randn(2, level.width, *level.grid, requires_grad=True)

    run_last_stage(module, features).sum().backward()

    assert features.grad.abs().sum() > 0


@pytest.mark.parametrize(("depth", "levels"), [(12, (8, 11)), (24, (17, 23)), (6, (4, 5)), (4, (2, 3)), (1, (0, 0))])
def test_a_vit_has_four_stages_of_a_quarter_of_its_blocks(depth, levels):
    arguments = {**BASE, **VIT, "depth": depth}

    assert stage_levels(inspect_structure("vit_tiny_patch16_224", arguments, SIZE)) == levels


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("vit_tiny_patch16_224", {**VIT, "depth": 1}),
        ("mobilenetv3_small_050", {}),
        ("potstill_vit", {**VIT, "relative_position": True}),
    ],
)
def test_a_stage_that_cannot_run_alone_has_no_input(architecture, arguments):
    arguments = {**BASE, **arguments}

    assert last_stage_input(inspect_structure(architecture, arguments, SIZE), arguments) is None


def test_an_unknown_network_is_rejected():
    with pytest.raises(TypeError, match="the last stage of a Linear is not known"):
        run_last_stage(torch.nn.Linear(2, 2), torch.zeros(1, 2, 2, 2))
