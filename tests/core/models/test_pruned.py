"""Pruned ViTs: FLOPs, importance, and equality with the full model with zeros."""

import pytest
import timm
import torch

from core.evaluate.flops import count_flops
from core.models.built import BuiltModel
from core.models.preprocessing import plain_preprocessing
from core.models.pruned import PrunedBlock, VitSize, prune, squared_column_norms

ARGUMENTS = {
    "img_size": 8,
    "patch_size": 4,
    "in_chans": 1,
    "num_classes": 3,
    "embed_dim": 12,
    "depth": 3,
    "num_heads": 3,
    "mlp_ratio": 2.0,
    "qk_norm": True,
    "init_values": 0.5,
}
KEPT = (
    PrunedBlock(0, {0: [1, 3], 2: [0, 1, 2]}, [0, 5, 7]),
    PrunedBlock(2, {1: [2]}, [23]),
)


@pytest.fixture
def built():
    torch.manual_seed(0)
    module = timm.create_model("potstill_vit", **ARGUMENTS).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return BuiltModel(module, "potstill_vit", ARGUMENTS, plain_preprocessing(image_size=8, channels=1))


@pytest.fixture
def images():
    return torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def zeroed(module):
    """The full model with all other parts multiplied by zero."""
    kept = {block.index: block for block in KEPT}
    for index, block in enumerate(module.blocks):
        values, hidden = torch.zeros(12), torch.zeros(24)
        if index in kept:
            for head, dims in kept[index].dims.items():
                values[[4 * head + dim for dim in dims]] = 1
            hidden[kept[index].hidden] = 1
        else:
            block.attn.proj.bias.data.zero_()
            block.mlp.fc2.bias.data.zero_()
        block.attn.proj.weight.data.mul_(values)
        block.mlp.fc2.weight.data.mul_(hidden)
    return module


def test_a_pruned_model_equals_the_full_one_with_zeros(built, images):
    smaller = prune(built, KEPT)

    with torch.no_grad():
        torch.testing.assert_close(smaller.module(images), zeroed(built.module)(images), rtol=1e-5, atol=1e-5)
    assert smaller.arguments["depth"] == 2
    assert not smaller.module.training


def test_the_arguments_build_the_same_model_again(built):
    smaller = prune(built, KEPT)

    again = timm.create_model(smaller.architecture, **smaller.arguments)
    again.load_state_dict(smaller.module.state_dict(), strict=True)


def test_computed_flops_equal_counted_flops(built, images):
    size = VitSize.from_module(built.module)
    smaller = prune(built, KEPT)
    blocks = [size.block_flops([len(dims) for dims in b.dims.values()], len(b.hidden)) for b in KEPT]

    assert size.outer_flops + 3 * sum(size.block_part_flops) == count_flops(built.module, images[:1])
    assert size.block_flops((4, 4, 4), 24) == sum(size.block_part_flops)
    assert size.outer_flops + sum(blocks) == count_flops(smaller.module, images[:1])


def test_importance_is_the_squared_column_norm():
    """Golden, of the official code: a weight (4, 6), three heads of two dimensions."""
    weight = torch.tensor(
        [
            [-1.12583983, -1.1523602, -0.25057858, -0.43387881, 0.84871036, 0.69200915],
            [-0.31601277, -2.11521935, 0.46809641, -0.15771244, 1.44366014, 0.26604941],
            [0.16645534, 0.87438184, -0.14347385, -0.11160933, 0.93182659, 1.25900924],
            [2.00498056, 0.0537369, 0.61805665, -0.41280222, -0.84106481, -2.31604195],
        ]
    )
    columns = squared_column_norms(weight)

    assert columns.tolist() == pytest.approx(
        [5.4150338, 6.5695181, 0.6844826, 0.3959863, 4.3801546, 7.4988136], rel=1e-5
    )
    assert columns.view(3, 2).sum(dim=1).tolist() == pytest.approx([11.9845524, 1.0804690, 11.8789682], rel=1e-5)
