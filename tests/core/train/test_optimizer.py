"""Parameter groups, steps of the optimizers and gradient clipping."""

import pytest
import timm
import torch
from torch import nn

from core.train.optimizer import (
    CONSTANT_RATE,
    build_optimizer,
    can_skip_steps,
    clip_gradients,
    gradient_norm,
    parameter_groups,
)


def names(module, group):
    names_by_id = {id(parameter): name for name, parameter in module.named_parameters()}
    return {names_by_id[id(parameter)] for parameter in group["params"]}


def test_norms_biases_tokens_and_positions_are_not_decayed():
    vit = timm.create_model(
        "deit_tiny_distilled_patch16_224", img_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=4
    )

    decayed, not_decayed = parameter_groups([vit], 0.05)

    assert (decayed["weight_decay"], not_decayed["weight_decay"]) == (0.05, 0.0)
    assert {"cls_token", "dist_token", "pos_embed", "norm.weight", "head.bias", "blocks.0.norm1.bias"} <= names(
        vit, not_decayed
    )
    assert {"head.weight", "head_dist.weight", "blocks.0.attn.qkv.weight", "patch_embed.proj.weight"} <= names(
        vit, decayed
    )
    assert len(names(vit, not_decayed)) + len(names(vit, decayed)) == len(list(vit.parameters()))


def test_a_swins_position_tables_are_not_decayed():
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, window_size=4, embed_dim=12, depths=(1, 1), num_heads=(1, 2)
    )

    _, not_decayed = parameter_groups([swin], 0.05)

    assert any(name.endswith("relative_position_bias_table") for name in names(swin, not_decayed))


def test_a_methods_modules_are_trained():
    student, method = nn.Linear(2, 2), nn.Linear(2, 3)

    groups = parameter_groups([student, method], 0.1)

    assert sum(len(group["params"]) for group in groups) == 4


def test_a_parameter_with_a_constant_rate_has_its_own_group():
    method = nn.Linear(2, 3)
    method.constant_rates = {"weight": 0.01}

    optimizer = build_optimizer([nn.Linear(2, 2), method], learning_rate=0.1, weight_decay=0.5)

    *others, group = optimizer.param_groups
    assert [parameter is method.weight for parameter in group["params"]] == [True]
    assert (group["lr"], group["weight_decay"], group[CONSTANT_RATE]) == (0.01, 0.0, 0.01)
    assert sum(len(other["params"]) for other in others) == 3
    assert all(CONSTANT_RATE not in other for other in others)


def test_a_constant_rate_survives_a_checkpoint():
    method = nn.Linear(2, 3)
    method.constant_rates = {"weight": 0.01}
    saved = build_optimizer([method], learning_rate=0.1, weight_decay=0.5).state_dict()

    optimizer = build_optimizer([method], learning_rate=0.1, weight_decay=0.5)
    optimizer.load_state_dict(saved)

    assert [group.get(CONSTANT_RATE) for group in optimizer.param_groups] == [None, 0.01]


def test_the_fused_step_equals_adamw():
    weight = nn.Linear(2, 1, bias=False)
    weight.weight.data = torch.tensor([[1.0, -1.0]])
    optimizer = build_optimizer([weight], learning_rate=0.1, weight_decay=0.5)
    weight.weight.grad = torch.tensor([[3.0, -2.0]])

    optimizer.step()

    torch.testing.assert_close(weight.weight.data, torch.tensor([[1.0 * 0.95 - 0.1, -1.0 * 0.95 + 0.1]]))


def test_clipping_scales_to_the_limit():
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    norm = gradient_norm(gradients)

    clip_gradients(gradients, norm, 1.0)

    assert norm.item() == pytest.approx(5.0)
    assert gradients[0][0].item() == pytest.approx(0.6, rel=1e-5)
    assert gradients[1].item() == pytest.approx(0.8, rel=1e-5)


def test_a_gradient_below_the_limit_is_unchanged():
    gradients = [torch.tensor([0.3, 0.4])]

    clip_gradients(gradients, gradient_norm(gradients), 1.0)

    assert gradients[0].tolist() == pytest.approx([0.3, 0.4])


def step_once(name, gradient, **options):
    """One step of an optimizer from the weights (1, −1)."""
    weight = nn.Linear(2, 1, bias=False)
    weight.weight.data = torch.tensor([[1.0, -1.0]])
    optimizer = build_optimizer([weight], name=name, **options)
    weight.weight.grad = torch.tensor([gradient])
    optimizer.step()
    return weight.weight.data, optimizer


def test_sgd_has_nesterov_momentum_and_adds_the_decay_to_the_gradient():
    weights, optimizer = step_once("sgd", [3.0, -2.0], learning_rate=0.1, weight_decay=0.5)

    # The first step moves by (1 + momentum) · gradient, the gradient with 0.5 · weight added.
    torch.testing.assert_close(weights, torch.tensor([[1.0 - 0.1 * 1.9 * 3.5, -1.0 + 0.1 * 1.9 * 2.5]]))
    assert can_skip_steps(optimizer)


def test_lion_moves_by_the_sign_and_decays_the_weights():
    weights, optimizer = step_once("lion", [3.0, -2.0], learning_rate=0.1, weight_decay=0.5)

    torch.testing.assert_close(weights, torch.tensor([[1.0 * 0.95 - 0.1, -1.0 * 0.95 + 0.1]]))
    assert not can_skip_steps(optimizer)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion"])
def test_every_optimizer_gets_both_groups(name):
    optimizer = build_optimizer([nn.Linear(2, 2)], name=name, learning_rate=0.1, weight_decay=0.5)

    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
